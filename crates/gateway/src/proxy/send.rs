//! One attempt: the call in the key's form, sent; the beginning of the answer read; what it means.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use keypool_core::fault::Class;
use keypool_core::pool::Lease;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::protocol;
use keypool_providers::sse::{Opening, OpeningScanner, event_data};
use tokio::time::timeout_at;

use super::call::Call;
use super::forward_proxy;
use super::headers::{forwarded, may_have_body};
use super::outgoing::Outgoing;
use super::response::{Answer, Failure, Reply, Trouble};
use super::route::PoolTarget;
use crate::context::Gateway;
use crate::telemetry::redact;
use crate::upstream::{UpstreamBody, UpstreamRequest};

/// So much of an answer is looked at before it is relayed.
const LOOK_AT: usize = 64 * 1024;
/// Blank lines and comments before a stream's first event are held for so long.
const HOLD_OPENING: Duration = Duration::from_secs(5);
/// No limit but the one between two bytes.
const FAR: Duration = Duration::from_secs(86_400);
/// So much of an error's body is kept while other keys are tried.
const MAX_ERROR: usize = 1 << 20;
/// The body of an error is waited for no longer.
const ERROR_BODY: Duration = Duration::from_secs(10);

pub(super) async fn send(
    gw: &Gateway,
    call: &Call<'_>,
    route: &PoolTarget,
    lease: &Lease,
    deadline: Instant,
) -> Reply {
    let timeouts = lease.pool().settings().timeouts;
    let began = gw.clock.now();
    let head_by = if call.stream {
        deadline.min(began + timeouts.first_byte)
    } else {
        deadline
    };
    let limit = head_by.saturating_duration_since(began);
    let time = Time {
        head_by,
        limit,
        cut_short: head_by == deadline && limit * 2 < timeouts.total,
        idle: timeouts.idle,
    };
    let request = || request(call, route, lease);
    let (base_url, proxy) = (&lease.member().base_url, lease.member().proxy.as_ref());
    let sending = gw
        .upstream
        .send(base_url, proxy, &request, timeouts.connect, call.repeatable);
    let answer = match timeout_at(head_by.into(), sending).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Reply::Failed(Failure::not_answered(&error, timeouts.connect)),
        Err(_) => return Reply::Failed(time.out()),
    };
    let secret = lease.member().key.secret().expose();
    if let Some(failure) = forward_proxy::refused(&answer, base_url, proxy, secret) {
        return Reply::Failed(failure);
    }
    let reader = Reader {
        gw,
        call,
        route,
        lease,
        time,
    };
    reader.read(answer).await
}

/// How long an attempt may take.
struct Time {
    head_by: Instant,
    limit: Duration,
    /// Others of the request left it less than half of the whole time.
    cut_short: bool,
    /// Between two bytes.
    idle: Duration,
}

impl Time {
    fn out(&self) -> Failure {
        let failure = Failure::no_response(Trouble::Timeout(self.limit), true);
        Failure {
            cut_short: self.cut_short,
            ..failure
        }
    }
}

/// The request as this key's provider takes it.
fn request<'a>(
    call: &'a Call<'_>,
    route: &'a PoolTarget,
    lease: &Lease,
) -> Option<UpstreamRequest<'a>> {
    let member = lease.member();
    let model = if route.model.is_empty() {
        &route.model
    } else {
        lease.model()
    };
    let outgoing = Outgoing {
        protocol: call.protocol,
        method: call.method,
        query: call.query.as_deref(),
        headers: forwarded(call.headers, route.entry.dialect),
        body: call.body_for(member, model),
    };
    outgoing.request_for(&call.path_for(model), &route.entry, lease.index())
}

/// Reads the beginning of an answer and says what it means.
struct Reader<'a> {
    gw: &'a Gateway,
    call: &'a Call<'a>,
    route: &'a PoolTarget,
    lease: &'a Lease,
    time: Time,
}

impl Reader<'_> {
    async fn read(&self, response: Response<UpstreamBody>) -> Reply {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        let mut answer = Answer::new(parts, body);
        if status.is_client_error() || status.is_server_error() {
            let until = self.gw.clock.now() + ERROR_BODY;
            if self.fill(&mut answer, MAX_ERROR, until).await.is_err() {
                // What came of the body is enough to class it by, and to finish the client.
                answer = answer.kept();
            }
            let body = answer.read_bytes();
            return self.classed(answer, status.as_u16(), &body);
        }
        let is_looked_at = self.call.generates || self.call.tells.is_some();
        if !is_looked_at || !status.is_success() || !may_have_body(status) {
            return Reply::Relay(answer, Class::Success);
        }
        if is_event_stream(&answer) {
            return self.read_opening(answer).await;
        }
        let is_long = announced(&answer).is_some_and(|length| length > LOOK_AT as u64);
        // The id of a new object stands at the beginning, however long its answer is.
        if !is_json(&answer) || (is_long && self.call.tells.is_none()) {
            return Reply::Relay(answer, Class::Success);
        }
        if self.call.stream {
            // Boxed, as all that is seldom needed: it would make every request larger.
            return Box::pin(self.read_json_stream(answer)).await;
        }
        self.read_small(answer).await
    }

    /// Gemini streams a JSON array where no event stream was asked for: only what begins like an error is held.
    async fn read_json_stream(&self, mut answer: Answer) -> Reply {
        let far = self.gw.clock.now() + FAR;
        let mut beginning = Vec::new();
        while answer.rest.is_some() && answer.read_length() <= LOOK_AT {
            let known = answer.read_length();
            if let Err(trouble) = self.fill_one(&mut answer, far).await {
                return Reply::Failed(Failure::no_response(trouble, true));
            }
            // Without white space: a provider may send any amount of it, in pieces of a byte.
            let new = answer.read_since(known);
            beginning.extend(new.filter(|byte| !byte.is_ascii_whitespace()));
            match begins_like_error(&beginning) {
                Some(true) => return self.read_small(answer).await,
                Some(false) => break,
                None => {}
            }
        }
        Reply::Relay(answer, Class::Success)
    }

    /// A JSON answer of at most 64 KiB is read as a whole: an error in it can still go to another key.
    async fn read_small(&self, mut answer: Answer) -> Reply {
        let far = self.gw.clock.now() + FAR;
        if let Err(trouble) = self.fill(&mut answer, LOOK_AT, far).await {
            return Reply::Failed(Failure::no_response(trouble, true));
        }
        if answer.rest.is_some() {
            return Reply::Relay(answer, Class::Success);
        }
        let body = answer.read_bytes();
        match protocol::error_in_body(&body) {
            Some(status) if self.call.generates => self.classed(answer, status, &body),
            _ => Reply::Relay(answer, Class::Success),
        }
    }

    /// A stream is relayed from its first event on; if that is an error, another key can still serve.
    async fn read_opening(&self, mut answer: Answer) -> Reply {
        let release_at = self.gw.clock.now() + HOLD_OPENING;
        let mut scanner = OpeningScanner::default();
        let mut read = BytesMut::new();
        while let Some(body) = answer.rest.as_mut() {
            let until = if read.is_empty() {
                self.time.head_by
            } else {
                release_at.min(self.time.head_by)
            };
            let coming = async {
                yield_and_check_deadline(until).await?;
                timeout_at(until.into(), body.frame()).await.map_err(drop)
            };
            match coming.await {
                Err(()) if read.is_empty() => {
                    return Reply::Failed(self.time.out());
                }
                Err(()) => break,
                Ok(None) => answer.rest = None,
                Ok(Some(Err(error))) => {
                    let trouble = Trouble::Unreachable(format!(
                        "the stream broke before its first event: {error}"
                    ));
                    return Reply::Failed(Failure::no_response(trouble, true));
                }
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    read.extend_from_slice(&data);
                    if let Opening::Event(range) = scanner.find(&read) {
                        return self.opened(answer, read.freeze(), range);
                    }
                    if read.len() > LOOK_AT {
                        break;
                    }
                }
            }
        }
        answer.add(read.freeze());
        Reply::Relay(answer, Class::Success)
    }

    fn opened(&self, mut answer: Answer, read: Bytes, event: std::ops::Range<usize>) -> Reply {
        let event = read.slice(event);
        answer.add(read);
        match protocol::error_in_event(&event) {
            Some(status) if self.call.generates => {
                self.classed(answer, status, &event_data(&event))
            }
            _ => Reply::Relay(answer, Class::Success),
        }
    }

    /// Reads the body up to `most` bytes; `rest` is `None` afterwards if that was all of it.
    async fn fill(&self, answer: &mut Answer, most: usize, until: Instant) -> Result<(), Trouble> {
        while answer.rest.is_some() && answer.read_length() <= most {
            self.fill_one(answer, until).await?;
        }
        Ok(())
    }

    /// Reads one frame more.
    async fn fill_one(&self, answer: &mut Answer, until: Instant) -> Result<(), Trouble> {
        let Some(body) = answer.rest.as_mut() else {
            return Ok(());
        };
        let limit = until.min(self.gw.clock.now() + self.time.idle);
        yield_and_check_deadline(limit)
            .await
            .map_err(|_| Trouble::Timeout(self.time.idle))?;
        match timeout_at(limit.into(), body.frame()).await {
            Err(_) => return Err(Trouble::Timeout(self.time.idle)),
            Ok(None) => answer.rest = None,
            Ok(Some(Err(error))) => {
                return Err(Trouble::Unreachable(format!(
                    "the answer broke off: {error}"
                )));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    answer.add(piece);
                }
            }
        }
        Ok(())
    }

    /// `status`: the answer's own, or the one that an error inside a 200 implies.
    fn classed(&self, answer: Answer, status: u16, body: &[u8]) -> Reply {
        let body = &body[..body.len().min(LOOK_AT)];
        let refusal = ErrorResponse {
            status,
            headers: &answer.parts.headers,
            body,
            now: self.gw.clock.wall(),
        };
        let fault = self.route.entry.dialect.classify(&refusal);
        if !fault.class.is_failure() {
            return Reply::Relay(answer, Class::CallerFault);
        }
        let words = String::from_utf8_lossy(&body[..body.len().min(2000)]);
        let reason = redact(words.trim(), self.lease.member().key.secret().expose());
        Reply::Failed(Failure {
            fault,
            answer: Some(answer),
            trouble: None,
            reason,
            may_have_run: false,
            cut_short: false,
        })
    }
}

/// Lets other connections have their turn now and then: a body that is always there would hold them up. Fails when it
/// is later than `until`, which a wait for what is there never finds out.
async fn yield_and_check_deadline(until: Instant) -> Result<(), ()> {
    tokio::task::coop::consume_budget().await;
    if tokio::time::Instant::now() >= until.into() {
        return Err(());
    }
    Ok(())
}

/// Whether a JSON text, its white space left out, begins with an object (alone or in an array) whose first key is
/// `error`; `None`: too short to finish.
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

fn announced(answer: &Answer) -> Option<u64> {
    answer
        .parts
        .headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn content_type(answer: &Answer) -> &[u8] {
    let value = answer
        .parts
        .headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    value
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

pub(super) fn is_event_stream(answer: &Answer) -> bool {
    answer.parts.status == StatusCode::OK
        && content_type(answer).eq_ignore_ascii_case(b"text/event-stream")
}

fn is_json(answer: &Answer) -> bool {
    content_type(answer).eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_from_its_beginning_whether_a_json_stream_may_be_an_error() {
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
