//! Reads the beginning of a provider's response, just far enough to decide what it means for the attempt.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use keypool_core::fault::Class;
use keypool_core::pool::Lease;
use keypool_providers::errors::{ErrorResponse, refusal_form};
use keypool_providers::protocol::Protocol;
use keypool_providers::response::{
    Beginning, BeginningReader, Coding, Expected, Media, StreamForm, readable,
};
use tokio::time::timeout_at;

use super::response::{AttemptResult, Failure, Refusal, UpstreamResponse, joined, no_response};
use super::time::AttemptTime;
use crate::context::Gateway;
use crate::proxy::headers::{announced_length, may_have_body};
use crate::proxy::inbound::Call;
use crate::proxy::routing::PoolTarget;
use crate::telemetry::redact;
use crate::upstream::{ConnectionError, ErrorKind, UpstreamBody, UpstreamError, content_encoding};

/// Maximum number of bytes of a response that are inspected before it is relayed.
const MAX_INSPECTED: usize = 64 * 1024;
/// How long a response is held from its first byte on, if it has no output yet.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// Maximum number of bytes of an error's body that are kept while other keys are tried.
const MAX_ERROR: usize = 1 << 20;
/// How long the body of an error may take.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a provider's words that are logged as the reason of a failure.
const MAX_REASON: usize = 2000;

/// Reads the beginning of a response and decides what it means.
pub(super) struct ResponseReader<'a> {
    pub(super) gw: &'a Gateway,
    pub(super) call: &'a Call<'a>,
    pub(super) target: &'a PoolTarget,
    pub(super) lease: &'a Lease,
    pub(super) time: AttemptTime,
}

impl ResponseReader<'_> {
    pub(super) async fn read(&self, response: Response<UpstreamBody>) -> AttemptResult {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        let mut response = UpstreamResponse::new(parts, body);
        if status.is_client_error() || status.is_server_error() {
            return self.read_error(response).await;
        }
        if status.is_redirection() {
            self.note_redirect(&response.parts.headers);
            // It is relayed, and it is no success.
            response.class = Class::CallerFault;
        }
        if !status.is_success() || !may_have_body(status) {
            return AttemptResult::Response(response);
        }
        if self.call.generates {
            return self.read_beginning(response).await;
        }
        let media = media_of(&response.parts.headers);
        let is_events = media == Media::Events && status == StatusCode::OK;
        response.stream_form = is_events.then_some(StreamForm::Events);
        // The id of a new object is at the beginning, however long the response is.
        if self.call.object_effect.is_some() && media == Media::Json {
            let deadline = self.time.deadline;
            if let Err(error) = self.fill(&mut response, MAX_INSPECTED, deadline).await {
                return no_response(error);
            }
        }
        AttemptResult::Response(response)
    }

    fn note_redirect(&self, headers: &HeaderMap) {
        let Some(location) = headers.get(LOCATION) else {
            return;
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let location = redact(&location, self.lease.member().key.secret.expose());
        let pool = &self.target.entry.pool;
        self.gw.telemetry.redirected(pool, &location);
    }

    async fn read_error(&self, mut response: UpstreamResponse) -> AttemptResult {
        let until = self.gw.clock.now() + ERROR_BODY_TIMEOUT;
        let until = until.min(self.time.deadline);
        if self.fill(&mut response, MAX_ERROR, until).await.is_err() {
            // What came of the body is enough to classify it, and for the client.
            response = response.detached();
        }
        let (status, body) = (response.parts.status.as_u16(), response.read_bytes());
        let body = readable(
            content_encoding(&response.parts.headers),
            &body,
            MAX_INSPECTED,
        )
        .into_owned();
        self.classify(response, status, &body)
    }

    /// A response is held until it has output. If it turns out to be an error, or to have nothing in it, another key can
    /// still serve.
    async fn read_beginning(&self, mut response: UpstreamResponse) -> AttemptResult {
        let headers = &response.parts.headers;
        let media = media_of(headers);
        let mut reader = BeginningReader::new(Expected {
            media,
            stream: self.call.wants_stream,
            may_be_text: self.call.path().starts_with("/v1/audio/"),
            holds_opening: !self.call.fields.background,
        });
        // A long body is no error, so only its first bytes are looked at; but its id may be needed.
        let is_long = announced_length(headers).is_some_and(|length| length > MAX_INSPECTED as u64);
        let limit = match is_long && self.call.object_effect.is_none() {
            true => 0,
            false => MAX_INSPECTED,
        };
        let mut held = Held::new(self.time.first_byte_by);
        let found = loop {
            let is_end = response.rest.is_none();
            match held.inspected(
                content_encoding(&response.parts.headers),
                is_end,
                &mut reader,
            ) {
                Beginning::Undecided if held.bytes.len() > limit => break Beginning::Undecided,
                Beginning::Undecided => {}
                found => break found,
            }
            match held.read_more(self, &mut response).await {
                Ok(true) => {}
                // The id of a new object must be read. A blank beginning only keeps the connection alive.
                Ok(false) if self.needs_id(&reader) && held.until < self.time.deadline => {
                    held.until = self.time.deadline;
                }
                Ok(false) => break Beginning::Undecided,
                Err(result) => return result,
            }
        };
        let is_undecided = found == Beginning::Undecided;
        let form = match reader.stream_form() {
            None if is_undecided && media == Media::Events => Some(StreamForm::Events),
            Some(StreamForm::List) if self.call.protocol() != Protocol::Gemini => None,
            form => form,
        };
        // Nothing can be added to a stream that is compressed.
        let is_plain = held.coding.is_none() && response.parts.status == StatusCode::OK;
        response.stream_form = form.filter(|_| is_plain);
        // What was held long enough may still turn out to be an error.
        response.is_watched = is_undecided && form.is_none() && is_plain && limit > 0;
        response.add(held.bytes);
        match found {
            Beginning::Error { status, body } => self.classify(response, status, &body),
            Beginning::Nothing(instead) => {
                no_response(UpstreamError::sent(ErrorKind::NoAnswer(instead)))
            }
            Beginning::Output | Beginning::Undecided => AttemptResult::Response(response),
        }
    }

    fn needs_id(&self, reader: &BeginningReader) -> bool {
        self.call.object_effect.is_some() && reader.is_json()
    }

    /// Reads the body up to `limit` bytes. If that was all of it, `rest` is `None` afterwards.
    async fn fill(
        &self,
        response: &mut UpstreamResponse,
        limit: usize,
        until: Instant,
    ) -> Result<(), UpstreamError> {
        while response.rest.is_some() && response.length <= limit {
            self.fill_one(response, until).await?;
        }
        Ok(())
    }

    /// Reads one more frame.
    async fn fill_one(
        &self,
        response: &mut UpstreamResponse,
        until: Instant,
    ) -> Result<(), UpstreamError> {
        let Some(body) = response.rest.as_mut() else {
            return Ok(());
        };
        let timeout = || UpstreamError::sent(ErrorKind::ResponseTimeout(self.time.idle));
        let limit = until.min(self.gw.clock.now() + self.time.idle);
        let frame = frame_by(body, limit).await.ok_or_else(timeout)?;
        let frame = frame.map_err(|error| UpstreamError::sent(ErrorKind::ResponseBroke(error)))?;
        match frame.map(Frame::into_data) {
            None => response.rest = None,
            Some(Ok(piece)) => response.add(piece),
            Some(Err(_trailers)) => {}
        }
        Ok(())
    }

    /// `status`: the response's own, or the one that an error inside a 200 implies.
    fn classify(&self, mut response: UpstreamResponse, status: u16, body: &[u8]) -> AttemptResult {
        let body = &body[..body.len().min(MAX_INSPECTED)];
        let error = ErrorResponse {
            status,
            headers: &response.parts.headers,
            body,
            now: self.gw.clock.wall(),
        };
        let fault = self.target.entry.dialect.judge(&error);
        let words = || {
            let words = String::from_utf8_lossy(&body[..body.len().min(MAX_REASON)]);
            redact(words.trim(), self.lease.member().key.secret.expose())
        };
        if !fault.class.allows_failover() {
            let may_be_unclear = self.call.generates && matches!(status, 400 | 403 | 404);
            let form = (may_be_unclear && !fault.is_recognized)
                .then(|| refusal_form(&error))
                .flatten();
            response.class = Class::CallerFault;
            return match form {
                Some(form) => AttemptResult::Unclear(Box::new(Refusal {
                    response,
                    form,
                    reason: words(),
                })),
                None => AttemptResult::Response(response),
            };
        }
        let reason = words();
        AttemptResult::Failed(Failure::Response {
            fault,
            response: Box::new(response),
            reason,
        })
    }
}

/// The beginning of a response, held until it is known what the response is.
struct Held {
    bytes: Bytes,
    /// How it is compressed, although it should not be.
    coding: Option<Coding>,
    /// Length of what was decoded last, in bytes as they came.
    decoded: usize,
    /// When it is relayed anyway; before the first byte, when that must be there.
    until: Instant,
}

impl Held {
    fn new(until: Instant) -> Self {
        Self {
            bytes: Bytes::new(),
            coding: None,
            decoded: 0,
            until,
        }
    }

    /// What `reader` finds in it.
    fn inspected(
        &mut self,
        content_encoding: &[u8],
        is_end: bool,
        reader: &mut BeginningReader,
    ) -> Beginning {
        self.coding = Coding::of(content_encoding, &self.bytes);
        let Some(coding) = self.coding else {
            return reader.read(&self.bytes, is_end);
        };
        // A body may come byte by byte, and is decoded from its beginning each time.
        let new = self.bytes.len() - self.decoded;
        if !is_end && (new == 0 || new * 16 < self.decoded) {
            return Beginning::Undecided;
        }
        self.decoded = self.bytes.len();
        match coding.decode(&self.bytes, MAX_INSPECTED) {
            // It is damaged or in a form of its own.
            nothing if nothing.is_empty() => reader.read(&self.bytes, is_end),
            decoded => reader.read(&decoded, is_end),
        }
    }

    /// Reads one more piece. `false`: it was held long enough.
    async fn read_more(
        &mut self,
        reader: &ResponseReader<'_>,
        response: &mut UpstreamResponse,
    ) -> Result<bool, AttemptResult> {
        let Some(body) = response.rest.as_mut() else {
            return Ok(true);
        };
        let idle = reader.gw.clock.now() + reader.time.idle;
        let waits_for_stream = self.bytes.is_empty() && reader.call.wants_stream;
        let is_idle = !waits_for_stream && idle < self.until;
        let until = if is_idle { idle } else { self.until };
        let frame = match frame_by(body, until).await {
            None if is_idle => {
                let timeout = ErrorKind::ResponseTimeout(reader.time.idle);
                return Err(no_response(UpstreamError::sent(timeout)));
            }
            None if self.bytes.is_empty() => return Err(reader.time.out()),
            None => return Ok(false),
            Some(frame) => frame,
        };
        let broke = |error| no_response(UpstreamError::sent(ErrorKind::ResponseBroke(error)));
        let frame = frame.map_err(broke)?;
        if body.is_end_stream() || frame.is_none() {
            response.rest = None;
        }
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            if self.bytes.is_empty() {
                self.until = self.until.min(reader.gw.clock.now() + MAX_HOLD);
            }
            self.bytes = joined(std::mem::take(&mut self.bytes), data);
        }
        Ok(true)
    }
}

fn media_of(headers: &HeaderMap) -> Media {
    let content_type = headers.get(CONTENT_TYPE);
    Media::of(content_type.map_or(&b""[..], HeaderValue::as_bytes))
}

/// The next frame of a body, or its end; `None` if the deadline passes first.
///
/// Yields when the coop budget is used up, so an always-ready body cannot starve other tasks; and checks the deadline,
/// which `timeout_at` never does while its future is ready.
async fn frame_by(
    body: &mut UpstreamBody,
    until: Instant,
) -> Option<Result<Option<Frame<Bytes>>, ConnectionError>> {
    tokio::task::coop::consume_budget().await;
    if tokio::time::Instant::now() >= until.into() {
        return None;
    }
    let frame = timeout_at(until.into(), body.frame()).await.ok()?;
    Some(frame.transpose())
}
