//! Conversations that are served away from home: for a while they stay where the provider's cache is warm.
//!
//! A table of fixed size, in small sets with their own locks. A full set drops the entry that was unused for longest.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::hash::scatter;

/// A conversation is forgotten when it pauses for this long. Providers keep what they cached for five to ten minutes
/// after its last use.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// Number of entries in one set.
const WAYS: usize = 8;
/// Number of sets. Together they have about ten thousand entries.
const SETS: usize = 1280;

/// Which group serves which conversation away from home. Groups are named by their identity, which a reload keeps.
pub(crate) struct OverflowTable {
    epoch: Instant,
    /// Allocated when the first conversation leaves home.
    sets: OnceLock<Box<[Mutex<[Entry; WAYS]>]>>,
    /// When the last entry is forgotten, in nanoseconds since `epoch`. After that, no set need be looked at.
    in_use_until: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    conversation: u64,
    group: u64,
    /// When it is forgotten, in nanoseconds since `epoch`.
    until: u64,
}

impl OverflowTable {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            sets: OnceLock::new(),
            in_use_until: AtomicU64::new(0),
        }
    }

    /// The group that serves `conversation` away from home.
    pub(super) fn find(&self, conversation: u64, now: Instant) -> Option<u64> {
        let now = self.since_epoch(now);
        if now >= self.in_use_until.load(SeqCst) {
            return None;
        }
        let set = self.set_of(conversation)?.lock();
        set.iter()
            .find(|entry| entry.conversation == conversation && entry.until > now)
            .map(|entry| entry.group)
    }

    /// `group` serves the conversation now.
    pub(super) fn insert(&self, conversation: u64, group: u64, now: Instant) {
        self.sets.get_or_init(|| {
            (0..SETS)
                .map(|_| Mutex::new([Entry::default(); WAYS]))
                .collect()
        });
        let until = self.since_epoch(now + FORGOTTEN_AFTER);
        self.in_use_until.fetch_max(until, SeqCst);
        let Some(set) = self.set_of(conversation) else {
            return;
        };
        let mut set = set.lock();
        let own = set
            .iter()
            .position(|entry| entry.conversation == conversation);
        let index = own.or_else(|| (0..WAYS).min_by_key(|way| set[*way].until));
        if let Some(index) = index {
            set[index] = Entry {
                conversation,
                group,
                until,
            };
        }
    }

    /// The conversation is served at home again.
    pub(super) fn remove(&self, conversation: u64, now: Instant) {
        if self.since_epoch(now) >= self.in_use_until.load(SeqCst) {
            return;
        }
        let Some(set) = self.set_of(conversation) else {
            return;
        };
        for entry in set.lock().iter_mut() {
            if entry.conversation == conversation {
                *entry = Entry::default();
            }
        }
    }

    fn set_of(&self, conversation: u64) -> Option<&Mutex<[Entry; WAYS]>> {
        let sets = self.sets.get()?;
        sets.get((scatter(conversation) % SETS as u64) as usize)
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.epoch);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_forgotten_when_it_pauses() {
        let start = Instant::now();
        let table = OverflowTable::new(start);
        assert_eq!(table.find(7, start), None);
        table.insert(7, 2, start);
        table.insert(8, 1, start);
        let later = start + FORGOTTEN_AFTER - Duration::from_secs(1);
        assert_eq!(
            (table.find(7, later), table.find(8, later)),
            (Some(2), Some(1))
        );
        table.insert(7, 3, later);
        let after = start + FORGOTTEN_AFTER;
        assert_eq!(
            (table.find(7, after), table.find(8, after)),
            (Some(3), None)
        );
        table.remove(7, after);
        assert_eq!(table.find(7, after), None);
    }

    #[test]
    fn a_full_table_drops_what_was_unused_for_longest() {
        let start = Instant::now();
        let table = OverflowTable::new(start);
        let known = |upto: u64, now| (0..upto).filter(|n| table.find(*n, now).is_some()).count();
        for n in 0..50_000u64 {
            table.insert(n, 0, start + Duration::from_millis(n));
        }
        let now = start + Duration::from_secs(50);
        assert!(known(50_000, now) <= WAYS * SETS);
        assert!(
            (49_000..50_000).all(|n| table.find(n, now).is_some()),
            "the newest are known"
        );
    }
}
