//! What happened to one request: collected along its way, told in its headers and, at its end, in one log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use keypool_core::fault::Class;
use keypool_core::pool::{Demand, Effect, Lease, MemberRef, Pool, Selection};

use super::auth::nobody;
use super::headers::{ATTEMPTS, KEY, POOL, QUEUE_MS, REQUEST_ID, number};
use super::trace_header;
use crate::context::Gateway;
use crate::prebuilt_headers::KeyHeaders;
use crate::snapshot::PoolEntry;
use crate::telemetry::Finished;
use crate::traces::{Outcome, Step, Trace};

/// The longest request id taken from a caller.
const MAX_REQUEST_ID: usize = 128;
/// How a request ended that was cut short since the time of a shutdown was up.
pub(super) const SHUTDOWN: &str = "shutdown";
/// So many pools that were passed over are noted.
const MAX_PASSED_OVER: usize = 32;

/// Logged when it ends, or when it is dropped unended (the client left, or a shutdown's time was up).
pub(super) struct RequestLog {
    gw: Arc<Gateway>,
    began: Instant,
    request_id: HeaderValue,
    method: Method,
    path: Box<str>,
    pub(super) caller: Arc<str>,
    /// The pool that serves.
    pub(super) entry: Option<PoolEntry>,
    /// The key that was used last.
    key: Option<MemberRef>,
    attempts: u32,
    waited: Duration,
    status: u16,
    ended: bool,
    /// Every attempt, every target that was passed over, and why there was no further key.
    steps: Vec<Step>,
    /// The caller asked for the trace in a header, and may see it.
    shows_trace: bool,
}

impl RequestLog {
    pub(super) fn begin(gw: &Arc<Gateway>, parts: &Parts) -> Self {
        Self {
            began: gw.clock.now(),
            gw: Arc::clone(gw),
            request_id: request_id(gw, parts),
            method: parts.method.clone(),
            path: shortened(parts.uri.path()).into(),
            caller: nobody(),
            entry: None,
            key: None,
            attempts: 0,
            waited: Duration::ZERO,
            status: 0,
            ended: false,
            steps: Vec::new(),
            shows_trace: trace_header::is_asked_for(&parts.headers),
        }
    }

    /// Notes who calls, and whether it may see why it got its key.
    pub(super) fn set_caller(&mut self, name: &Arc<str>, may_see_traces: bool) {
        self.caller = Arc::clone(name);
        self.shows_trace &= may_see_traces;
    }

    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Notes the attempt that begins now.
    pub(super) fn attempt(
        &mut self,
        entry: &PoolEntry,
        lease: &Lease,
        selection: Selection,
        attempt: u32,
        waited: Duration,
    ) {
        self.set_response_of(entry, lease.member_ref());
        self.attempts = attempt;
        let waited_now = waited.saturating_sub(self.waited);
        self.waited = waited;
        let began = self.gw.clock.now();
        // One is what nearly every request needs, and an open stream holds on to it.
        self.steps.reserve_exact(1);
        self.steps
            .push(Step::attempt(lease, selection, (began, waited_now)));
    }

    /// Notes whose answer the client gets, as far as it is known now.
    pub(super) fn set_response_of(&mut self, entry: &PoolEntry, key: &MemberRef) {
        let is_known = self.entry.as_ref();
        if !is_known.is_some_and(|known| Arc::ptr_eq(&known.pool, &entry.pool)) {
            self.entry = Some(entry.clone());
        }
        self.key = Some(key.clone());
    }

    /// Notes how the attempt that began last failed, and what that did to its key.
    pub(super) fn attempt_failed(&mut self, class: Class, status: Option<u16>, effect: &Effect) {
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

    /// Notes that there was no (further) key, why, and how long the request waited for one in all.
    pub(super) fn no_key(
        &mut self,
        pool: &Arc<Pool>,
        demand: &Demand,
        why: &'static str,
        waited: Duration,
    ) {
        let waited_now = waited.saturating_sub(self.waited);
        self.waited = waited;
        let began = self.gw.clock.now();
        let step = Step::no_key(pool, demand, why, (began, waited_now));
        self.steps.push(step);
    }

    /// Notes that a pool was passed over without a look at its keys, and why.
    pub(super) fn passed_over(&mut self, entry: &PoolEntry, model: &Arc<str>, why: &'static str) {
        if self.steps.len() < MAX_PASSED_OVER {
            let step = Step::passed_over(&entry.pool, model, why, self.gw.clock.now());
            self.steps.push(step);
        }
    }

    /// Adds the gateway's own headers, and notes the status.
    pub(super) fn head<B>(&mut self, response: &mut Response<B>) {
        self.status = response.status().as_u16();
        if let Some(step) = self.steps.last_mut() {
            step.end(Outcome::Answered(self.status), self.gw.clock.now());
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.request_id.clone());
        // Before the caller is known there is no step, and so nothing to finish to one who may not see it.
        if self.shows_trace
            && let Some(trace) = trace_header::of(&self.steps)
        {
            headers.insert(trace_header::NAME, trace);
        }
        let Some(entry) = &self.entry else {
            return;
        };
        headers.insert(POOL, entry.headers.pool.clone());
        if let Some(key) = self.key.as_ref().and_then(|key| KeyHeaders::of(key)) {
            headers.insert(KEY, key.name.clone());
        }
        headers.insert(ATTEMPTS, number(self.attempts.into()));
        let waited_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(QUEUE_MS, number(waited_ms));
    }

    /// An answer of the gateway's own, told and done with.
    pub(super) fn finish(&mut self, response: Response<Bytes>) -> Response<Bytes> {
        let mut response = response;
        self.head(&mut response);
        self.end("");
        response
    }

    /// An error of the gateway's own, told and done with.
    pub(super) fn finish_error(mut self, response: Response<Bytes>) -> Response<Bytes> {
        self.finish(response)
    }

    /// The error for a request that a shutdown cut short, told and done with.
    pub(super) fn finish_shutdown(mut self, response: Response<Bytes>) -> Response<Bytes> {
        let mut response = response;
        self.head(&mut response);
        self.end(SHUTDOWN);
        response
    }

    /// The request is over. `how`: where it did not end as it should.
    pub(super) fn end(&mut self, how: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.gw.clock.now().saturating_duration_since(self.began);
        let pool = self.entry.as_ref().map(|entry| &entry.pool);
        let key = self.key.as_ref();
        let finished = Finished {
            request_id: self.request_id(),
            method: &self.method,
            path: &self.path,
            status: self.status,
            pool: pool.map_or("-", |pool| pool.name()),
            number: key.map(|key| key.index() + 1),
            key_name: key.map_or("-", |key| &key.name),
            attempts: self.attempts,
            caller: &self.caller,
            took,
            ended: how,
        };
        finished.log();
        if !self.steps.is_empty() {
            let trace = self.trace(how, took);
            self.gw.traces.keep(trace);
        }
    }

    fn trace(&mut self, how: &str, took: Duration) -> Trace {
        Trace {
            request_id: self.request_id.clone(),
            caller: Arc::clone(&self.caller),
            began: self.began,
            took,
            status: self.status,
            ended: how.to_owned(),
            steps: std::mem::take(&mut self.steps),
        }
    }

    /// Hands the log over to the answer that is being relayed.
    pub(super) fn hand_over(&mut self) -> Self {
        let rest = Self {
            gw: Arc::clone(&self.gw),
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
            ended: false,
            steps: std::mem::take(&mut self.steps),
            shows_trace: self.shows_trace,
        };
        self.ended = true;
        rest
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let how = if self.gw.is_ending() {
            SHUTDOWN
        } else {
            "client left"
        };
        self.end(how);
    }
}

/// The caller's own id, if it is at most 128 visible ASCII characters; else a new one.
fn request_id(gw: &Gateway, parts: &Parts) -> HeaderValue {
    let own = parts.headers.get(REQUEST_ID).filter(|id| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    // Copied: a piece of the request's head would keep the whole of it in memory while the answer is relayed.
    own.and_then(|own| HeaderValue::from_bytes(own.as_bytes()).ok())
        .unwrap_or_else(|| new_request_id(gw))
}

/// At most so much of a path is logged, in bytes.
const MAX_PATH: usize = 200;

fn shortened(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// A version 7 UUID (RFC 9562). It names a request and guards nothing, so a quick random source is enough.
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
