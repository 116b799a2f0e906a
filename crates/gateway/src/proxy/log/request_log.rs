//! The record of one request. It is written along the way and rendered at the end: as response headers, as one log line
//! and as a trace.
//!
//! It is never read to decide what happens to the request.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use keypool_core::fault::Class;
use keypool_core::limit::{LimitId, Usage};
use keypool_core::pool::{Demand, Effect, Leased, MemberRef, Pool};
use keypool_core::store::UsageCounts;
use tracing::{Span, field, info};

use super::trace_header;
use crate::context::Gateway;
use crate::limits::RateHeaders;
use crate::prebuilt_headers::KeyHeaders;
use crate::proxy::headers::{ATTEMPTS, KEY, POOL, QUEUE_MS, REQUEST_ID, number};
use crate::settings::VirtualKeySettings;
use crate::snapshot::PoolEntry;
use crate::stored::GroupOf;
use crate::traces::{Ending, NoKeyReason, Outcome, SkipReason, Step, Trace};

/// Longest request id taken from a caller, in bytes.
const MAX_REQUEST_ID: usize = 128;
/// Longest part of a path that is logged, in bytes.
const MAX_PATH: usize = 200;
/// Maximum number of steps in a trace beyond which skipped pools are not recorded.
const MAX_SKIPPED: usize = 32;

/// Logged once: when the request ends, or when this is dropped before that, because the client left or the time of a
/// shutdown was up.
pub(crate) struct RequestLog {
    gw: Arc<Gateway>,
    span: Span,
    began: Instant,
    request_id: HeaderValue,
    method: Method,
    path: Box<str>,
    caller: Arc<str>,
    /// The pool whose response the client gets; until that is known, the first target's.
    entry: Option<Arc<PoolEntry>>,
    /// The key that was used last.
    key: Option<MemberRef>,
    attempts: u32,
    waited: Duration,
    /// 0 until a response begins.
    status: u16,
    is_finished: bool,
    /// Every attempt, every skipped target, and why there was no further key.
    steps: Vec<Step>,
    /// The caller asked for the trace in a header and may see it.
    shows_trace: bool,
    /// The caller's virtual key, if it has limits.
    limited_key: Option<Arc<VirtualKeySettings>>,
    /// What those left when the call was decided; `None` before that.
    rate_headers: Option<Box<RateHeaders>>,
    /// What the provider reported.
    tokens: Usage,
}

impl RequestLog {
    pub(crate) fn new(gw: &Arc<Gateway>, parts: &Parts) -> Self {
        let request_id = request_id(gw, parts);
        Self {
            span: span(&request_id, parts),
            began: gw.clock.now(),
            gw: Arc::clone(gw),
            request_id,
            method: parts.method.clone(),
            path: shortened(parts.uri.path()).into(),
            caller: nobody(),
            entry: None,
            key: None,
            attempts: 0,
            waited: Duration::ZERO,
            status: 0,
            is_finished: false,
            steps: Vec::new(),
            shows_trace: trace_header::is_requested(&parts.headers),
            limited_key: None,
            rate_headers: None,
            tokens: Usage::default(),
        }
    }

    /// The request's span, to be entered whenever the request is worked on. Disabled, and nearly free, unless a layer
    /// of the subscriber wants spans.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Records who calls, whether the caller may see why it got its key, and its virtual key if that has limits.
    pub(crate) fn set_caller(
        &mut self,
        name: &Arc<str>,
        may_see_traces: bool,
        limited_key: Option<&Arc<VirtualKeySettings>>,
    ) {
        self.caller = Arc::clone(name);
        self.shows_trace &= may_see_traces;
        self.limited_key = limited_key.cloned();
    }

    /// Records what the caller's limits leave now that the call is decided.
    pub(crate) fn set_rate_headers(&mut self, rate_headers: RateHeaders) {
        self.rate_headers = Some(Box::new(rate_headers));
    }

    /// Records the pool that the request goes to first.
    pub(crate) fn set_pool(&mut self, entry: &Arc<PoolEntry>) {
        self.entry = Some(Arc::clone(entry));
    }

    /// Records the attempt that begins now, the `attempt`th. `waited`: over all attempts so far.
    pub(crate) fn record_attempt(
        &mut self,
        entry: &Arc<PoolEntry>,
        leased: &mut Leased,
        attempt: u32,
        waited: Duration,
    ) {
        self.set_response_of(entry, leased.lease.member());
        self.attempts = attempt;
        let waited = self.add_wait(waited);
        let selection = std::mem::take(&mut leased.selection);
        let step = Step::attempt(&leased.lease, selection, self.gw.clock.now());
        // Most requests need one step, and an open stream keeps the allocation.
        self.steps.reserve_exact(1);
        self.steps.push(Step { waited, ..step });
    }

    /// Records whose response the client gets, unless a later attempt changes that.
    pub(crate) fn set_response_of(&mut self, entry: &Arc<PoolEntry>, key: &MemberRef) {
        let known = self.entry.as_ref();
        if !known.is_some_and(|known| Arc::ptr_eq(known, entry)) {
            self.entry = Some(Arc::clone(entry));
        }
        self.key = Some(key.clone());
    }

    /// Records that the last attempt failed, and what followed for its key.
    pub(crate) fn record_failure(&mut self, class: Class, status: Option<u16>, effect: &Effect) {
        let now = self.gw.clock.now();
        if let Some(step) = self.steps.last_mut() {
            let failed = Outcome::Failed {
                class,
                status,
                effect: *effect,
            };
            step.end(failed, now);
        }
    }

    /// Records that there was no (further) key. `waited`: over all attempts.
    pub(crate) fn record_no_key(
        &mut self,
        pool: &Arc<Pool>,
        demand: &Demand,
        reason: NoKeyReason,
        waited: Duration,
    ) {
        let waited = self.add_wait(waited);
        let step = Step::no_key(pool, demand, reason, self.gw.clock.now());
        self.steps.push(Step { waited, ..step });
    }

    /// Records that a pool was skipped without a look at its keys.
    pub(crate) fn record_skipped(
        &mut self,
        entry: &PoolEntry,
        model: &Arc<str>,
        reason: SkipReason,
    ) {
        if self.steps.len() < MAX_SKIPPED {
            let step = Step::new(
                &entry.pool,
                model,
                self.gw.clock.now(),
                Outcome::Skipped(reason),
            );
            self.steps.push(step);
        }
    }

    /// Takes over how long the request has waited in all, and returns how much of it is new.
    fn add_wait(&mut self, waited: Duration) -> Duration {
        waited.saturating_sub(std::mem::replace(&mut self.waited, waited))
    }

    /// Records the response's status, and adds the gateway's own headers.
    pub(crate) fn begin_response<B>(&mut self, response: &mut Response<B>) {
        self.status = response.status().as_u16();
        if let Some(step) = self.steps.last_mut() {
            step.end(Outcome::Answered(self.status), self.gw.clock.now());
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.request_id.clone());
        self.insert_rate_headers(headers);
        // Before the caller is known there are no steps, so nothing is shown to a caller who may not see it.
        if self.shows_trace
            && let Some(trace) = trace_header::value(&self.steps)
        {
            headers.insert(trace_header::NAME, trace);
        }
        let Some(entry) = &self.entry else {
            return;
        };
        headers.insert(POOL, entry.name_header.clone());
        if let Some(key) = self.key.as_ref().and_then(|key| KeyHeaders::of(key)) {
            headers.insert(KEY, key.name.clone());
        }
        headers.insert(ATTEMPTS, number(self.attempts.into()));
        let waited_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(QUEUE_MS, number(waited_ms));
    }

    fn insert_rate_headers(&self, headers: &mut HeaderMap) {
        match (&self.rate_headers, &self.limited_key) {
            (Some(rate_headers), _) => rate_headers.insert(headers),
            // The request ended before its limits were asked.
            (None, Some(key)) => {
                let id = LimitId::of_virtual_key(&key.name);
                self.gw.limits.headers(id, &key.limits).insert(headers);
            }
            (None, None) => {}
        }
    }

    /// Records a response of the gateway's own, which ends the request.
    pub(crate) fn finish_with<B>(
        &mut self,
        mut response: Response<B>,
        ending: Ending,
    ) -> Response<B> {
        self.begin_response(&mut response);
        self.finish(ending);
        response
    }

    /// Writes the log line and the trace. Only the first call counts.
    pub(crate) fn finish(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let took = self.gw.clock.now().saturating_duration_since(self.began);
        self.count_usage(ending);
        self.span.record("status", self.status);
        let span = self.span.clone();
        span.in_scope(|| self.write_line(ending, took));
        if !self.steps.is_empty() {
            self.gw.traces.keep(Trace {
                request_id: self.request_id.clone(),
                caller: Arc::clone(&self.caller),
                began: self.began,
                took,
                status: self.status,
                ending,
                steps: std::mem::take(&mut self.steps),
            });
        }
    }

    /// Nothing is logged.
    pub(crate) fn discard(mut self) {
        self.is_finished = true;
    }

    /// Records the tokens that the provider reported.
    pub(crate) fn set_tokens(&mut self, tokens: &Usage) {
        self.tokens = *tokens;
    }

    /// Adds the request to the usage of the keys that it was tried with. The last of them counts the request itself.
    fn count_usage(&self, ending: Ending) {
        if !self.gw.stored.has_store() {
            return;
        }
        let now = self.gw.clock.wall();
        let is_nobody = Arc::ptr_eq(&self.caller, &nobody());
        let mut attempts = self
            .steps
            .iter()
            .filter_map(|step| Some((step, step.key_name.as_ref()?)))
            .peekable();
        while let Some((step, key)) = attempts.next() {
            let is_last = attempts.peek().is_none();
            let failed = match step.outcome {
                Outcome::Failed { class, .. } => class.blames_key(),
                _ => is_last && matches!(ending, Ending::UpstreamBrokeOff | Ending::UpstreamError),
            };
            let tokens = if is_last {
                self.tokens
            } else {
                Usage::default()
            };
            let counts = UsageCounts {
                requests: is_last.into(),
                attempts: 1,
                failures: failed.into(),
                input_tokens: tokens.input_tokens.unwrap_or_default().into(),
                output_tokens: tokens.output_tokens.unwrap_or_default().into(),
            };
            let group = GroupOf {
                pool: &step.pool_name,
                key,
                model: &step.model,
                virtual_key: (!is_nobody).then_some(&self.caller),
            };
            self.gw.stored.usage.add(group, &counts, now);
        }
    }

    fn write_line(&self, ending: Ending, took: Duration) {
        let pool = self.entry.as_ref().map(|entry| &entry.pool);
        let ms = took.as_secs_f64() * 1000.0;
        info!(
            status = self.status,
            method = %self.method,
            path = &*self.path,
            pool = pool.map_or("-", |pool| pool.name()),
            key = self.key.as_ref().map(|key| key.index() + 1),
            key_name = self.key.as_ref().map_or("-", |key| &key.name),
            attempts = self.attempts,
            ms = (ms * 10.0).round() / 10.0,
            caller = &*self.caller,
            ended = ending.code(),
            request_id = self.request_id(),
            "request"
        );
    }

    /// Moves the record out, to travel with the response. What is left behind counts as finished.
    pub(crate) fn take(&mut self) -> Self {
        let taken = Self {
            gw: Arc::clone(&self.gw),
            span: self.span.clone(),
            began: self.began,
            request_id: self.request_id.clone(),
            method: self.method.clone(),
            path: std::mem::take(&mut self.path),
            caller: Arc::clone(&self.caller),
            entry: self.entry.take(),
            key: self.key.take(),
            attempts: self.attempts,
            waited: self.waited,
            status: self.status,
            is_finished: self.is_finished,
            steps: std::mem::take(&mut self.steps),
            shows_trace: self.shows_trace,
            limited_key: self.limited_key.take(),
            rate_headers: self.rate_headers.take(),
            tokens: self.tokens,
        };
        self.is_finished = true;
        taken
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let ending = if self.gw.is_aborting() {
            Ending::Shutdown
        } else {
            Ending::ClientDisconnected
        };
        self.finish(ending);
    }
}

fn span(request_id: &HeaderValue, parts: &Parts) -> Span {
    tracing::info_span!(
        "request",
        request_id = request_id.to_str().unwrap_or_default(),
        method = %parts.method,
        path = shortened(parts.uri.path()),
        status = field::Empty,
    )
}

/// The caller's own id, if it is at most 128 visible ASCII characters; else a new one.
fn request_id(gw: &Gateway, parts: &Parts) -> HeaderValue {
    let own = parts.headers.get(REQUEST_ID).filter(|id| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    // Copied: a slice of the request's head would keep the whole head in memory while the response is relayed.
    own.and_then(|own| HeaderValue::from_bytes(own.as_bytes()).ok())
        .unwrap_or_else(|| new_request_id(gw))
}

fn shortened(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// A version 7 UUID (RFC 9562). It names a request and protects nothing, so a fast random source is enough.
fn new_request_id(gw: &Gateway) -> HeaderValue {
    let since = gw
        .clock
        .wall()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let millis = u64::try_from(since.as_millis()).unwrap_or_default();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static("-"))
}

/// The name of an unknown caller.
pub(crate) fn nobody() -> Arc<str> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "-".into());
    Arc::clone(&NAME)
}
