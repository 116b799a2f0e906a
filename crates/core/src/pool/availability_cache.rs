//! The result of a look at every key of a key set, kept while nothing changes: a pool whose keys are all cooling
//! refuses a request without looking at ten thousand keys again.
//!
//! An entry is stored under the version of the availability that was read before the look. Every change advances the
//! version after it took effect, so an outdated result is never taken for a current one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;

use crate::hash;

/// Number of models that are remembered. Two models with the same bucket displace each other.
const BUCKETS: usize = 16;

/// When a request that finds no key may expect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextAvailable {
    /// A key may serve at any time without the end of a cooldown: it is free, full, probing, or ejected and the last
    /// resort.
    pub slot_may_free: bool,
    /// When the first cooldown ends.
    pub cooldown_ends: Option<Instant>,
}

impl NextAvailable {
    /// Whether a key may become available before `deadline`.
    pub fn comes_before(&self, deadline: Instant) -> bool {
        self.slot_may_free || self.cooldown_ends.is_some_and(|at| at <= deadline)
    }
}

/// The last [`NextAvailable`] for each of a few models.
#[derive(Default)]
pub(super) struct AvailabilityCache {
    /// The newest version that has an entry. If it is outdated, no bucket need be looked at.
    newest: AtomicU64,
    buckets: [Mutex<Option<Entry>>; BUCKETS],
}

struct Entry {
    model: Arc<str>,
    version: u64,
    next_available: NextAvailable,
}

impl AvailabilityCache {
    /// The entry for `model`, if it is still true.
    pub(super) fn of(&self, model: &str, version: u64, now: Instant) -> Option<NextAvailable> {
        if self.newest.load(SeqCst) != version {
            return None;
        }
        let bucket = self.buckets[bucket_of(model)].lock();
        let entry = bucket.as_ref()?;
        let next_available = entry.next_available;
        let is_due = next_available.cooldown_ends.is_some_and(|at| at <= now);
        let holds = entry.version == version && *entry.model == *model && !is_due;
        holds.then_some(next_available)
    }

    /// Keeps what a look at every key found, which began under `version`.
    pub(super) fn keep(&self, model: &Arc<str>, version: u64, next_available: NextAvailable) {
        *self.buckets[bucket_of(model)].lock() = Some(Entry {
            model: Arc::clone(model),
            version,
            next_available,
        });
        self.newest.fetch_max(version, SeqCst);
    }
}

fn bucket_of(model: &str) -> usize {
    (hash::bytes(0, model.as_bytes()) % BUCKETS as u64) as usize
}
