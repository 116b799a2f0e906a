//! Relaying an answer: bytes as they come, the key's slot freed when the provider is done, a broken stream
//! ended by an error that the client's SDK raises.
//!
//! An event is passed on when its last byte is there. The beginning of an event that has not ended is held for
//! a moment only; if the provider breaks off in it, it is left out, so that the error after it can be read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};
use keypool_core::fault::{Class, Fault};
use keypool_core::pool::Lease;
use keypool_providers::protocol::Protocol;
use keypool_providers::sse::EventScanner;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::call::Call;
use super::headers::{UPSTREAM_REQUEST_ID, strip_answer};
use super::request_log::{RequestLog, SHUTDOWN};
use super::response::Answer;
use super::send::is_event_stream;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::task_poll;
use crate::upstream::UpstreamBody;

/// So many pieces of an event stream are handed over at once.
const MAX_BATCH: usize = 64;
/// A piece of so many bytes is worth a write of its own: nothing more is gathered behind it.
const LARGE: usize = 8 * 1024;
/// The beginning of an event is held for so long at most, …
const HOLD_PARTIAL: Duration = Duration::from_millis(50);
/// … and up to so many bytes.
const MAX_PARTIAL: usize = 64 * 1024;

/// The provider broke off, and the client can be told only by the end of its connection.
#[derive(Debug)]
pub(super) struct BrokeOff;

/// The end of a broken answer: the turn in which it was found.
#[derive(Clone, Copy)]
struct BreakOff {
    found_in: u64,
}

/// An answer on its way to the client.
pub(crate) struct Relay {
    gw: Arc<Gateway>,
    protocol: Protocol,
    ready: VecDeque<Bytes>,
    upstream: Option<UpstreamBody>,
    events: Option<Events>,
    /// Ends the wait for the provider's next byte. Made when first waited for.
    idle: Option<Pin<Box<Sleep>>>,
    idle_limit: Duration,
    lease: Option<Lease>,
    log: RequestLog,
    broke_off: Option<BreakOff>,
    /// The turn in which the provider's connection was let go first, since the last piece came.
    yielded_in: Option<u64>,
}

/// The events of a stream: where they end, and what is held of one that has not ended.
#[derive(Default)]
struct Events {
    scanner: EventScanner,
    held: VecDeque<Bytes>,
    held_length: usize,
    release: Option<Pin<Box<Sleep>>>,
    /// The client has the beginning of an event that has not ended.
    client_is_inside: bool,
}

/// Relays the answer of `lease`'s key.
pub(super) fn relay(
    gw: &Arc<Gateway>,
    call: &Call<'_>,
    answer: Answer,
    lease: Lease,
    class: Class,
    log: &mut RequestLog,
) -> Response<Box<Relay>> {
    let idle_limit = lease.keys().settings().timeouts.idle;
    let events = is_event_stream(&answer).then(Events::default);
    let mut response = head(answer.parts, log);
    if events.is_some() {
        // If the provider breaks off, an error is added.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    let mut lease = Some(lease);
    if (answer.rest.is_none() || class != Class::Success)
        && let Some(lease) = lease.take()
    {
        end(gw, lease, class);
    }
    let log = log.hand_over();
    let relay = Relay {
        gw: Arc::clone(gw),
        protocol: call.protocol,
        ready: VecDeque::new(),
        upstream: answer.rest,
        events,
        idle: None,
        idle_limit,
        lease,
        log,
        broke_off: None,
        yielded_in: None,
    };
    response.map(|()| Box::new(relay.with_read(answer.read).if_over()))
}

/// Relays the last answer of a request that no key could serve; its lease has ended.
pub(super) fn last_answer(
    gw: &Arc<Gateway>,
    call: &Call<'_>,
    answer: Answer,
    log: &mut RequestLog,
) -> Response<Box<Relay>> {
    let idle_limit = log.entry.as_ref().map_or(Duration::from_secs(60), |entry| {
        entry.pool.settings().timeouts.idle
    });
    let response = head(answer.parts, log);
    let relay = Relay {
        gw: Arc::clone(gw),
        protocol: call.protocol,
        ready: answer.read,
        upstream: answer.rest,
        events: None,
        idle: None,
        idle_limit,
        lease: None,
        log: log.hand_over(),
        broke_off: None,
        yielded_in: None,
    };
    response.map(|()| Box::new(relay.if_over()))
}

fn head(parts: http::response::Parts, log: &mut RequestLog) -> Response<()> {
    let mut response = Response::from_parts(parts, ());
    *response.version_mut() = http::Version::HTTP_11;
    let request_id = log
        .entry
        .as_ref()
        .and_then(|entry| strip_answer(response.headers_mut(), entry.dialect));
    log.head(&mut response);
    if let Some(id) = request_id {
        response.headers_mut().insert(UPSTREAM_REQUEST_ID, id);
    }
    response
}

/// Nothing more of this call can go wrong for the key.
fn end(gw: &Gateway, lease: Lease, class: Class) {
    let pool = Arc::clone(lease.pool());
    let _ = lease.finish(&Fault::of(class));
    gw.pool_health.after_success(&pool, gw.clock.now());
}

impl Relay {
    fn with_read(mut self, read: VecDeque<Bytes>) -> Self {
        for piece in read {
            self.pass(piece);
        }
        if self.upstream.is_none()
            && let Some(events) = self.events.as_mut()
        {
            // All of it is there: the end of an event that has not ended does not come any more.
            events.let_go(&mut self.ready);
        }
        self
    }

    /// Where there is no body, nobody asks for its end.
    fn if_over(mut self) -> Self {
        if self.is_over() {
            self.log.end("");
        }
        self
    }

    pub(super) fn is_over(&self) -> bool {
        self.ready.is_empty()
            && self.upstream.is_none()
            && self.broke_off.is_none()
            && self.lease.is_none()
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        if self.upstream.is_some() && self.gw.is_ending() {
            self.cut_short();
        }
        loop {
            if self.is_batch_full() {
                return self.hand_over();
            }
            if let Some(end) = self.broke_off {
                return end.poll(cx);
            }
            let Some(upstream) = self.upstream.as_mut() else {
                self.log.end("");
                return Poll::Ready(None);
            };
            match Pin::new(upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.yielded_in = None;
                    self.restart_idle();
                    if let Ok(piece) = frame.into_data() {
                        self.pass(piece);
                    }
                    if self.upstream.as_ref().is_some_and(Body::is_end_stream) {
                        self.provider_is_done();
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.broke(&format!("the answer broke off: {error}"))
                }
                Poll::Ready(None) => self.provider_is_done(),
                Poll::Pending if self.waited_too_long(cx) => {
                    self.broke(&format!("nothing came for {:?}", self.idle_limit));
                }
                Poll::Pending if self.ready.is_empty() => return Poll::Pending,
                Poll::Pending if self.has_all_that_came() => return self.hand_over(),
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Each piece handed over alone would cost a system call. Where another task reads the connection, it may have
    /// the next event in hand, and gets one turn to pass it on.
    fn has_all_that_came(&mut self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_none_or(UpstreamBody::hides_nothing)
            || *self.yielded_in.get_or_insert(task_poll::current()) != task_poll::current()
    }

    /// Whether what is ready goes out without waiting for more: bodies that are no event stream come in large
    /// pieces as they are.
    fn is_batch_full(&self) -> bool {
        let more_may_come = self.events.is_some() && self.upstream.is_some();
        self.ready.back().is_some_and(|last| {
            !more_may_come || last.len() >= LARGE || self.ready.len() >= MAX_BATCH
        })
    }

    /// All that is ready of an event stream in one piece; of other bodies the next piece.
    fn hand_over(&mut self) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        self.yielded_in = None;
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
        if self.is_over() {
            self.log.end("");
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// Puts a piece on its way; of an event stream, up to the end of its last whole event.
    fn pass(&mut self, piece: Bytes) {
        let Some(events) = self.events.as_mut() else {
            self.ready.push_back(piece);
            return;
        };
        match events.scanner.feed(&piece) {
            Some(end) => {
                self.ready.append(&mut events.held);
                events.held_length = 0;
                events.release = None;
                events.client_is_inside = false;
                self.ready.push_back(piece.slice(..end));
                if end < piece.len() {
                    events.hold(piece.slice(end..));
                }
            }
            None if events.client_is_inside => self.ready.push_back(piece),
            None => events.hold(piece),
        }
        if events.held_length > MAX_PARTIAL {
            events.let_go(&mut self.ready);
        }
    }

    fn provider_is_done(&mut self) {
        self.upstream = None;
        if let Some(events) = self.events.as_mut() {
            events.let_go(&mut self.ready);
        }
        if let Some(lease) = self.lease.take() {
            end(&self.gw, lease, Class::Success);
        }
    }

    /// The provider broke off after its answer had begun: no other key can take over.
    fn broke(&mut self, what: &str) {
        self.upstream = None;
        if let Some(lease) = self.lease.take() {
            let (pool, number, name) = (
                Arc::clone(lease.pool()),
                lease.index() + 1,
                Arc::clone(&lease.member().name),
            );
            let effect = lease.finish(&Fault::of(Class::UpstreamTrouble));
            crate::telemetry::answer_broke(self.log.request_id(), &pool, number, &name, what);
            if effect.ejected {
                self.gw
                    .pool_health
                    .after_failure(&pool, self.gw.clock.now());
            }
        }
        self.log.end("answer broke off");
        self.tell_the_end("the provider broke off this answer; what came so far is not complete: send the request again");
    }

    /// The time of a shutdown is up. No key is to blame.
    fn cut_short(&mut self) {
        self.upstream = None;
        self.lease = None;
        self.log.end(SHUTDOWN);
        self.tell_the_end(
            "this gateway was shut down before the answer was complete: send the request again",
        );
    }

    /// Ends a stream by an error, any other answer by the end of its connection.
    fn tell_the_end(&mut self, message: &str) {
        match self.events.take() {
            Some(events) => {
                if events.client_is_inside {
                    self.ready.push_back(Bytes::from_static(b"\n\n"));
                }
                let error = GatewayError::new(Kind::UpstreamUnreachable, message);
                self.ready.push_back(error.render_in_stream(self.protocol));
            }
            None => {
                self.broke_off = Some(BreakOff {
                    found_in: task_poll::current(),
                });
            }
        }
    }

    fn restart_idle(&mut self) {
        if let Some(idle) = self.idle.as_mut() {
            idle.as_mut().reset(Instant::now() + self.idle_limit);
        }
    }

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

impl BreakOff {
    /// In the turn in which it was found, hyper would drop what it has not written yet, the head included.
    fn poll<T>(self, cx: &mut Context<'_>) -> Poll<Option<Result<T, BrokeOff>>> {
        if self.found_in == task_poll::current() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(BrokeOff)))
    }
}

impl Events {
    fn hold(&mut self, piece: Bytes) {
        if !self.scanner.mid_event() {
            return;
        }
        self.held_length += piece.len();
        self.held.push_back(piece);
        self.release
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HOLD_PARTIAL)));
    }

    fn let_go(&mut self, ready: &mut VecDeque<Bytes>) {
        self.client_is_inside |= !self.held.is_empty();
        ready.append(&mut self.held);
        self.held_length = 0;
        self.release = None;
    }

    fn release_if_due(&mut self, cx: &mut Context<'_>, ready: &mut VecDeque<Bytes>) {
        if self
            .release
            .as_mut()
            .is_some_and(|release| release.as_mut().poll(cx).is_ready())
        {
            self.let_go(ready);
        }
    }
}
