//! The key with the fewest calls in flight for its weight; among equals, in turn.
//!
//! A small pool is looked at as a whole; of a large one a few keys from random len are compared
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{AvailableSet, round_robin};

/// Pools of up to so many keys are compared as a whole.
const COMPARE_ALL: usize = 64;
/// Of larger pools, so many keys are compared.
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
            let slots = available.from(fastrand::usize(..available.slots()));
            slots
                .map(|slot| available.key_at(slot))
                .find(|index| fits(*index))
        };
        return (0..SAMPLES)
            .filter_map(|_| sample())
            .min_by_key(|index| cost(*index));
    }
    let fitting = available
        .from(0)
        .map(|slot| available.key_at(slot))
        .filter(|index| fits(*index));
    let least = fitting.map(cost).min()?;
    round_robin::choose(available, |index| fits(index) && cost(index) <= least)
        // The loads moved meanwhile: any that fits.
        .or_else(|| round_robin::choose(available, fits))
}
