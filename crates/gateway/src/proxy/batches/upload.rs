//! `POST /v1/files`: a file for a batch is stored as it comes. Any other one goes on to a provider, as it was sent.
//!
//! Which of the two it is may stand behind the file, so until that is known, it is stored and kept in memory too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use hyper::body::Incoming;
use keypool_core::store::NewFile;
use multer::{Constraints, Field, Multipart, SizeLimit};

use super::batch::checked_expiry;
use super::files::{BATCH, FileView, own};
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::jobs::FILE_PIECE;
use crate::proxy::inbound::{BodyReader, Caller, FILE_ID, ReceivedBody, UnreadBody};
use crate::proxy::own_answer::{json, limit_exceeded, new_id, note_write, store};

/// How long a file of a batch is kept, if the caller does not say.
const KEEP: Duration = Duration::from_secs(30 * 86_400);
/// The largest field beside the file, in bytes.
const MAX_FIELD: u64 = 8 * 1024;
/// What a form may have beside the file, in bytes.
const FORM: u64 = 64 * 1024;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 255;

/// Where an uploaded file is kept.
pub(in crate::proxy) enum Uploaded {
    Here(Response<Bytes>),
    /// At a provider, which gets this body; `None`: it was not read yet.
    ForProvider(Option<ReceivedBody>),
}

/// Takes an upload.
pub(in crate::proxy) async fn upload(
    gw: &Arc<Gateway>,
    parts: &Parts,
    unread: &mut UnreadBody,
    caller: &Caller,
) -> Result<Uploaded, GatewayError> {
    let settings = gw.snapshot().settings.clone();
    let content_type = parts.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let Some(boundary) = content_type.and_then(|text| multer::parse_boundary(text).ok()) else {
        // What is for a batch comes as a form.
        return Ok(Uploaded::ForProvider(None));
    };
    let begun = unread.begin(&parts.headers, settings.files.max_size + FORM);
    let mut body = begun.map_err(|error| match error.kind {
        Kind::RequestTooLarge => file_too_large(settings.files.max_size),
        _ => error,
    })?;
    let mut copy = BodyReader::of_part(gw, settings.server.max_request_body);
    let keeps_copy = AtomicBool::new(true);
    let taken = {
        let taking = Taking {
            body: &mut body,
            copy: &mut copy,
            keeps_copy: &keeps_copy,
        };
        let constraints = Constraints::new().size_limit(
            SizeLimit::new()
                .for_field("file", settings.files.max_size)
                .for_field("purpose", MAX_FIELD)
                .for_field("expires_after[anchor]", MAX_FIELD)
                .for_field("expires_after[seconds]", MAX_FIELD),
        );
        let form = Multipart::with_constraints(taking.stream(), boundary, constraints);
        Upload::new(gw, caller, &keeps_copy)?.take(form).await
    };
    match taken {
        Ok(Taken::ForBatch(id)) => {
            let file = own(gw, &id, caller).await?;
            Ok(Uploaded::Here(json(&FileView::of(&file))))
        }
        Ok(Taken::Other) if keeps_copy.load(Ordering::Relaxed) => {
            // What comes behind the form.
            copy.read(&mut body).await?;
            Ok(Uploaded::ForProvider(Some(copy.finish())))
        }
        Ok(Taken::Other) => {
            let limit = settings.server.max_request_body;
            let message = format!(
                "a file that is not for a batch may have at most {limit} bytes with its form (server.max_request_body)"
            );
            Err(GatewayError::new(Kind::RequestTooLarge, message))
        }
        Err(error) => {
            unread.give_back(body);
            Err(error)
        }
    }
}

/// The body as it comes, copied as long as it may have to go on.
struct Taking<'a> {
    body: &'a mut Incoming,
    copy: &'a mut BodyReader,
    keeps_copy: &'a AtomicBool,
}

impl<'a> Taking<'a> {
    fn stream(self) -> impl Stream<Item = Result<Bytes, GatewayError>> + Send + 'a {
        stream::try_unfold(self, async |taking: Taking<'a>| {
            let Some(data) = taking.copy.next_piece(taking.body).await? else {
                return Ok(None);
            };
            if taking.keeps_copy.load(Ordering::Relaxed)
                && taking.copy.add(data.clone()).await.is_err()
            {
                // It is too large to go on. If it is for a batch, that does not matter.
                taking.keeps_copy.store(false, Ordering::Relaxed);
                taking.copy.clear();
            }
            Ok(Some((data, taking)))
        })
    }
}

/// What was uploaded.
enum Taken {
    ForBatch(Arc<str>),
    Other,
}

/// The fields of a form that have come so far.
struct Upload<'a> {
    gw: &'a Arc<Gateway>,
    caller: &'a Caller,
    keeps_copy: &'a AtomicBool,
    id: Arc<str>,
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    /// Set once the file has begun.
    bytes: Option<u64>,
    is_complete: bool,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.bytes.is_none() || self.is_complete {
            return;
        }
        let (gw, id) = (Arc::clone(self.gw), Arc::clone(&self.id));
        self.gw.tasks.spawn(async move {
            // If that fails, it is deleted later.
            if let Ok(store) = gw.stored.store() {
                let _ = store.delete_file(&id).await;
            }
        });
    }
}

impl<'a> Upload<'a> {
    fn new(
        gw: &'a Arc<Gateway>,
        caller: &'a Caller,
        keeps_copy: &'a AtomicBool,
    ) -> Result<Self, GatewayError> {
        Ok(Self {
            gw,
            caller,
            keeps_copy,
            id: new_id(FILE_ID)?,
            purpose: None,
            anchor: None,
            seconds: None,
            bytes: None,
            is_complete: false,
        })
    }

    async fn take(mut self, mut form: Multipart<'_>) -> Result<Taken, GatewayError> {
        let taken = self.take_fields(&mut form).await;
        // An upload that came to nothing is deleted when this is dropped, also if the client leaves.
        self.is_complete = matches!(taken, Ok(Taken::ForBatch(_)));
        taken
    }

    async fn take_fields(&mut self, form: &mut Multipart<'_>) -> Result<Taken, GatewayError> {
        while let Some(field) = form.next_field().await.map_err(form_error)? {
            match field.name().unwrap_or_default() {
                "file" if self.is_for_provider() => skip(field).await?,
                "file" => self.take_file(field).await?,
                "purpose" => {
                    self.purpose = Some(text(field).await?);
                    if self.purpose.as_deref() == Some(BATCH) {
                        self.keeps_copy.store(false, Ordering::Relaxed);
                    }
                }
                "expires_after[anchor]" => self.anchor = Some(text(field).await?),
                "expires_after[seconds]" => self.seconds = Some(text(field).await?),
                _ => skip(field).await?,
            }
        }
        self.finish().await
    }

    fn is_for_provider(&self) -> bool {
        self.purpose
            .as_deref()
            .is_some_and(|purpose| purpose != BATCH)
    }

    async fn take_file(&mut self, mut field: Field<'_>) -> Result<(), GatewayError> {
        if self.bytes.is_some() {
            return Err(GatewayError::invalid_request(
                "the form has more than one `file`",
            ));
        }
        let name: String = field.file_name().unwrap_or("file.jsonl").to_owned();
        let name = &name[..name.floor_char_boundary(MAX_NAME)];
        let new = NewFile {
            id: Arc::clone(&self.id),
            caller: self.caller.owner(),
            filename: name.to_owned(),
            purpose: BATCH.to_owned(),
            keep: KEEP,
        };
        self.bytes = Some(0);
        note_write(self.gw, store(self.gw)?.begin_file(&new).await)?;
        let (mut held, mut pieces, mut bytes) = (BytesMut::new(), 0_u32, 0_u64);
        let size = usize::try_from(FILE_PIECE).unwrap_or(usize::MAX);
        while let Some(chunk) = field.chunk().await.map_err(form_error)? {
            bytes += chunk.len() as u64;
            held.extend_from_slice(&chunk);
            while held.len() >= size {
                self.store(pieces, held.split_to(size).freeze()).await?;
                pieces += 1;
            }
        }
        if !held.is_empty() {
            self.store(pieces, held.freeze()).await?;
        }
        self.bytes = Some(bytes);
        Ok(())
    }

    async fn store(&self, number: u32, piece: Bytes) -> Result<(), GatewayError> {
        let stored = store(self.gw)?
            .add_file_piece(&self.id, number, piece)
            .await;
        note_write(self.gw, stored)
    }

    async fn finish(&self) -> Result<Taken, GatewayError> {
        let store = store(self.gw)?;
        let Some(purpose) = &self.purpose else {
            return Err(GatewayError::invalid_request(
                "the form has no `purpose`: it is \"batch\" for the input of a batch",
            ));
        };
        if purpose != BATCH {
            return Ok(Taken::Other);
        }
        let Some(bytes) = self.bytes else {
            return Err(GatewayError::invalid_request("the form has no `file`"));
        };
        let limits = self.gw.snapshot().settings.jobs.limits;
        let completed = store
            .complete_file(&self.id, bytes, self.keep()?, &limits)
            .await;
        match note_write(self.gw, completed)? {
            None => Ok(Taken::ForBatch(Arc::clone(&self.id))),
            Some(limit) => Err(limit_exceeded(limit)),
        }
    }

    /// How long the file is kept, if the caller says.
    fn keep(&self) -> Result<Option<Duration>, GatewayError> {
        match (&self.anchor, &self.seconds) {
            (None, None) => Ok(None),
            (anchor, seconds) => {
                let anchor = anchor.as_deref().unwrap_or_default();
                let seconds = seconds.as_deref().and_then(|text| text.parse().ok());
                checked_expiry("expires_after", anchor, seconds.unwrap_or(0)).map(Some)
            }
        }
    }
}

async fn text(field: Field<'_>) -> Result<String, GatewayError> {
    field.text().await.map_err(form_error)
}

async fn skip(mut field: Field<'_>) -> Result<(), GatewayError> {
    while field.chunk().await.map_err(form_error)?.is_some() {}
    Ok(())
}

fn file_too_large(limit: u64) -> GatewayError {
    let message = format!("the file has more than {limit} bytes (files.max_size): divide it");
    GatewayError::new(Kind::RequestTooLarge, message)
}

fn form_error(error: multer::Error) -> GatewayError {
    match error {
        multer::Error::StreamReadFailed(inner) => match inner.downcast::<GatewayError>() {
            Ok(error) => *error,
            Err(_) => GatewayError::invalid_request("the form broke off"),
        },
        multer::Error::FieldSizeExceeded { limit, field_name } => match field_name.as_deref() {
            Some("file") | None => file_too_large(limit),
            Some(name) => {
                let message = format!("the field `{name}` has more than {limit} bytes");
                GatewayError::invalid_request(message)
            }
        },
        error => GatewayError::invalid_request(format!("the form cannot be read: {error}")),
    }
}
