//! Reading a call: its body within bounds, and the few fields that matter.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use keypool_core::pool::Member;
use keypool_providers::form;
use keypool_providers::objects::{self, ObjectEffect};
use keypool_providers::peek::{self, PeekError};
use keypool_providers::protocol::{self, Endpoint, ModelIn, Protocol, Repeat};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::endpoint::MatchedEndpoint;
use super::unread_body::UnreadBody;
use super::upload;
use crate::context::{BUDGET_UNIT, BUDGET_WAIT, Gateway};
use crate::error::{GatewayError, Kind};
use crate::snapshot::Snapshot;
use crate::upstream::RequestBody;

/// A client that sends nothing of its body for so long is answered 408.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// From then on a body must have come at `BODY_RATE` bytes/s at least, or it is 408 too.
const BODY_GRACE: Duration = Duration::from_secs(60);
const BODY_RATE: u64 = 16 * 1024;
/// So much of each body is not counted in the memory for bodies, …
const BUDGET_FREE: u64 = 64 * 1024;
/// … which is drawn in steps of so many bytes.
const BUDGET_STEP: u64 = 1 << 20;
/// The longest model name.
const MAX_MODEL: usize = 256;
/// What stands for itself in a path segment (RFC 3986 §3.3, `pchar`).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@');

/// A request, read.
pub(super) struct Call<'a> {
    pub(super) protocol: Protocol,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Option<String>,
    pub(super) body: Bytes,
    /// The client asked for a stream.
    pub(super) stream: bool,
    /// May be sent again when its fate is unknown.
    pub(super) repeatable: bool,
    /// An error inside a 200 is classed by its content.
    pub(super) generates: bool,
    /// What its answer tells of objects that the provider keeps.
    pub(super) tells: Option<ObjectEffect>,
    /// What else the body says of itself.
    pub(super) peeked: peek::Peek,
    pub(super) path: &'a str,
    /// As the client sent it, the pool's name included.
    pub(super) uri: &'a Uri,
    model: Option<NamedModel>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// The model as the client named it, and where.
struct NamedModel {
    name: String,
    at: ModelAt,
}

enum ModelAt {
    Body(Range<usize>),
    Form(Range<usize>),
    Path(Range<usize>),
}

/// What path and body say of the call.
#[derive(Default)]
struct Peeked {
    model: Option<NamedModel>,
    stream: bool,
    store: Option<bool>,
    /// What else a JSON body says.
    rest: peek::Peek,
}

impl<'a> Call<'a> {
    pub(super) async fn read(
        gw: &Arc<Gateway>,
        snapshot: &Snapshot,
        target: &'a MatchedEndpoint<'_>,
        parts: &'a Parts,
        unread: &mut UnreadBody,
    ) -> Result<Self, GatewayError> {
        let limit = snapshot.settings.server.max_request_body;
        let (body, memory) = read_body(gw, &parts.headers, limit, unread).await?;
        let endpoint = target.endpoint.as_ref();
        let peeked = match endpoint {
            Some(endpoint) if !endpoint.native => {
                Peeked::read(endpoint, &target.path, &parts.headers, &body)?
            }
            _ => {
                if upload::goes_on_with(target.protocol, &target.path, parts.uri.query()).is_none()
                {
                    check_native(&parts.headers, &body)?;
                }
                Peeked::default()
            }
        };
        let repeatable = match endpoint.map(|endpoint| endpoint.repeat) {
            // A stored answer is an object; where it is not stored by itself, it must be asked for.
            Some(Repeat::Safe) => peeked.store != Some(true),
            Some(Repeat::Never) => false,
            Some(Repeat::NeverIfStored) => {
                peeked.store == Some(false) && !objects::makes_though_not_stored(&body)
            }
            None => matches!(parts.method, Method::GET | Method::HEAD),
        };
        // Those that make nothing do not pay for the question.
        let may_tell = endpoint.is_none_or(|endpoint| endpoint.repeat != Repeat::Safe)
            || peeked.store == Some(true);
        let tells = may_tell
            .then(|| {
                objects::object_effect(target.protocol, &parts.method, &target.path, peeked.store)
            })
            .flatten();
        Ok(Self {
            protocol: target.protocol,
            method: &parts.method,
            headers: &parts.headers,
            query: parts
                .uri
                .query()
                .map(|query| protocol::without_key(query).into_owned())
                .filter(|query| !query.is_empty()),
            body,
            stream: peeked.stream || endpoint.is_some_and(|endpoint| endpoint.stream_by_path),
            repeatable,
            generates: endpoint.is_some_and(|endpoint| endpoint.generates)
                && parts.method == Method::POST,
            tells,
            model: peeked.model,
            peeked: peeked.rest,
            path: &target.path,
            uri: &parts.uri,
            _memory: memory,
        })
    }

    /// The path for a key's provider, with the key's or route's model in index of the client's where it stands there.
    pub(super) fn path_for(&self, model: &str) -> Cow<'a, str> {
        match &self.model {
            Some(NamedModel {
                name,
                at: ModelAt::Path(range),
            }) if name != model => {
                let encoded = utf8_percent_encode(model, PATH_SEGMENT);
                let (before, after) = (&self.path[..range.start], &self.path[range.end..]);
                Cow::Owned(format!("{before}{encoded}{after}"))
            }
            _ => Cow::Borrowed(self.path),
        }
    }

    /// The body for a key, with its model in index of the client's; all other bytes as they came.
    pub(super) fn body_for(&self, member: &Member, model: &str) -> RequestBody {
        match &self.model {
            Some(NamedModel {
                name,
                at: ModelAt::Body(range),
            }) if name != model && (member.model.is_some() || !model.is_empty()) => {
                RequestBody::new(peek::splice(&self.body, range, model))
            }
            Some(NamedModel {
                name,
                at: ModelAt::Form(range),
            }) if name != model && (member.model.is_some() || !model.is_empty()) => {
                RequestBody::new([
                    self.body.slice(..range.start),
                    Bytes::copy_from_slice(model.as_bytes()),
                    self.body.slice(range.end..),
                ])
            }
            _ => RequestBody::new([self.body.clone()]),
        }
    }

    /// The model as the client named it; `None` where the call names none.
    pub(super) fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }
}

impl Peeked {
    fn read(
        endpoint: &Endpoint,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Self, GatewayError> {
        let mut peeked = match endpoint.model {
            ModelIn::Form | ModelIn::OptionalForm => Self::of_form(headers, body)?,
            _ if endpoint.json => Self::of_json(headers, body)?,
            _ => Self::default(),
        };
        let needed = match &endpoint.model {
            ModelIn::Path(range) => {
                peeked.model = Some(model_in_path(path, range)?);
                false
            }
            ModelIn::Nowhere => {
                peeked.model = None;
                false
            }
            ModelIn::OptionalBody | ModelIn::OptionalForm => false,
            ModelIn::Body | ModelIn::Form => true,
        };
        match &peeked.model {
            None if needed && endpoint.json => {
                Err(invalid("the body has no \"model\": name the model to call"))
            }
            None if needed => Err(invalid(
                "the form has no field \"model\": name the model to call",
            )),
            Some(model) if model.name.is_empty() || model.name.len() > MAX_MODEL => {
                Err(invalid("the model's name is empty or too long"))
            }
            _ => Ok(peeked),
        }
    }

    fn of_json(headers: &HeaderMap, body: &Bytes) -> Result<Self, GatewayError> {
        check_readable(headers)?;
        let mut rest = peek::peek(body).map_err(|error| match error {
            PeekError::NotJson(_) if body.is_empty() => {
                invalid("the body is empty: send a JSON object")
            }
            error => invalid(&error.to_string()),
        })?;
        Ok(Self {
            model: rest.model.take().map(|model| NamedModel {
                name: model.name,
                at: ModelAt::Body(model.range),
            }),
            stream: rest.stream,
            store: rest.store,
            rest,
        })
    }

    fn of_form(headers: &HeaderMap, body: &Bytes) -> Result<Self, GatewayError> {
        check_readable(headers)?;
        let content_type = headers
            .get(CONTENT_TYPE)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let form = form::peek(content_type, body).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self {
            model: form.model.map(|model| NamedModel {
                name: model.name,
                at: ModelAt::Form(model.range),
            }),
            stream: form.stream,
            ..Self::default()
        })
    }
}

fn model_in_path(path: &str, range: &Range<usize>) -> Result<NamedModel, GatewayError> {
    let name = percent_decode_str(&path[range.clone()])
        .decode_utf8()
        .map_err(|_| invalid("the model's name in the path is not UTF-8"))?;
    Ok(NamedModel {
        name: name.into_owned(),
        at: ModelAt::Path(range.clone()),
    })
}

/// Every line of these headers is passed on, and nobody knows which of several the provider goes by.
fn check_readable(headers: &HeaderMap) -> Result<(), GatewayError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(invalid(
            "the body is compressed, and what it names cannot be read: send it without Content-Encoding",
        ));
    }
    if headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(invalid(
            "there is more than one Content-Type, and what the body names cannot be read: send one",
        ));
    }
    Ok(())
}

/// Objects that a native call names must be seen, whoever made them.
fn check_native(headers: &HeaderMap, body: &[u8]) -> Result<(), GatewayError> {
    if body.is_empty() {
        return Ok(());
    }
    check_readable(headers)?;
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = media_type.is_none_or(|media| {
        media
            .to_ascii_lowercase()
            .windows(4)
            .any(|part| part == b"json")
    });
    // UTF-16 and UTF-32 show by zeros, which stand in no JSON text.
    if is_json && (body.contains(&0) || std::str::from_utf8(body).is_err()) {
        return Err(invalid("the body is not UTF-8: send JSON as UTF-8"));
    }
    Ok(())
}

fn invalid(message: &str) -> GatewayError {
    GatewayError::new(Kind::InvalidRequest, message)
}

/// Reads the whole body, within the limit, the time and the gateway's memory for bodies.
async fn read_body(
    gw: &Arc<Gateway>,
    headers: &HeaderMap,
    limit: u64,
    unread: &mut UnreadBody,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), GatewayError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let Some(mut body) = unread.take().filter(|body| !body.is_end_stream()) else {
        return Ok((Bytes::new(), None));
    };
    let mut upload = Upload::begin(gw, announced, limit);
    match upload.read(&mut body).await {
        Ok(()) => Ok(upload.finish()),
        Err(error) => {
            unread.put_back(body);
            Err(error)
        }
    }
}

/// A body on its way in. It draws on the gateway's memory for bodies as it comes, not for what it may become.
struct Upload<'a> {
    gw: &'a Arc<Gateway>,
    began: Instant,
    announced: usize,
    limit: u64,
    /// A small body is one piece, and is not copied.
    first: Option<Bytes>,
    all: BytesMut,
    length: u64,
    memory: Option<OwnedSemaphorePermit>,
}

impl<'a> Upload<'a> {
    fn begin(gw: &'a Arc<Gateway>, announced: Option<u64>, limit: u64) -> Self {
        Self {
            gw,
            began: gw.clock.now(),
            announced: announced
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(0),
            limit,
            first: None,
            all: BytesMut::new(),
            length: 0,
            memory: None,
        }
    }

    async fn read(&mut self, body: &mut Incoming) -> Result<(), GatewayError> {
        loop {
            let frame = match timeout(BODY_IDLE, body.frame()).await {
                Err(_) => return Err(too_slow()),
                Ok(None) => return Ok(()),
                Ok(Some(Err(_))) => {
                    return Err(invalid("the request body broke off or is not valid HTTP"));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                self.take(data).await?;
            }
        }
    }

    async fn take(&mut self, data: Bytes) -> Result<(), GatewayError> {
        self.length += data.len() as u64;
        if self.length > self.limit {
            return Err(too_large(self.limit));
        }
        let took = self.gw.clock.now().saturating_duration_since(self.began);
        if took > BODY_GRACE + Duration::from_secs(self.length / BODY_RATE) {
            return Err(too_slow());
        }
        self.draw_memory().await?;
        match self.first.take() {
            None if self.all.is_empty() => self.first = Some(data),
            held => {
                if self.all.is_empty() {
                    self.all.reserve(self.announced.max(data.len()));
                }
                self.all
                    .extend_from_slice(held.as_deref().unwrap_or_default());
                self.all.extend_from_slice(&data);
            }
        }
        Ok(())
    }

    /// Keeps what is drawn ahead of what has come, by a step at a time.
    async fn draw_memory(&mut self) -> Result<(), GatewayError> {
        let drawn = self
            .memory
            .as_ref()
            .map_or(0, |memory| memory.num_permits() as u64 * BUDGET_UNIT);
        if self.length <= drawn + BUDGET_FREE {
            return Ok(());
        }
        let units = u32::try_from(BUDGET_STEP / BUDGET_UNIT).unwrap_or(1);
        let acquiring = Arc::clone(&self.gw.body_budget).acquire_many_owned(units);
        let Ok(Ok(more)) = timeout(BUDGET_WAIT, acquiring).await else {
            let message = "too many large requests at once: try again in a moment";
            return Err(GatewayError {
                retry_after: Some(Duration::from_secs(1)),
                ..GatewayError::new(Kind::QueueFull, message)
            });
        };
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            None => self.memory = Some(more),
        }
        Ok(())
    }

    fn finish(self) -> (Bytes, Option<OwnedSemaphorePermit>) {
        let body = self.first.unwrap_or_else(|| self.all.freeze());
        (body, self.memory)
    }
}

fn too_slow() -> GatewayError {
    let message = format!(
        "the request body came too slowly: nothing for {} s, or less than {BODY_RATE} bytes/s",
        BODY_IDLE.as_secs()
    );
    GatewayError::new(Kind::RequestTimeout, message)
}

fn too_large(limit: u64) -> GatewayError {
    let message =
        format!("the request body is larger than {limit} bytes (server.max_request_body)");
    GatewayError::new(Kind::RequestTooLarge, message)
}
