//! The key with the fewest calls in flight for its weight; among equals, in turn.
//!
//! A small pool is looked at as a whole; of a large one a few random keys are compared
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{Available, random, round_robin};

/// Pools of up to so many keys are compared as a whole.
const COMPARE_ALL: usize = 64;
/// Of larger pools, so many random keys are compared.
const SAMPLES: usize = 8;

pub(super) fn choose(
    available: &Available,
    load: impl Fn(usize) -> u32,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let cost =
        |place: usize| u64::from(load(place)) * (1 << 20) / u64::from(available.weight(place));
    if available.places() > COMPARE_ALL {
        return (0..SAMPLES)
            .filter_map(|_| random::choose(available, &fits))
            .min_by_key(|place| cost(*place));
    }
    let least = available
        .from(0)
        .map(|slot| available.place(slot))
        .filter(|place| fits(*place))
        .map(cost)
        .min()?;
    round_robin::choose(available, |place| fits(place) && cost(place) <= least)
        // The loads moved meanwhile: any that fits.
        .or_else(|| round_robin::choose(available, fits))
}
