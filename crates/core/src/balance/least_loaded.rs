//! The key with the fewest calls in flight for its weight; among equals, in turn.
//!
//! All keys of a small pool are compared. Of a large one, a few from random positions are
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{AvailableSet, round_robin};

/// All keys of pools up to this size are compared.
const COMPARE_ALL: usize = 64;
/// Number of keys of larger pools that are compared.
const SAMPLES: usize = 4;

pub(super) fn choose(
    available: &AvailableSet,
    load: impl Fn(usize) -> u32,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let cost =
        |index: usize| u64::from(load(index)) * (1 << 20) / u64::from(available.weight(index));
    if available.len() > COMPARE_ALL {
        let sample = || {
            let mut keys = available.keys_from(fastrand::usize(..available.positions()));
            keys.find(|index| fits(*index))
        };
        return (0..SAMPLES)
            .filter_map(|_| sample())
            .min_by_key(|index| cost(*index));
    }
    let fitting = available.keys_from(0).filter(|index| fits(*index));
    let least = fitting.map(cost).min()?;
    round_robin::choose(available, |index| fits(index) && cost(index) <= least)
        // The loads changed meanwhile: take any key that fits.
        .or_else(|| round_robin::choose(available, fits))
}
