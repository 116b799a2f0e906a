//! One attempt: the call sent in the key's form, the beginning of the response read, and what it means.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use keypool_core::fault::Class;
use keypool_core::pool::Lease;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::protocol;
use keypool_providers::sse::{FirstEvent, FirstEventScanner, event_data};
use tokio::time::timeout_at;

use super::attempts::RequestTime;
use super::forward_proxy;
use super::response::{AttemptResult, Failure, UpstreamResponse};
use crate::context::Gateway;
use crate::prebuilt_headers::KeyHeaders;
use crate::proxy::headers::{announced_length, forwarded, may_have_body};
use crate::proxy::inbound::Call;
use crate::proxy::routing::PoolTarget;
use crate::telemetry::redact;
use crate::upstream::{ErrorKind, UpstreamBody, UpstreamError, UpstreamRequest};

/// Maximum number of bytes of a response that are inspected before it is relayed.
const MAX_INSPECTED: usize = 64 * 1024;
/// How long the beginning of a stream is held from its first byte on, if its first event is not complete.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// A deadline beyond every other one: only the idle timeout counts.
const FAR: Duration = Duration::from_secs(86_400);
/// Maximum number of bytes of an error's body that are kept while other keys are tried.
const MAX_ERROR: usize = 1 << 20;
/// How long the body of an error may take.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a provider's words that are logged as the reason of a failure.
const MAX_REASON: usize = 2000;

/// Sends the call with the key of `lease`, and reads its response so far that it is known what it means.
pub(crate) async fn send(
    gw: &Gateway,
    call: &Call<'_>,
    target: &PoolTarget,
    lease: &Lease,
    request: RequestTime,
) -> AttemptResult {
    let deadline = request.deadline;
    let timeouts = lease.keys().settings().timeouts;
    let began = gw.clock.now();
    let first_byte_by = if call.wants_stream {
        deadline.min(began + timeouts.first_byte)
    } else {
        deadline
    };
    let limit = first_byte_by.saturating_duration_since(began);
    let time = AttemptTime {
        first_byte_by,
        limit,
        is_remainder: first_byte_by == deadline && limit * 2 < request.total,
        deadline,
        idle: timeouts.idle,
    };
    let build = || build_request(call, target, lease);
    let (base_url, proxy) = (&lease.member().base_url, lease.member().proxy.as_ref());
    let sending = gw
        .upstream
        .send(base_url, proxy, &build, timeouts.connect, call.repeatable);
    let response = match timeout_at(first_byte_by.into(), sending).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let blames_key = !error.is_local();
            return AttemptResult::Failed(Failure::NoResponse { error, blames_key });
        }
        Err(_) => return time.out(),
    };
    let secret = lease.member().key.secret.expose();
    if let Some(error) = forward_proxy::response_of_proxy(&response, base_url, proxy, secret) {
        return no_response(error);
    }
    let reader = ResponseReader {
        gw,
        call,
        target,
        lease,
        time,
    };
    reader.read(response).await
}

/// The request as this key's provider takes it. `None` if the configuration allowed a value that no request can carry.
fn build_request<'a>(
    call: &'a Call<'_>,
    target: &'a PoolTarget,
    lease: &'a Lease,
) -> Option<UpstreamRequest<'a>> {
    let (entry, member, protocol) = (&target.entry, lease.member(), call.protocol());
    let model = if target.model.is_empty() {
        &target.model
    } else {
        lease.model()
    };
    let key = KeyHeaders::of(member)?;
    let path = entry.upstream_path_and_query(
        member,
        protocol,
        &call.path_for(model),
        call.query.as_deref(),
    );
    let mut headers = forwarded(call.headers, entry.dialect);
    headers.push(key.credential(protocol)?);
    let body = call.body_for(member, model);
    UpstreamRequest::new(call.method, path, key.host.as_ref()?, headers, body)
}

/// The time that an attempt has.
struct AttemptTime {
    /// When the head of the response must be there, and the first byte of an event stream.
    first_byte_by: Instant,
    /// Time from the beginning of the attempt until then.
    limit: Duration,
    /// The deadline of the request.
    deadline: Instant,
    /// `limit` is less than half of the request's whole time: earlier attempts and waits used up the rest.
    is_remainder: bool,
    /// Longest time between two pieces of the response.
    idle: Duration,
}

impl AttemptTime {
    /// No response in time. A key that had only a remainder of the time is not blamed.
    fn out(&self) -> AttemptResult {
        AttemptResult::Failed(Failure::NoResponse {
            error: UpstreamError::sent(ErrorKind::ResponseTimeout(self.limit)),
            blames_key: !self.is_remainder,
        })
    }
}

fn no_response(error: UpstreamError) -> AttemptResult {
    AttemptResult::Failed(Failure::NoResponse {
        error,
        blames_key: true,
    })
}

/// Reads the beginning of a response and decides what it means.
struct ResponseReader<'a> {
    gw: &'a Gateway,
    call: &'a Call<'a>,
    target: &'a PoolTarget,
    lease: &'a Lease,
    time: AttemptTime,
}

impl ResponseReader<'_> {
    async fn read(&self, response: Response<UpstreamBody>) -> AttemptResult {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        let mut response = UpstreamResponse::new(parts, body);
        if status.is_client_error() || status.is_server_error() {
            let until = self.gw.clock.now() + ERROR_BODY_TIMEOUT;
            let until = until.min(self.time.deadline);
            if self.fill(&mut response, MAX_ERROR, until).await.is_err() {
                // What came of the body is enough to classify it, and for the client.
                response = response.detached();
            }
            let body = response.read_bytes();
            return self.classify(response, status.as_u16(), &body);
        }
        let is_inspected = self.call.generates || self.call.object_effect.is_some();
        if !is_inspected || !status.is_success() || !may_have_body(status) {
            return AttemptResult::Response(response);
        }
        if is_event_stream(&response) {
            return self.read_first_event(response).await;
        }
        let is_long = announced_length(&response.parts.headers)
            .is_some_and(|length| length > MAX_INSPECTED as u64);
        // The id of a new object is at the beginning, however long the response is.
        if !is_json(&response) || (is_long && self.call.object_effect.is_none()) {
            return AttemptResult::Response(response);
        }
        if self.call.wants_stream {
            // Boxed, like everything rarely needed: it would make every request larger.
            return Box::pin(self.read_json_stream(response)).await;
        }
        self.read_small(response).await
    }

    /// A stream as a JSON array, which one protocol sends unless an event stream is requested. Only what begins like an
    /// error is held.
    async fn read_json_stream(&self, mut response: UpstreamResponse) -> AttemptResult {
        let far = self.gw.clock.now() + FAR;
        let mut beginning = Vec::new();
        while response.rest.is_some() && response.length <= MAX_INSPECTED {
            let known = response.length;
            if let Err(error) = self.fill_one(&mut response, far).await {
                return no_response(error);
            }
            // Without white space: a provider may send any amount of it, byte by byte.
            let new = response.read_from(known);
            beginning.extend(new.filter(|byte| !byte.is_ascii_whitespace()));
            match begins_like_error(&beginning) {
                Some(true) => return self.read_small(response).await,
                Some(false) => break,
                None => {}
            }
        }
        AttemptResult::Response(response)
    }

    /// A JSON response of at most 64 KiB is read completely, so that an error in it can still go to another key.
    async fn read_small(&self, mut response: UpstreamResponse) -> AttemptResult {
        let far = self.gw.clock.now() + FAR;
        if let Err(error) = self.fill(&mut response, MAX_INSPECTED, far).await {
            return no_response(error);
        }
        if response.rest.is_some() {
            return AttemptResult::Response(response);
        }
        let body = response.read_bytes();
        match protocol::error_in_body(&body) {
            Some(status) if self.call.generates => self.classify(response, status, &body),
            _ => AttemptResult::Response(response),
        }
    }

    /// A stream is relayed from its first event on. If that is an error, another key can still serve.
    async fn read_first_event(&self, mut response: UpstreamResponse) -> AttemptResult {
        let mut until = self.time.first_byte_by;
        let mut scanner = FirstEventScanner::default();
        let mut read = BytesMut::new();
        while let Some(body) = response.rest.as_mut() {
            let coming = async {
                yield_and_check_deadline(until).await?;
                timeout_at(until.into(), body.frame()).await.map_err(drop)
            };
            match coming.await {
                Err(()) if read.is_empty() => return self.time.out(),
                Err(()) => break,
                Ok(None) => response.rest = None,
                Ok(Some(Err(error))) => {
                    return no_response(UpstreamError::sent(ErrorKind::ResponseBroke(error)));
                }
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if read.is_empty() {
                        until = until.min(self.gw.clock.now() + MAX_HOLD);
                    }
                    read.extend_from_slice(&data);
                    if let FirstEvent::Event(range) = scanner.find(&read) {
                        return self.inspect_first_event(response, read.freeze(), range);
                    }
                    if read.len() > MAX_INSPECTED {
                        break;
                    }
                }
            }
        }
        response.add(read.freeze());
        AttemptResult::Response(response)
    }

    fn inspect_first_event(
        &self,
        mut response: UpstreamResponse,
        read: Bytes,
        event: std::ops::Range<usize>,
    ) -> AttemptResult {
        let event = read.slice(event);
        response.add(read);
        match protocol::error_in_event(&event) {
            Some(status) if self.call.generates => {
                self.classify(response, status, &event_data(&event))
            }
            _ => AttemptResult::Response(response),
        }
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
        yield_and_check_deadline(limit)
            .await
            .map_err(|()| timeout())?;
        match timeout_at(limit.into(), body.frame()).await {
            Err(_) => return Err(timeout()),
            Ok(None) => response.rest = None,
            Ok(Some(Err(error))) => {
                return Err(UpstreamError::sent(ErrorKind::ResponseBroke(error)));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    response.add(piece);
                }
            }
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
        if !fault.class.allows_failover() {
            response.class = Class::CallerFault;
            return AttemptResult::Response(response);
        }
        let words = String::from_utf8_lossy(&body[..body.len().min(MAX_REASON)]);
        let reason = redact(words.trim(), self.lease.member().key.secret.expose());
        AttemptResult::Failed(Failure::Response {
            fault,
            response: Box::new(response),
            reason,
        })
    }
}

/// Yields when the coop budget is used up, so an always-ready body cannot starve other tasks; and checks the deadline,
/// which `timeout_at` never does while its future is ready.
async fn yield_and_check_deadline(until: Instant) -> Result<(), ()> {
    tokio::task::coop::consume_budget().await;
    if tokio::time::Instant::now() >= until.into() {
        return Err(());
    }
    Ok(())
}

/// Whether a JSON text without white space begins with an object (alone or in an array) whose first key is `error`.
/// `None`: too short to tell.
fn begins_like_error(text: &[u8]) -> Option<bool> {
    let mut rest = text;
    for token in [&b"["[..], b"{", b"\"error\""] {
        match rest.strip_prefix(token) {
            Some(after) => rest = after,
            None if token == b"[" && !rest.is_empty() => {}
            None if token.starts_with(rest) => return None,
            None => return Some(false),
        }
    }
    Some(true)
}

fn content_type(response: &UpstreamResponse) -> &[u8] {
    let value = response.parts.headers.get(CONTENT_TYPE);
    let mut parts = value
        .map_or(&b""[..], HeaderValue::as_bytes)
        .split(|byte| *byte == b';');
    parts.next().unwrap_or_default().trim_ascii()
}

pub(crate) fn is_event_stream(response: &UpstreamResponse) -> bool {
    response.parts.status == StatusCode::OK
        && content_type(response).eq_ignore_ascii_case(b"text/event-stream")
}

fn is_json(response: &UpstreamResponse) -> bool {
    content_type(response).eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_json_stream_shows_whether_it_is_an_error() {
        for (text, expect) in [
            ("", None),
            ("[", None),
            ("[{", None),
            ("[{\"err", None),
            ("[{\"error\"", Some(true)),
            ("{\"error\":", Some(true)),
            ("[{\"candidates\"", Some(false)),
            ("[{\"c", Some(false)),
            ("[]", Some(false)),
            ("12", Some(false)),
        ] {
            assert_eq!(begins_like_error(text.as_bytes()), expect, "{text}");
        }
    }
}
