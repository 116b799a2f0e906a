//! What a look at every key of a pool found out, kept for as long as nothing changes: a pool whose keys all rest
//! refuses a request without looking at ten thousand keys again.
//!
//! Held under the version of the availability that was read before the look. Whatever changes moves the version on after
//! it has changed, so that what was seen before cannot be taken for what is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;

use super::{KeyCounts, NextAvailable};
use crate::hash;

/// So many models are remembered; two that share a slot displace each other.
const SLOTS: usize = 16;

/// The last next_available for each of a few models.
#[derive(Default)]
pub(super) struct AvailabilityCache {
    /// The newest version under which anything is kept: while it is an old one, nobody looks further.
    newest: AtomicU64,
    slots: [Mutex<Option<Kept>>; SLOTS],
}

struct Kept {
    model: Arc<str>,
    version: u64,
    next_available: NextAvailable,
    key_counts: Option<KeyCounts>,
}

impl AvailabilityCache {
    /// The next_available for `model`, where it is known and still holds.
    pub(super) fn of(&self, model: &str, version: u64, now: Instant) -> Option<NextAvailable> {
        self.look(model, version, now, |kept| Some(kept.next_available))
    }

    /// The key_counts for `model`, where it is known and still holds.
    pub(super) fn key_counts_of(
        &self,
        model: &str,
        version: u64,
        now: Instant,
    ) -> Option<KeyCounts> {
        self.look(model, version, now, |kept| kept.key_counts)
    }

    /// `next_available` was found under `version`.
    pub(super) fn keep(&self, model: &Arc<str>, version: u64, next_available: NextAvailable) {
        *self.slots[slot_of(model)].lock() = Some(Kept {
            model: Arc::clone(model),
            version,
            next_available,
            key_counts: None,
        });
        self.newest.fetch_max(version, SeqCst);
    }

    /// `key_counts` was found under `version`; kept beside the next_available of the same version.
    pub(super) fn keep_key_counts(&self, model: &str, version: u64, key_counts: KeyCounts) {
        if let Some(kept) = &mut *self.slots[slot_of(model)].lock()
            && kept.version == version
            && *kept.model == *model
        {
            kept.key_counts = Some(key_counts);
        }
    }

    fn look<T>(
        &self,
        model: &str,
        version: u64,
        now: Instant,
        what: impl Fn(&Kept) -> Option<T>,
    ) -> Option<T> {
        if self.newest.load(SeqCst) != version {
            return None;
        }
        let slot = self.slots[slot_of(model)].lock();
        let kept = slot.as_ref()?;
        let holds =
            kept.version == version && kept.next_available.cooldown_ends.is_none_or(|at| now < at);
        if holds && *kept.model == *model {
            what(kept)
        } else {
            None
        }
    }
}

fn slot_of(model: &str) -> usize {
    (hash::bytes(0, model.as_bytes()) % SLOTS as u64) as usize
}
