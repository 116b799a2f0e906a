//! The available set of a pool as data: one bit per slot, a key having as many slots as its weight.
//!
//! Reading and changing it takes no lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const WORD_BITS: usize = 64;

/// Which places of a pool are available, in a weighted order.
pub(crate) struct Available {
    /// The place behind each slot; a place of weight 2 has two slots, spread evenly.
    slots: Box<[u32]>,
    /// The slots of each place.
    slots_of: Box<[Box<[u32]>]>,
    words: Box<[AtomicU64]>,
    /// The slot at which the next turn begins.
    cursor: AtomicUsize,
}

impl Available {
    /// All places available. `weights[place]` is at least 1.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let slots = spread(weights);
        let mut slots_of = vec![Vec::new(); weights.len()];
        for (slot, place) in slots.iter().enumerate() {
            slots_of[*place as usize].push(slot as u32);
        }
        let words: Box<[AtomicU64]> = (0..slots.len().div_ceil(WORD_BITS))
            .map(|_| AtomicU64::new(0))
            .collect();
        for slot in 0..slots.len() {
            words[slot / WORD_BITS].fetch_or(1 << (slot % WORD_BITS), Ordering::Relaxed);
        }
        Self {
            slots: slots.into(),
            slots_of: slots_of.into_iter().map(Vec::into_boxed_slice).collect(),
            words,
            cursor: AtomicUsize::new(0),
        }
    }

    /// Brings the bits of `place` in line with `is_available`, which other threads may change meanwhile.
    pub(crate) fn show(&self, place: usize, is_available: impl Fn() -> bool) {
        loop {
            let shown = is_available();
            for slot in &self.slots_of[place] {
                let (word, bit) = (
                    *slot as usize / WORD_BITS,
                    1 << (*slot as usize % WORD_BITS),
                );
                if shown {
                    self.words[word].fetch_or(bit, Ordering::SeqCst);
                } else {
                    self.words[word].fetch_and(!bit, Ordering::SeqCst);
                }
            }
            if shown == is_available() {
                return;
            }
        }
    }

    /// The place behind a slot.
    pub(crate) fn place(&self, slot: usize) -> usize {
        self.slots[slot] as usize
    }

    /// The weight of a place, in slots.
    pub(crate) fn weight(&self, place: usize) -> u32 {
        self.slots_of[place].len() as u32
    }

    /// How many slots there are, available or not.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many places there are, available or not.
    pub(crate) fn places(&self) -> usize {
        self.slots_of.len()
    }

    /// How many slots are available.
    pub(crate) fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.load(Ordering::SeqCst).count_ones() as usize)
            .sum()
    }

    /// The `n`th available slot, if there are as many still.
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

    /// The available slots from `start` on, once around.
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

    /// The slot at which the next turn begins.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor.load(Ordering::SeqCst)
    }

    /// Moves the turn behind `slot`; `false` if another request took it meanwhile.
    pub(crate) fn advance(&self, from: usize, slot: usize) -> bool {
        let next = (slot + 1) % self.slots.len().max(1);
        self.cursor
            .compare_exchange(from, next, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
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

/// Places in the order in which they take turns: as many slots as weight (divided by the greatest common
/// divisor), a place's slots at even distances. The `k`th of a place's `w` slots stands at (2k + 1) / 2w of the way.
fn spread(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut turns: Vec<(u64, u32)> = Vec::new();
    for (place, weight) in weights.iter().enumerate() {
        let slots = u64::from((weight / divisor).max(1));
        turns.extend((0..slots).map(|k| ((2 * k + 1) * (1 << 40) / (2 * slots), place as u32)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, place)| place).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_once_around_from_anywhere() {
        let available = Available::new(&vec![1; 130]);
        for start in [0, 1, 63, 64, 100, 129] {
            let order: Vec<_> = available.from(start).collect();
            let expect: Vec<_> = (start..130).chain(0..start).collect();
            assert_eq!(order, expect, "from {start}");
        }
    }

    #[test]
    fn shows_and_hides_every_slot_of_a_place() {
        let available = Available::new(&[3, 1]);
        available.show(0, || false);
        assert_eq!(
            available
                .from(0)
                .map(|slot| available.place(slot))
                .collect::<Vec<_>>(),
            [1]
        );
        assert_eq!((available.count(), available.nth(1)), (1, None));
        available.show(0, || true);
        assert_eq!(available.count(), 4);
        assert_eq!(available.nth(3), Some(3));
    }

    #[test]
    fn equal_weights_take_one_slot_each() {
        assert_eq!(spread(&[7, 7, 7]), [0, 1, 2]);
    }
}
