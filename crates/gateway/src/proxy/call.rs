//! Reading a call: its body within bounds, the few fields that matter, and the pool it goes to.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use keypool_core::pool::Member;
use keypool_providers::peek::{self, PeekError};
use keypool_providers::protocol::{self, ModelIn, Protocol, Repeat};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::auth::Caller;
use super::early::Unread;
use super::target::Target;
use crate::context::{BUDGET_UNIT, BUDGET_WAIT, Gateway};
use crate::error::{GatewayError, Kind};
use crate::snapshot::{NoRoute, PoolEntry, Snapshot};
use crate::upstream::Pieces;

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
    /// What else the body says of itself.
    pub(super) peeked: peek::Peek,
    model: Option<NamedModel>,
    path: &'a str,
    _memory: Option<OwnedSemaphorePermit>,
}

/// The model as the client named it, and where.
struct NamedModel {
    name: String,
    at: ModelAt,
}

enum ModelAt {
    Body(Range<usize>),
    Path(Range<usize>),
}

/// Where a call goes.
pub(super) struct Route {
    pub(super) entry: PoolEntry,
    /// The model as the pool's provider names it; empty where the call names none.
    pub(super) model: Arc<str>,
}

impl<'a> Call<'a> {
    pub(super) async fn read(
        gw: &Arc<Gateway>,
        snapshot: &Snapshot,
        target: &'a Target<'_>,
        parts: &'a Parts,
        unread: &mut Unread,
    ) -> Result<Self, GatewayError> {
        let limit = snapshot.settings.server.max_request_body;
        let (body, memory) = read_body(gw, &parts.headers, limit, unread).await?;
        let endpoint = target.endpoint.as_ref();
        let needs_json = endpoint.is_some_and(|endpoint| endpoint.json);
        let mut peeked = if needs_json {
            read_json(&parts.headers, &body)?
        } else {
            peek::Peek::default()
        };
        let (stored, body_stream) = (peeked.store != Some(false), peeked.stream);
        let model = match endpoint.map(|endpoint| &endpoint.model) {
            Some(ModelIn::Body) if peeked.model.is_none() => {
                return Err(invalid("the body has no \"model\": name the model to call"));
            }
            Some(ModelIn::Body | ModelIn::OptionalBody) => {
                peeked.model.take().map(|model| NamedModel {
                    name: model.name,
                    at: ModelAt::Body(model.range),
                })
            }
            Some(ModelIn::Path(range)) => Some(model_in_path(&target.path, range)?),
            Some(ModelIn::Form | ModelIn::Nowhere) | None => None,
        };
        if model
            .as_ref()
            .is_some_and(|model| model.name.is_empty() || model.name.len() > MAX_MODEL)
        {
            return Err(invalid("the model's name is empty or too long"));
        }
        let repeatable = match endpoint.map(|endpoint| endpoint.repeat) {
            Some(Repeat::Safe) => true,
            Some(Repeat::Never) => false,
            Some(Repeat::NeverIfStored) => !stored,
            None => matches!(parts.method, Method::GET | Method::HEAD),
        };
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
            stream: body_stream || endpoint.is_some_and(|endpoint| endpoint.stream_by_path),
            repeatable,
            generates: endpoint.is_some_and(|endpoint| endpoint.generates)
                && parts.method == Method::POST,
            model,
            peeked,
            path: &target.path,
            _memory: memory,
        })
    }

    /// The path for a key's provider, with the key's or route's model in place of the client's where it stands there.
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

    /// The body for a key, with its model in place of the client's; all other bytes as they came.
    pub(super) fn body_for(&self, member: &Member, model: &str) -> Pieces {
        match &self.model {
            Some(NamedModel {
                name,
                at: ModelAt::Body(range),
            }) if name != model && (member.model.is_some() || !model.is_empty()) => {
                Pieces::new(peek::splice(&self.body, range, model))
            }
            _ => Pieces::new([self.body.clone()]),
        }
    }

    fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }
}

impl Route {
    pub(super) fn find(
        snapshot: &Snapshot,
        target: &Target<'_>,
        call: &Call<'_>,
        caller: &Caller,
    ) -> Result<Self, GatewayError> {
        let named = call.model_name().unwrap_or_default();
        let (entry, model) = match target.pool {
            Some(entry) if caller.may_use_pool(entry) => {
                let prefix = format!("{}/", entry.pool.name());
                (entry, named.strip_prefix(&prefix).unwrap_or(named))
            }
            Some(entry) => return Err(pool_not_allowed(entry.pool.name())),
            None if call.model.is_none() => (first_pool(snapshot, target, caller)?, ""),
            None => {
                match snapshot.resolve(target.protocol, named, |entry| caller.may_use_pool(entry)) {
                    Ok(found) => found,
                    Err(NoRoute::NotAllowed) => return Err(model_not_allowed(named)),
                    Err(NoRoute::Unknown) => {
                        return Err(model_not_found(snapshot, target.protocol, named));
                    }
                }
            }
        };
        let may_use = caller.may_use_model(model) || caller.may_use_model(named);
        if call.model.is_some() && !may_use {
            return Err(model_not_allowed(named));
        }
        Ok(Self {
            entry: entry.clone(),
            model: model.into(),
        })
    }
}

fn first_pool<'a>(
    snapshot: &'a Snapshot,
    target: &Target<'_>,
    caller: &Caller,
) -> Result<&'a PoolEntry, GatewayError> {
    let first =
        |may_use: &dyn Fn(&PoolEntry) -> bool| snapshot.first_speaking(target.protocol, may_use);
    if let Some(entry) = first(&|entry| caller.may_use_pool(entry)) {
        return Ok(entry);
    }
    Err(match first(&|_| true) {
        Some(entry) => pool_not_allowed(entry.pool.name()),
        None => GatewayError::new(
            Kind::ModelNotFound,
            format!(
                "no pool serves {}: configure a pool of that provider",
                target.path
            ),
        ),
    })
}

fn pool_not_allowed(name: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use pool \"{name}\": ask for one that may"),
    )
}

fn model_not_allowed(model: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use model \"{model}\": ask for one that may"),
    )
}

fn model_not_found(snapshot: &Snapshot, protocol: Protocol, model: &str) -> GatewayError {
    let known = snapshot.known_models(protocol);
    let message = if snapshot
        .settings
        .pools
        .iter()
        .all(|pool| pool.keys.is_empty())
    {
        "no provider key is configured yet: set one in the environment, in .env or in keypool.toml"
            .to_owned()
    } else if known.is_empty() {
        format!("no pool serves model \"{model}\" by this protocol")
    } else {
        format!(
            "no pool serves model \"{model}\"; known here: {}",
            known.join(", ")
        )
    };
    GatewayError::new(Kind::ModelNotFound, message)
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

fn read_json(headers: &HeaderMap, body: &Bytes) -> Result<peek::Peek, GatewayError> {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(invalid(
            "the body is compressed, and its model cannot be read: send it without Content-Encoding",
        ));
    }
    peek::peek(body).map_err(|error| match error {
        PeekError::NotJson(_) if body.is_empty() => {
            invalid("the body is empty: send a JSON object")
        }
        error => invalid(&error.to_string()),
    })
}

fn invalid(message: &str) -> GatewayError {
    GatewayError::new(Kind::InvalidRequest, message)
}

/// Reads the whole body, within the limit, the time and the gateway's memory for bodies.
async fn read_body(
    gw: &Arc<Gateway>,
    headers: &HeaderMap,
    limit: u64,
    unread: &mut Unread,
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
