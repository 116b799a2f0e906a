//! Relaying a response: bytes as they come, the key's slot freed when the provider is done, a broken stream ended by an
//! error that the client's SDK raises.

mod event_buffer;
mod final_response;
mod meter;
mod out_body;
mod usage_filter;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Lease, Suspect};
use keypool_providers::dialect::Dialect;
use keypool_providers::errors::{ErrorResponse, error_in_body};
use keypool_providers::protocol::Protocol;
use keypool_providers::response::StreamOutcome;
use tokio::time::{Instant, Sleep, sleep};

pub(super) use final_response::final_response;
pub(crate) use out_body::{OutBody, Verdict};

use super::attempt::{Answering, UpstreamResponse};
use super::headers::{UPSTREAM_REQUEST_ID, disarm_page, strip_response};
use super::inbound::Call;
use super::log::RequestLog;
use super::reservation::CallerReservation;
use crate::checks;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::snapshot::PoolEntry;
use crate::task_poll;
use crate::traces::Ending;
use crate::upstream::UpstreamBody;
use event_buffer::EventBuffer;
use meter::Meter;

/// Maximum number of pieces of an event stream that are written at once.
const MAX_BATCH: usize = 64;
/// Maximum number of bytes of a body that may turn out to be an error.
const MAX_WATCHED: usize = 64 * 1024;
/// A piece of this size, in bytes, is written without waiting for more.
const LARGE: usize = 8 * 1024;

/// The provider broke off. Without an event stream, only the end of the client's connection can say so.
#[derive(Debug)]
struct BrokeOff;

/// What travels with a response to its last byte: the key's slot and the record of the request.
struct Serving {
    /// `None` once it is settled what the call means for the key.
    attempt: Option<Attempt>,
    log: RequestLog,
}

/// The attempt whose response is relayed.
struct Attempt {
    lease: Lease,
    /// Earlier failures of the same request, which count against their keys once this attempt has succeeded.
    suspects: Vec<Suspect>,
}

/// A response on its way to the client.
pub(crate) struct Relay {
    gw: Arc<Gateway>,
    protocol: Protocol,
    entry: Arc<PoolEntry>,
    /// Declared before `serving`, since fields are dropped in order: the connection closes before the slot is freed, or
    /// the provider would count two calls.
    upstream: Option<UpstreamBody>,
    serving: Serving,
    meter: Meter,
    ready: VecDeque<Bytes>,
    /// Set for event streams.
    events: Option<EventBuffer>,
    /// What has come of a body that may turn out to be an error.
    watched: Option<Vec<u8>>,
    /// Ends the wait for the provider's next byte. Created at the first wait.
    idle: Option<Pin<Box<Sleep>>>,
    idle_limit: Duration,
    /// Number of the poll of this task in which the response was found broken.
    broke_at_poll: Option<u64>,
    verdict: Verdict,
    /// Number of the poll in which this last yielded, so that the task that reads an HTTP/2 connection could run.
    yielded_at_poll: Option<u64>,
}

impl Serving {
    /// Settles what the call means for the key, and frees its slot. `reason`: why a response that had begun failed.
    fn settle(
        &mut self,
        gw: &Arc<Gateway>,
        entry: &Arc<PoolEntry>,
        fault: &Fault,
        reason: Option<&str>,
    ) {
        let Some(Attempt { lease, suspects }) = self.attempt.take() else {
            return;
        };
        if fault.class == Class::Success {
            confirm(gw, &suspects, &lease);
        }
        let (pool, key) = (Arc::clone(lease.pool()), lease.member().clone());
        let effect = lease.finish(fault);
        if let Some(reason) = reason.filter(|_| fault.class.blames_key()) {
            let id = self.log.request_id();
            gw.telemetry
                .response_failed(id, &pool, &key, fault.class, reason);
        }
        if effect.needs_check {
            checks::check(gw, entry, &key);
        }
        let now = gw.clock.now();
        if effect.cooldown.is_some() || fault.class == Class::Rejected {
            gw.telemetry.health.after_failure(&pool, now);
        } else if !fault.class.blames_key() {
            gw.telemetry.health.after_success(&pool, now);
        }
    }
}

/// The request has succeeded with `lease`, so what failed with keys of other groups was those keys' own.
fn confirm(gw: &Gateway, suspects: &[Suspect], lease: &Lease) {
    for suspect in suspects {
        let effect = suspect.confirmed_by(lease);
        if let Some(cooldown) = effect.cooldown.filter(|_| effect.ejected) {
            let pool = suspect.pool();
            gw.telemetry.ejected(pool, suspect.member(), cooldown);
            gw.telemetry.health.after_failure(pool, gw.clock.now());
        }
    }
}

/// Relays a response.
///
/// `answering`: the attempt; `None` if it is over, and this is the last response to a request that no key could serve.
pub(super) fn relay(
    gw: &Arc<Gateway>,
    call: &Call<'_>,
    entry: &Arc<PoolEntry>,
    response: UpstreamResponse,
    answering: Option<Answering>,
    log: &mut RequestLog,
) -> Response<OutBody> {
    let (attempt, reserved) = match answering {
        Some(it) => {
            let (lease, suspects) = (it.lease, it.suspects);
            (Some(Attempt { lease, suspects }), it.reserved)
        }
        None => (None, CallerReservation::default()),
    };
    let is_success = response.class == Class::Success;
    let withholds = is_success && call.adds_usage(entry.dialect);
    let events = response
        .stream_form
        .map(|form| EventBuffer::new(form, call.stream_end(), withholds));
    // What an error gives back is known.
    let reserved = Some(reserved).filter(|_| is_success).unwrap_or_default();
    let meter = Meter::new(gw, call, reserved, is_success);
    let log = log.take();
    let mut serving = Serving { attempt, log };
    let mut head = head(response.parts, entry.dialect, &mut serving.log);
    if events.is_some() {
        let headers = head.headers_mut();
        // The length changes if an error is added at the end.
        headers.remove(CONTENT_LENGTH);
        // nginx would buffer the stream otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    if !is_success {
        // An error that is only passed on.
        serving.settle(gw, entry, &Fault::of(response.class), None);
    }
    let mut relay = Relay {
        gw: Arc::clone(gw),
        entry: Arc::clone(entry),
        protocol: call.protocol(),
        upstream: response.rest,
        serving,
        meter,
        ready: VecDeque::new(),
        events,
        watched: response.is_watched.then(Vec::new),
        idle: None,
        idle_limit: entry.pool.current().settings().timeouts.idle,
        broke_at_poll: None,
        verdict: Verdict {
            class: response.class,
            is_whole: true,
        },
        yielded_at_poll: None,
    };
    for piece in response.read {
        relay.accept(piece);
    }
    if relay.upstream.is_none() {
        relay.upstream_ended();
    }
    // Nobody polls a response without a body.
    if relay.is_complete() {
        relay.serving.log.finish(Ending::Complete);
    }
    head.map(|()| OutBody::Relay(Box::new(relay)))
}

fn head(parts: http::response::Parts, dialect: &Dialect, log: &mut RequestLog) -> Response<()> {
    let mut response = Response::from_parts(parts, ());
    *response.version_mut() = http::Version::HTTP_11;
    let request_id = strip_response(response.headers_mut(), dialect);
    disarm_page(response.headers_mut());
    log.begin_response(&mut response);
    if let Some(id) = request_id {
        response.headers_mut().insert(UPSTREAM_REQUEST_ID, id);
    }
    response
}

impl Relay {
    /// Whether everything went out.
    fn is_complete(&self) -> bool {
        self.ready.is_empty()
            && self.upstream.is_none()
            && self.broke_at_poll.is_none()
            && self.serving.attempt.is_none()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let _entered = self.serving.log.span().clone().entered();
        if self.upstream.is_some() && self.gw.is_aborting() {
            self.end_for_shutdown();
        }
        loop {
            if self.is_batch_full() {
                return self.emit_batch();
            }
            if let Some(poll) = self.broke_at_poll {
                return poll_broken(poll, cx);
            }
            let Some(upstream) = self.upstream.as_mut() else {
                self.serving.log.finish(Ending::Complete);
                return Poll::Ready(None);
            };
            match Pin::new(upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.yielded_at_poll = None;
                    self.restart_idle();
                    if let Ok(piece) = frame.into_data() {
                        self.accept(piece);
                    }
                    if self.upstream.as_ref().is_some_and(Body::is_end_stream) {
                        self.upstream_ended();
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.upstream_broke(&format!("the response broke off: {error}"));
                }
                Poll::Ready(None) => self.upstream_ended(),
                Poll::Pending if self.waited_too_long(cx) => {
                    self.upstream_broke(&format!("nothing came for {:?}", self.idle_limit));
                }
                Poll::Pending if self.ready.is_empty() => return Poll::Pending,
                Poll::Pending if self.has_all_that_came() => return self.emit_batch(),
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether everything that has arrived was read, so that more comes only by waiting. Every write costs a system call.
    /// If another task reads the connection (HTTP/2), it may hold the next event already, so it gets one turn of the
    /// scheduler to pass it on.
    fn has_all_that_came(&mut self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_none_or(UpstreamBody::is_read_by_this_task)
            || *self.yielded_at_poll.get_or_insert(task_poll::current()) != task_poll::current()
    }

    /// Whether what is ready goes out without waiting for more. Bodies other than event streams come in large pieces and
    /// go out as they are.
    fn is_batch_full(&self) -> bool {
        let more_may_come = self.events.is_some() && self.upstream.is_some();
        self.ready.back().is_some_and(|last| {
            !more_may_come || last.len() >= LARGE || self.ready.len() >= MAX_BATCH
        })
    }

    /// Everything that is ready of an event stream, in one piece; the next piece of other bodies.
    fn emit_batch(&mut self) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        self.yielded_at_poll = None;
        let mut piece = self.ready.pop_front().unwrap_or_default();
        if self.events.is_some() && !self.ready.is_empty() {
            let rest: usize = self.ready.iter().map(Bytes::len).sum();
            let mut batch = BytesMut::with_capacity(piece.len() + rest);
            batch.extend_from_slice(&piece);
            self.ready
                .drain(..)
                .for_each(|next| batch.extend_from_slice(&next));
            piece = batch.freeze();
        }
        // A client that knows the length does not ask for the end.
        if self.is_complete() {
            self.serving.log.finish(Ending::Complete);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Takes a piece from the provider. Of an event stream, the part after the last complete event is held.
    fn accept(&mut self, piece: Bytes) {
        match self.events.as_mut() {
            Some(events) => {
                events.accept(piece, self.meter.reader(), &mut self.ready);
                if events.is_whole() {
                    self.meter.note_whole();
                }
            }
            None => {
                self.meter.read_body(&piece);
                if let Some(watched) = self.watched.as_mut() {
                    watched.extend_from_slice(&piece);
                }
                self.ready.push_back(piece);
            }
        }
        // A longer body is no error.
        if self
            .watched
            .as_ref()
            .is_some_and(|body| body.len() > MAX_WATCHED)
        {
            self.watched = None;
        }
    }

    fn upstream_ended(&mut self) {
        self.end_stream(
            StreamOutcome::Complete,
            "it ended before its protocol's end",
        );
    }

    fn upstream_broke(&mut self, reason: &str) {
        self.end_stream(StreamOutcome::Truncated, reason);
    }

    /// The transfer is over. Where the stream's protocol defines an end, that decides how it ended.
    fn end_stream(&mut self, by_transfer: StreamOutcome, reason: &str) {
        self.upstream = None;
        let outcome = match self.events.as_mut() {
            Some(events) => events.outcome(by_transfer),
            None => by_transfer,
        };
        let outcome = match self.watched.take() {
            Some(body) if outcome == StreamOutcome::Complete => match error_in_body(&body) {
                Some(status) => {
                    let lease = self.serving.attempt.as_mut();
                    self.meter.fail(lease.map(|attempt| &mut attempt.lease));
                    StreamOutcome::Failed { status, body }
                }
                None => outcome,
            },
            _ => outcome,
        };
        match outcome {
            StreamOutcome::Truncated => return self.truncated(reason),
            StreamOutcome::Complete => {
                let lease = self.serving.attempt.as_mut();
                let used = self.meter.complete(lease.map(|attempt| &mut attempt.lease));
                self.serving.log.set_tokens(&used);
                self.serving
                    .settle(&self.gw, &self.entry, &Fault::of(Class::Success), None);
            }
            StreamOutcome::Failed { status, body } => self.failed(status, &body),
        }
        if let Some(events) = self.events.as_mut() {
            events.release(&mut self.ready);
        }
    }

    /// The provider broke off a response that had begun, so failover is no longer possible.
    fn truncated(&mut self, reason: &str) {
        let fault = Fault::of(Class::UpstreamTrouble);
        self.verdict = Verdict {
            class: fault.class,
            is_whole: false,
        };
        self.serving
            .settle(&self.gw, &self.entry, &fault, Some(reason));
        self.note_tokens();
        self.serving.log.finish(Ending::UpstreamBrokeOff);
        self.end_with_error("the provider broke off this answer; what came so far is not complete: send the request again");
    }

    /// The stream ended with an error of the provider's, which the client gets as it is.
    fn failed(&mut self, status: u16, body: &[u8]) {
        let fault = self.entry.dialect.judge(&ErrorResponse {
            status,
            headers: &HeaderMap::new(),
            body,
            now: self.gw.clock.wall(),
        });
        self.verdict.class = fault.class;
        let code = fault.code.as_deref().unwrap_or("without a code");
        let reason = format!("it ended with an error: {code}");
        self.serving
            .settle(&self.gw, &self.entry, &fault, Some(&reason));
        self.note_tokens();
        self.serving.log.finish(Ending::UpstreamError);
    }

    /// `shutdown_timeout` has passed. Nothing is counted for the key.
    fn end_for_shutdown(&mut self) {
        self.upstream = None;
        self.serving.attempt = None;
        self.verdict.is_whole = false;
        self.note_tokens();
        self.serving.log.finish(Ending::Shutdown);
        self.end_with_error(
            "this gateway was shut down before the answer was complete: send the request again",
        );
    }

    /// Ends a stream with an error. If the protocol has none for streams, or the response is no stream, it ends by closing
    /// the connection.
    fn end_with_error(&mut self, message: &str) {
        let error = GatewayError::new(Kind::UpstreamUnreachable, message);
        let last = self.events.take().and_then(|events| {
            let event = error.render_in_stream(self.protocol);
            events.with_error(event, error.render(self.protocol).body())
        });
        match last {
            Some(last) => self.ready.push_back(last),
            None => self.broke_at_poll = Some(task_poll::current()),
        }
    }

    /// Records what an incomplete response has used so far.
    fn note_tokens(&mut self) {
        if let Some(used) = self.meter.so_far() {
            self.serving.log.set_tokens(&used);
        }
    }

    fn restart_idle(&mut self) {
        if let Some(idle) = self.idle.as_mut() {
            idle.as_mut().reset(Instant::now() + self.idle_limit);
        }
    }

    /// Whether the idle limit has passed. Until then, also releases the held part of an event when that is due.
    fn waited_too_long(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(events) = self.events.as_mut() {
            events.release_if_due(cx, &mut self.ready);
        }
        let limit = self.idle_limit;
        self.idle
            .get_or_insert_with(|| Box::pin(sleep(limit)))
            .as_mut()
            .poll(cx)
            .is_ready()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The client may have left.
        self.note_tokens();
    }
}

/// Reports the break in a later poll than `found_in`: in the same one, hyper would drop what it has not written yet, the
/// head included.
fn poll_broken<T>(found_in: u64, cx: &mut Context<'_>) -> Poll<Option<Result<T, BrokeOff>>> {
    if found_in == task_poll::current() {
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    Poll::Ready(Some(Err(BrokeOff)))
}
