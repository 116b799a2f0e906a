//! What was used in a sliding window, as an adaptive run-length log.
//!
//! Charges close to each other share an entry, and an entry leaves the window with its last charge. So the sum is never
//! below the truth, and above it by at most what was charged within one entry. A caller with few charges has one entry for
//! each, so for it the log is exact; a busy one has a bounded number of entries, and still loses almost nothing, since the
//! next charge follows at once.

use std::ops::Add;
use std::time::Duration;

use smallvec::SmallVec;

/// A point in time: nanoseconds since a beginning that all ticks of a limiter share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Tick {
    /// The tick that long before; the beginning if there is none.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// The time from an earlier tick; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Number of dimensions that a window counts: requests, input tokens, output tokens.
pub const DIMENSIONS: usize = 3;

/// One amount for each dimension.
pub(super) type Amounts = [u32; DIMENSIONS];

/// While there are fewer entries than this, they are short.
const FEW: usize = 128;
/// A short entry spans at most this part of the window: 10 ms of 60 s.
const SHORT: u32 = 6000;
/// A long entry spans at most this part of the window: 250 ms of 60 s. So no charge counts longer than it should by more
/// than what a caller can be asked to wait.
const LONG: u32 = 240;

/// Charges that were made at about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    last: Tick,
    /// Time from the first charge to the last, in nanoseconds.
    span: u32,
    amounts: Amounts,
}

impl Entry {
    fn first(&self) -> Tick {
        Tick(self.last.0 - u64::from(self.span))
    }
}

/// Number of entries that need no memory of their own. Most callers have no more, and each access to memory costs as much
/// as all of the arithmetic.
const INLINE: usize = 4;

/// The charges of the last `length`.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// The oldest first. Removing the first ones moves the others, which happens once for each entry.
    entries: SmallVec<[Entry; INLINE]>,
    totals: [u64; DIMENSIONS],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            entries: SmallVec::new(),
            totals: [0; DIMENSIONS],
        }
    }
}

impl Window {
    /// Lets go of what is `length` old or older.
    pub(super) fn expire(&mut self, now: Tick, length: Duration) {
        let is_old = |entry: &&Entry| entry.last + length <= now;
        let old = self.entries.iter().take_while(is_old).count();
        if old == 0 {
            return;
        }
        for entry in self.entries.drain(..old) {
            for (total, amount) in self.totals.iter_mut().zip(entry.amounts) {
                *total -= u64::from(amount);
            }
        }
        if self.entries.is_empty() {
            self.entries = SmallVec::new();
        }
    }

    /// Charges `amounts`, and returns the time at which they count: `now`, or a later one that was charged before.
    pub(super) fn charge(&mut self, now: Tick, length: Duration, amounts: Amounts) -> Tick {
        let parts = if self.entries.len() < FEW {
            SHORT
        } else {
            LONG
        };
        // What an entry's span can hold is longer than four seconds.
        let longest = (length / parts).min(Duration::from_nanos(u32::MAX.into()));
        match self.entries.last_mut() {
            Some(newest) if now.since(newest.first()) < longest => {
                let first = newest.first();
                newest.last = newest.last.max(now);
                newest.span = u32::try_from(newest.last.0 - first.0).unwrap_or(u32::MAX);
            }
            newest => {
                let last = newest.map_or(now, |newest| newest.last.max(now));
                self.entries.push(Entry {
                    last,
                    span: 0,
                    amounts: [0; DIMENSIONS],
                });
            }
        }
        let newest = self.entries.len() - 1;
        self.add(newest, amounts);
        self.entries[newest].last
    }

    /// Adds `amounts` to what was charged at `at`, unless that has left the window.
    pub(super) fn charge_at(&mut self, at: Tick, amounts: Amounts) {
        if let Some(entry) = self.find(at) {
            self.add(entry, amounts);
        }
    }

    /// Takes `amounts` back from what was charged at `at`, unless that has left the window.
    pub(super) fn refund(&mut self, at: Tick, amounts: Amounts) {
        let Some(entry) = self.find(at) else {
            return;
        };
        let charged = &mut self.entries[entry].amounts;
        for dimension in 0..DIMENSIONS {
            let amount = amounts[dimension].min(charged[dimension]);
            charged[dimension] -= amount;
            self.totals[dimension] -= u64::from(amount);
        }
    }

    /// What counts now. Call [`Window::expire`] first.
    pub(super) fn totals(&self) -> [u64; DIMENSIONS] {
        self.totals
    }

    /// When at least `amount` of what counts in a dimension will have left the window; `None` if it holds less.
    pub(super) fn frees(&self, dimension: usize, amount: u64, length: Duration) -> Option<Tick> {
        let mut freed = 0;
        let enough = self.entries.iter().find(|entry| {
            freed += u64::from(entry.amounts[dimension]);
            freed >= amount
        });
        enough.map(|entry| entry.last + length)
    }

    /// When everything that counts in a dimension will have left the window; `None` if nothing counts.
    pub(super) fn empties(&self, dimension: usize, length: Duration) -> Option<Tick> {
        let mut newest_first = self.entries.iter().rev();
        let newest = newest_first.find(|entry| entry.amounts[dimension] > 0);
        newest.map(|entry| entry.last + length)
    }

    /// What counts now, the oldest first, each with the time of its last charge. Call [`Window::expire`] first.
    pub(super) fn charges(&self) -> impl Iterator<Item = (Tick, Amounts)> {
        self.entries.iter().map(|entry| (entry.last, entry.amounts))
    }

    /// Whether nothing counts.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn add(&mut self, entry: usize, amounts: Amounts) {
        let charged = &mut self.entries[entry].amounts;
        for dimension in 0..DIMENSIONS {
            // No limit is above what an entry can hold, so nothing is admitted that would not fit.
            let sum = charged[dimension].saturating_add(amounts[dimension]);
            self.totals[dimension] += u64::from(sum - charged[dimension]);
            charged[dimension] = sum;
        }
    }

    /// The entry that holds what was charged at `at`.
    fn find(&self, at: Tick) -> Option<usize> {
        let entry = self.entries.partition_point(|entry| entry.last < at);
        let found = self.entries.get(entry)?;
        (found.first() <= at).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(millis: u64) -> Tick {
        Tick(millis * 1_000_000)
    }

    #[test]
    fn a_charge_counts_for_exactly_the_length_of_the_window() {
        let mut window = Window::default();
        assert_eq!(window.charge(at(5), MINUTE, [1, 20, 300]), at(5));
        window.expire(at(60_004), MINUTE);
        assert_eq!(window.totals(), [1, 20, 300]);
        window.expire(at(60_005), MINUTE);
        assert_eq!(window.totals(), [0; 3]);
        assert!(window.is_empty());
    }

    #[test]
    fn charges_close_to_each_other_leave_with_the_last() {
        let mut window = Window::default();
        for millis in [0, 3, 9, 10] {
            window.charge(at(millis), MINUTE, [1, 0, 0]);
        }
        assert_eq!(window.entries.len(), 2, "10 ms later is another entry");
        window.expire(at(60_008), MINUTE);
        assert_eq!(window.totals()[0], 4);
        window.expire(at(60_009), MINUTE);
        assert_eq!(window.totals()[0], 1);
    }

    #[test]
    fn the_number_of_entries_is_bounded_however_busy() {
        let mut window = Window::default();
        let mut most = 0;
        for n in 0..200_000 {
            window.expire(at(n), MINUTE);
            window.charge(at(n), MINUTE, [1, 0, 0]);
            most = most.max(window.entries.len());
        }
        assert!(most <= 368, "{most}");
        let total = window.totals()[0];
        assert!((60_000..60_300).contains(&total), "{total}");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_frees_nothing() {
        let mut window = Window::default();
        window.charge(at(1000), MINUTE, [1, 0, 0]);
        assert_eq!(window.charge(at(200), MINUTE, [1, 0, 0]), at(1000));
        window.expire(at(60_999), MINUTE);
        assert_eq!(window.totals()[0], 2);
        window.expire(at(61_000), MINUTE);
        assert_eq!(window.totals()[0], 0);
    }

    #[test]
    fn corrections_apply_where_the_charge_was_made() {
        let mut window = Window::default();
        let first = window.charge(at(0), MINUTE, [1, 100, 0]);
        let second = window.charge(at(500), MINUTE, [1, 100, 0]);
        window.refund(first, [0, 30, 0]);
        window.charge_at(second, [0, 0, 50]);
        assert_eq!(window.totals(), [2, 170, 50]);
        window.refund(first, [5, 500, 5]);
        assert_eq!(window.totals(), [1, 100, 50], "no more than was charged");
        window.expire(at(60_000), MINUTE);
        window.charge_at(first, [9, 9, 9]);
        window.refund(first, [9, 9, 9]);
        assert_eq!(window.totals(), [1, 100, 50], "it has left the window");
    }

    #[test]
    fn it_knows_when_enough_will_have_left() {
        let mut window = Window::default();
        for second in 0..3 {
            window.charge(at(second * 1000), MINUTE, [1, 10, 0]);
        }
        for (amount, free) in [(1, 60_000), (10, 60_000), (11, 61_000), (30, 62_000)] {
            assert_eq!(window.frees(1, amount, MINUTE), Some(at(free)), "{amount}");
        }
        assert_eq!(window.frees(1, 31, MINUTE), None);
        assert_eq!(window.empties(1, MINUTE), Some(at(62_000)));
        assert_eq!(window.empties(2, MINUTE), None);
    }

    #[test]
    fn sums_beyond_32_bits_do_not_overflow() {
        let mut window = Window::default();
        for millis in [0, 1, 100, 200] {
            window.charge(at(millis), MINUTE, [0, u32::MAX, 0]);
        }
        assert_eq!(window.totals()[1], 3 * u64::from(u32::MAX));
        window.expire(at(70_000), MINUTE);
        assert_eq!(window.totals()[1], 0);
    }
}
