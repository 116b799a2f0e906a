//! "Why this key": what the newest requests were chosen among, what kept other keys from serving, how long they
//! waited, and what came of each attempt.
//!
//! Always on. A request's trace is kept in a ring of the thread that served it, so that threads do not wait for each
//! other; it becomes text only when somebody reads it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use keypool_core::fault::Class;
use keypool_core::pool::{Demand, Effect, KeySet, Lease, Pool, Selection};
use parking_lot::Mutex;
use thread_local::ThreadLocal;

/// So many traces are kept over all threads, …
pub(crate) const KEPT: usize = 1024;
/// … but of each thread so many at least.
const KEPT_OF_THREAD: usize = 64;

/// The rings of all threads.
pub(crate) struct Traces {
    by_thread: ThreadLocal<Mutex<VecDeque<Trace>>>,
    of_thread: usize,
}

/// One request, from its first attempt on.
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) request_id: HeaderValue,
    /// The virtual key's name, or `-`.
    pub(crate) caller: Arc<str>,
    pub(crate) began: Instant,
    /// To the last byte of the answer.
    pub(crate) took: Duration,
    /// Of the answer to the client; 0: none was begun.
    pub(crate) status: u16,
    /// How it ended, where not as it should.
    pub(crate) ended: String,
    pub(crate) steps: Vec<Step>,
}

/// One attempt; or that a target had no (further) key, or was passed over.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) pool_name: Arc<str>,
    /// Weak, so that the keys of an ended configuration are dropped with their last request.
    pub(crate) keys: Weak<KeySet>,
    /// The model asked for, as the key's provider names it.
    pub(crate) model: Arc<str>,
    /// `None`: no key.
    pub(crate) key_name: Option<Arc<str>>,
    pub(crate) choice: Selection,
    /// For this key.
    pub(crate) waited: Duration,
    began: Instant,
    /// To the head of the answer, or to the failure.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

/// What came of a step.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// Nothing: the client left first, or time was up.
    Unfinished,
    /// The answer went to the client.
    Answered(u16),
    /// The next key was tried, or none.
    Failed {
        class: Class,
        status: Option<u16>,
        effect: Effect,
    },
    /// There was no (further) key, and why.
    NoKey(&'static str),
    /// Its keys were not looked at, and why.
    PassedOver(&'static str),
}

impl Step {
    /// The attempt that begins with `lease`.
    pub(crate) fn attempt(
        lease: &Lease,
        choice: Selection,
        (began, waited): (Instant, Duration),
    ) -> Self {
        Self {
            choice,
            pool_name: Arc::clone(lease.pool().name()),
            keys: Arc::downgrade(lease.keys()),
            model: Arc::clone(lease.model()),
            key_name: Some(Arc::clone(&lease.member().name)),
            waited,
            began,
            took: Duration::ZERO,
            outcome: Outcome::Unfinished,
        }
    }

    /// There was no key for `demand`.
    pub(crate) fn no_key(
        pool: &Arc<Pool>,
        demand: &Demand,
        why: &'static str,
        (began, waited): (Instant, Duration),
    ) -> Self {
        let (choice, keys) = pool.obstacles(demand);
        Self {
            choice,
            pool_name: Arc::clone(pool.name()),
            keys: Arc::downgrade(&keys),
            model: Arc::clone(&demand.model),
            key_name: None,
            waited,
            began,
            took: Duration::ZERO,
            outcome: Outcome::NoKey(why),
        }
    }

    /// The target `pool` was passed over without a look at its keys.
    pub(crate) fn passed_over(
        pool: &Arc<Pool>,
        model: &Arc<str>,
        why: &'static str,
        began: Instant,
    ) -> Self {
        Self {
            choice: Selection::default(),
            pool_name: Arc::clone(pool.name()),
            keys: Weak::new(),
            model: Arc::clone(model),
            key_name: None,
            waited: Duration::ZERO,
            began,
            took: Duration::ZERO,
            outcome: Outcome::PassedOver(why),
        }
    }

    /// What came of it, unless that is known already.
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
            of_thread: (KEPT / threads).max(KEPT_OF_THREAD),
        }
    }
}

impl Traces {
    /// Keeps a trace; the oldest of this thread gives way.
    pub(crate) fn keep(&self, trace: Trace) {
        let mut ring = self.by_thread.get_or_default().lock();
        let oldest = (ring.len() >= self.of_thread).then(|| ring.pop_front());
        ring.push_back(trace);
        drop(ring);
        // Taken apart outside the lock.
        drop(oldest);
    }

    /// The newest `most` for which `wanted` holds, newest end first.
    pub(crate) fn newest(&self, most: usize, wanted: impl Fn(&Trace) -> bool) -> Vec<Trace> {
        let mut found = Vec::new();
        for ring in self.by_thread.iter() {
            found.extend(ring.lock().iter().filter(|trace| wanted(trace)).cloned());
        }
        found.sort_by_key(|trace| std::cmp::Reverse(trace.began + trace.took));
        found.truncate(most.min(KEPT));
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
            ended: String::new(),
            steps: Vec::new(),
        }
    }

    #[test]
    fn the_newest_of_all_threads_come_first_and_the_oldest_give_way() {
        let traces = Traces {
            of_thread: 100,
            ..Traces::default()
        };
        let start = Instant::now();
        // Both at work at once: a thread that has ended leaves its ring to the next.
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
