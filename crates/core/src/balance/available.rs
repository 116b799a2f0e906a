//! The available set of a pool: one bit per position. A key has as many positions as its weight.
//!
//! Reading and changing it takes no lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const WORD_BITS: usize = 64;

/// Which keys of a pool are available, in a weighted order.
pub(crate) struct AvailableSet {
    /// The index of the key of each position. A key of weight 2 has two positions, spread evenly.
    positions: Box<[u32]>,
    /// The positions of all keys, key by key.
    by_key: Box<[u32]>,
    /// Where each key's positions begin in `by_key`; one more at the end.
    begins: Box<[u32]>,
    words: Box<[AtomicU64]>,
    /// Number of available positions, and of available keys, so that they need not be counted.
    available_positions: AtomicUsize,
    available_keys: AtomicUsize,
    /// The position at which the next turn begins.
    cursor: AtomicUsize,
}

impl AvailableSet {
    /// All keys available. `weights[index]` is at least 1.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let positions = spread(weights);
        let mut by_key: Vec<u32> = (0..positions.len() as u32).collect();
        by_key.sort_by_key(|position| positions[*position as usize]);
        let begin = |index: usize| {
            by_key.partition_point(|position| positions[*position as usize] < index as u32) as u32
        };
        let begins = (0..=weights.len()).map(begin).collect();
        let words: Box<[AtomicU64]> = (0..positions.len().div_ceil(WORD_BITS))
            .map(|_| AtomicU64::new(0))
            .collect();
        for position in 0..positions.len() {
            words[position / WORD_BITS].fetch_or(1 << (position % WORD_BITS), Ordering::Relaxed);
        }
        Self {
            available_positions: AtomicUsize::new(positions.len()),
            available_keys: AtomicUsize::new(weights.len()),
            positions: positions.into(),
            begins,
            by_key: by_key.into(),
            words,
            cursor: AtomicUsize::new(0),
        }
    }

    /// Brings the bits of the key at `index` in line with `is_available`, which other threads may change meanwhile.
    pub(crate) fn update(&self, index: usize, is_available: impl Fn() -> bool) {
        loop {
            let on = is_available();
            for (nth, position) in self.positions_of(index).iter().enumerate() {
                let (word, bit) = (
                    &self.words[*position as usize / WORD_BITS],
                    bit_of(*position),
                );
                let before = if on {
                    word.fetch_or(bit, Ordering::SeqCst)
                } else {
                    word.fetch_and(!bit, Ordering::SeqCst)
                };
                // The thread that flips a bit counts it, so the counts follow the bits whatever other threads do.
                if (before & bit != 0) != on {
                    self.count_change(on, nth == 0);
                }
            }
            if on == is_available() {
                return;
            }
        }
    }

    fn count_change(&self, on: bool, is_first: bool) {
        // Wrapping on purpose: if a decrement races ahead of its increment, the counter wraps briefly and ends up
        // correct.
        let step = if on { 1 } else { usize::MAX };
        self.available_positions.fetch_add(step, Ordering::SeqCst);
        if is_first {
            self.available_keys.fetch_add(step, Ordering::SeqCst);
        }
    }

    /// Number of available keys.
    pub(crate) fn available_keys(&self) -> usize {
        (self.available_keys.load(Ordering::SeqCst) as isize).max(0) as usize
    }

    /// The weight of all available keys together, in positions.
    pub(crate) fn available_weight(&self) -> usize {
        (self.available_positions.load(Ordering::SeqCst) as isize).max(0) as usize
    }

    /// Whether the key at `index` is available.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.has_position(self.first_position(index))
    }

    /// The first position of the key at `index`.
    pub(crate) fn first_position(&self, index: usize) -> usize {
        self.by_key[self.begins[index] as usize] as usize
    }

    /// Whether a position is available.
    pub(crate) fn has_position(&self, position: usize) -> bool {
        self.words[position / WORD_BITS].load(Ordering::SeqCst) & bit_of(position as u32) != 0
    }

    /// The indexes of keys that are not available, according to the first `words` words of the set.
    pub(crate) fn hidden(&self, words: usize) -> impl Iterator<Item = usize> {
        let looked_at = self.words.iter().take(words).enumerate();
        looked_at
            .flat_map(|(index, word)| {
                let base = index * WORD_BITS;
                let positions = self.positions.len() - base;
                let all = if positions < WORD_BITS {
                    (1 << positions) - 1
                } else {
                    u64::MAX
                };
                Bits {
                    word: !word.load(Ordering::SeqCst) & all,
                    base,
                }
            })
            // A key is named once, by its first position.
            .filter(|position| self.first_position(self.key_at(*position)) == *position)
            .map(|position| self.key_at(position))
    }

    /// The index of the key of a position.
    pub(crate) fn key_at(&self, position: usize) -> usize {
        self.positions[position] as usize
    }

    /// The weight of the key at `index`, in positions.
    pub(crate) fn weight(&self, index: usize) -> u32 {
        self.begins[index + 1] - self.begins[index]
    }

    /// Number of positions, available or not.
    pub(crate) fn positions(&self) -> usize {
        self.positions.len()
    }

    /// Number of keys, available or not.
    pub(crate) fn len(&self) -> usize {
        self.begins.len() - 1
    }

    fn positions_of(&self, index: usize) -> &[u32] {
        &self.by_key[self.begins[index] as usize..self.begins[index + 1] as usize]
    }

    /// Counts the available positions.
    pub(crate) fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.load(Ordering::SeqCst).count_ones() as usize)
            .sum()
    }

    /// The `n`th available position, if there are still as many.
    pub(crate) fn nth(&self, mut n: usize) -> Option<usize> {
        for (index, word) in self.words.iter().enumerate() {
            let mut bits = word.load(Ordering::SeqCst);
            let count = bits.count_ones() as usize;
            if n >= count {
                n -= count;
                continue;
            }
            for _ in 0..n {
                bits &= bits - 1;
            }
            return Some(index * WORD_BITS + bits.trailing_zeros() as usize);
        }
        None
    }

    /// The available positions from `start` on, once around.
    pub(crate) fn from(&self, start: usize) -> impl Iterator<Item = usize> {
        let words = self.words.len();
        let first = (start / WORD_BITS).min(words.saturating_sub(1));
        let above = u64::MAX << (start % WORD_BITS);
        (0..if words == 0 { 0 } else { words + 1 }).flat_map(move |step| {
            let index = (first + step) % words;
            let mask = match step {
                0 => above,
                last if last == words => !above,
                _ => u64::MAX,
            };
            Bits {
                word: self.words[index].load(Ordering::SeqCst) & mask,
                base: index * WORD_BITS,
            }
        })
    }

    /// The indexes of the keys of these positions: one of several positions comes several times.
    pub(crate) fn keys_from(&self, start: usize) -> impl Iterator<Item = usize> {
        self.from(start).map(|position| self.key_at(position))
    }

    /// The position at which the next turn begins.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor.load(Ordering::SeqCst)
    }

    /// Moves the turn behind `position`. `false`: another request has moved it meanwhile.
    pub(crate) fn advance(&self, from: usize, position: usize) -> bool {
        let next = (position + 1) % self.positions.len().max(1);
        self.cursor
            .compare_exchange(from, next, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// A position's bit in its word.
fn bit_of(position: u32) -> u64 {
    1 << (position as usize % WORD_BITS)
}

/// The set bits of one word.
struct Bits {
    word: u64,
    base: usize,
}

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(self.base + bit)
    }
}

/// The index of the key of each position, in the order in which they take turns. A key has as many positions as its weight,
/// divided by the greatest common divisor, at even distances: the `k`th of its `w` positions is at (2k + 1) / 2w of the
/// way.
fn spread(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut turns: Vec<(u64, u32)> = Vec::new();
    for (index, weight) in weights.iter().enumerate() {
        let positions = u64::from((weight / divisor).max(1));
        turns.extend(
            (0..positions).map(|k| ((2 * k + 1) * (1 << 40) / (2 * positions), index as u32)),
        );
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_once_around_from_anywhere() {
        let available = AvailableSet::new(&vec![1; 130]);
        for start in [0, 1, 63, 64, 100, 129] {
            let order: Vec<_> = available.from(start).collect();
            let expect: Vec<_> = (start..130).chain(0..start).collect();
            assert_eq!(order, expect, "from {start}");
        }
    }

    #[test]
    fn a_key_is_shown_and_hidden_with_all_its_slots() {
        let available = AvailableSet::new(&[3, 1]);
        available.update(0, || false);
        assert_eq!(
            available
                .from(0)
                .map(|position| available.key_at(position))
                .collect::<Vec<_>>(),
            [1]
        );
        assert_eq!((available.count(), available.nth(1)), (1, None));
        available.update(0, || true);
        assert_eq!(available.count(), 4);
        assert_eq!(available.nth(3), Some(3));
    }

    #[test]
    fn counts_follow_the_bits_and_hidden_keys_are_named_once() {
        let available = AvailableSet::new(&[vec![3, 1, 2], vec![1; 100]].concat());
        let counts = || (available.available_keys(), available.available_weight());
        assert_eq!(counts(), (103, 106));
        for index in [0, 2, 102] {
            available.update(index, || false);
            available.update(index, || false);
        }
        assert_eq!(counts(), (100, 100));
        assert_eq!(available.count(), 100);
        let mut hidden: Vec<_> = available.hidden(usize::MAX).collect();
        hidden.sort_unstable();
        assert_eq!(hidden, [0, 2, 102]);
        assert!(!available.has(0) && available.has(1) && !available.has(102));
        available.update(2, || true);
        available.update(2, || true);
        assert_eq!(counts(), (101, 102));
        assert_eq!(available.hidden(0).count(), 0, "no further than asked for");
    }

    #[test]
    fn counts_are_right_after_concurrent_updates() {
        let available = AvailableSet::new(&[2, 1, 1]);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let available = &available;
                scope.spawn(move || {
                    for n in 0..10_000 {
                        available.update((n + thread) % 3, || n % 2 == 0);
                    }
                });
            }
        });
        (0..3).for_each(|index| available.update(index, || true));
        assert_eq!(
            (available.available_keys(), available.available_weight()),
            (3, 4)
        );
    }

    #[test]
    fn equal_weights_take_one_slot_each() {
        assert_eq!(spread(&[7, 7, 7]), [0, 1, 2]);
    }
}
