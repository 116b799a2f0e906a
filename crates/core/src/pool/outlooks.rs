//! What a look at every key of a pool found out, kept for as long as nothing changes: a pool whose keys all rest
//! refuses a request without looking at ten thousand keys again.
//!
//! Held under the version of the board that was read before the look. Whatever changes moves the version on after
//! it has changed, so that what was seen before cannot be taken for what is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;

use super::{Census, Outlook};

/// So many models are remembered; two that share a slot displace each other.
const SLOTS: usize = 16;

/// The last outlook for each of a few models.
#[derive(Default)]
pub(super) struct Outlooks {
    /// The newest version under which anything is kept: while it is an old one, nobody looks further.
    newest: AtomicU64,
    slots: [Mutex<Option<Kept>>; SLOTS],
}

struct Kept {
    model: Arc<str>,
    version: u64,
    outlook: Outlook,
    census: Option<Census>,
}

impl Outlooks {
    /// The outlook for `model`, where it is known and still holds.
    pub(super) fn of(&self, model: &str, version: u64, now: Instant) -> Option<Outlook> {
        self.look(model, version, now, |kept| Some(kept.outlook))
    }

    /// The census for `model`, where it is known and still holds.
    pub(super) fn census_of(&self, model: &str, version: u64, now: Instant) -> Option<Census> {
        self.look(model, version, now, |kept| kept.census)
    }

    /// `outlook` was found under `version`.
    pub(super) fn keep(&self, model: &Arc<str>, version: u64, outlook: Outlook) {
        *self.slots[slot_of(model)].lock() = Some(Kept {
            model: Arc::clone(model),
            version,
            outlook,
            census: None,
        });
        self.newest.fetch_max(version, SeqCst);
    }

    /// `census` was found under `version`; kept beside the outlook of the same version.
    pub(super) fn keep_census(&self, model: &str, version: u64, census: Census) {
        if let Some(kept) = &mut *self.slots[slot_of(model)].lock()
            && kept.version == version
            && *kept.model == *model
        {
            kept.census = Some(census);
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
        let holds = kept.version == version && kept.outlook.at.is_none_or(|at| now < at);
        if holds && *kept.model == *model {
            what(kept)
        } else {
            None
        }
    }
}

fn slot_of(model: &str) -> usize {
    let sum = model.bytes().fold(0usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    sum % SLOTS
}
