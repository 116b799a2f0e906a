//! Traces of the newest requests: which key each attempt used, why other keys could not serve, how long the request
//! waited, and how each attempt ended.
//!
//! Always on. A trace is kept in a ring buffer of the thread that served the request, so threads do not wait for each
//! other. It becomes text only when it is read.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use keypool_core::fault::Class;
use keypool_core::pool::{Demand, Effect, KeySet, Lease, Pool, Selection};
use parking_lot::Mutex;
use thread_local::ThreadLocal;

/// Number of traces kept over all threads.
pub(crate) const KEPT: usize = 1024;
/// Minimum number of traces kept for each thread.
const KEPT_PER_THREAD: usize = 64;

/// The rings of all threads.
pub(crate) struct Traces {
    by_thread: ThreadLocal<Mutex<VecDeque<Trace>>>,
    per_thread: usize,
}

/// One request, from its first attempt on.
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) request_id: HeaderValue,
    /// The virtual key's name, or `-`.
    pub(crate) caller: Arc<str>,
    pub(crate) began: Instant,
    /// Until the last byte of the response.
    pub(crate) took: Duration,
    /// Status of the response to the client; 0 if none began.
    pub(crate) status: u16,
    pub(crate) ending: Ending,
    pub(crate) steps: Vec<Step>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The whole response was handed to the client's connection.
    Complete,
    /// The client left before the end.
    ClientDisconnected,
    /// The provider broke off a response that had begun.
    UpstreamBrokeOff,
    /// The provider ended a stream that had begun with an error.
    UpstreamError,
    /// `shutdown_timeout` passed first.
    Shutdown,
}

impl Ending {
    /// The stable code; `None` if all went well.
    pub(crate) fn code(self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::ClientDisconnected => Some("client_disconnected"),
            Self::UpstreamBrokeOff => Some("upstream_broke_off"),
            Self::UpstreamError => Some("upstream_error"),
            Self::Shutdown => Some("shutdown"),
        }
    }
}

/// One attempt, one target without a (further) key, or one skipped target.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) pool_name: Arc<str>,
    /// Weak, so that a trace does not keep the keys of an old configuration.
    pub(crate) keys: Weak<KeySet>,
    /// The model, as the key's provider names it.
    pub(crate) model: Arc<str>,
    /// `None`: no key.
    pub(crate) key_name: Option<Arc<str>>,
    pub(crate) selection: Selection,
    /// How long this step waited for a key.
    pub(crate) waited: Duration,
    /// When the step began, after the wait.
    pub(crate) began: Instant,
    /// Until the head of the response, or the failure.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

/// What came of a step.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// Nothing: the client left first, or `shutdown_timeout` passed.
    Unfinished,
    /// A response with this status went to the client.
    Answered(u16),
    /// The attempt failed.
    Failed {
        class: Class,
        status: Option<u16>,
        effect: Effect,
    },
    /// There was no (further) key.
    NoKey(NoKeyReason),
    /// The target was skipped without a look at its keys.
    Skipped(SkipReason),
}

/// Why no (further) key was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKeyReason {
    /// The request had all its attempts.
    NoAttemptsLeft,
    /// The provider may have run the call, and it may not be repeated.
    NotRepeatable,
    /// No key is free, and none is due in time.
    NoKeyInTime,
    /// The queue is full.
    QueueFull,
    /// No slot became free in time.
    QueueTimeout,
    /// The deadline of the whole request has passed.
    DeadlineExceeded,
}

impl NoKeyReason {
    /// The stable code.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoAttemptsLeft => "no_attempts_left",
            Self::NotRepeatable => "not_repeatable",
            Self::NoKeyInTime => "no_key_in_time",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The same in words, for a log line.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoAttemptsLeft => "no attempts are left",
            Self::NotRepeatable => "the provider may have run the call, so it is not repeated",
            Self::NoKeyInTime => "no other key is due in time",
            Self::QueueFull => "no other key is free, and the queue is full",
            Self::QueueTimeout => "no other key became free in time",
            Self::DeadlineExceeded => "the request's deadline has passed",
        }
    }
}

/// Why a target was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// The caller may not use the pool, and does not learn that it exists.
    PoolNotAllowed,
    /// The caller may not use the model.
    ModelNotAllowed,
    /// The pool's provider does not speak the request's protocol.
    OtherProtocol,
    /// The pool does not serve the model.
    ModelNotServed,
    /// The request names an object that no key of the pool made.
    ObjectElsewhere,
}

impl SkipReason {
    /// The stable code.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PoolNotAllowed => "pool_not_allowed",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::OtherProtocol => "other_protocol",
            Self::ModelNotServed => "model_not_served",
            Self::ObjectElsewhere => "object_elsewhere",
        }
    }
}

impl Step {
    /// The attempt that begins with `lease`.
    pub(crate) fn attempt(lease: &Lease, selection: Selection, began: Instant) -> Self {
        let step = Self::new(lease.pool(), lease.model(), began, Outcome::Unfinished);
        Self {
            key_name: Some(Arc::clone(&lease.member().name)),
            selection,
            keys: Arc::downgrade(lease.keys()),
            ..step
        }
    }

    /// There was no key for `demand`.
    pub(crate) fn no_key(
        pool: &Arc<Pool>,
        demand: &Demand,
        reason: NoKeyReason,
        began: Instant,
    ) -> Self {
        let (selection, keys) = pool.obstacles(demand);
        Self {
            selection,
            keys: Arc::downgrade(&keys),
            ..Self::new(pool, &demand.model, began, Outcome::NoKey(reason))
        }
    }

    /// A step without a key or a selection, such as a target that was skipped.
    pub(crate) fn new(
        pool: &Arc<Pool>,
        model: &Arc<str>,
        began: Instant,
        outcome: Outcome,
    ) -> Self {
        Self {
            pool_name: Arc::clone(pool.name()),
            keys: Weak::new(),
            model: Arc::clone(model),
            key_name: None,
            selection: Selection::default(),
            waited: Duration::ZERO,
            began,
            took: Duration::ZERO,
            outcome,
        }
    }

    /// Records what came of an attempt, unless that is known already.
    pub(crate) fn end(&mut self, outcome: Outcome, now: Instant) {
        if matches!(self.outcome, Outcome::Unfinished) {
            self.outcome = outcome;
            self.took = now.saturating_duration_since(self.began);
        }
    }
}

impl Default for Traces {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            by_thread: ThreadLocal::new(),
            per_thread: (KEPT / threads).max(KEPT_PER_THREAD),
        }
    }
}

impl Traces {
    /// Keeps a trace. When the thread's ring is full, its oldest trace is dropped.
    pub(crate) fn keep(&self, trace: Trace) {
        let mut ring = self.by_thread.get_or_default().lock();
        let oldest = (ring.len() >= self.per_thread).then(|| ring.pop_front());
        ring.push_back(trace);
        drop(ring);
        // Freed outside the lock.
        drop(oldest);
    }

    /// The newest `limit` traces that `wanted` selects; the one that ended last comes first.
    pub(crate) fn newest(&self, limit: usize, wanted: impl Fn(&Trace) -> bool) -> Vec<Trace> {
        let mut found = Vec::new();
        for ring in self.by_thread.iter() {
            found.extend(ring.lock().iter().filter(|trace| wanted(trace)).cloned());
        }
        found.sort_by_key(|trace| std::cmp::Reverse(trace.began + trace.took));
        found.truncate(limit.min(KEPT));
        found
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;

    fn trace(n: u64, start: Instant) -> Trace {
        Trace {
            request_id: HeaderValue::from(n),
            caller: "-".into(),
            began: start + Duration::from_secs(n),
            took: Duration::from_millis(1),
            status: 200,
            ending: Ending::Complete,
            steps: Vec::new(),
        }
    }

    #[test]
    fn the_newest_of_all_threads_come_first_and_the_oldest_are_dropped() {
        let traces = Traces {
            per_thread: 100,
            ..Traces::default()
        };
        let start = Instant::now();
        // Both threads must live at the same time: an ended thread leaves its ring to the next.
        let both = std::sync::Barrier::new(2);
        let keep = |parity: u64| {
            let (traces, both) = (&traces, &both);
            move || {
                both.wait();
                for n in (0..1000).filter(|n| n % 2 == parity) {
                    traces.keep(trace(n, start));
                }
                both.wait();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(keep(0));
            scope.spawn(keep(1));
        });
        let all = traces.newest(usize::MAX, |_| true);
        let ids: Vec<&str> = all
            .iter()
            .filter_map(|trace| trace.request_id.to_str().ok())
            .collect();
        let expect: Vec<String> = (800..1000).rev().map(|n: u64| n.to_string()).collect();
        assert_eq!(ids, expect);
        let few = traces.newest(2, |trace| trace.began < start + Duration::from_secs(900));
        let ids: Vec<&str> = few
            .iter()
            .filter_map(|trace| trace.request_id.to_str().ok())
            .collect();
        assert_eq!(ids, ["899", "898"]);
    }
}
