//! The key with the fewest calls in flight for its weight; among equals, in turn.
//!
//! A small pool is looked at as a whole; of a large one a few keys from random places are compared
//! (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{Available, round_robin};

/// Pools of up to so many keys are compared as a whole.
const COMPARE_ALL: usize = 64;
/// Of larger pools, so many keys are compared.
const SAMPLES: usize = 4;

pub(super) fn choose(
    available: &Available,
    load: impl Fn(usize) -> u32,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let cost =
        |place: usize| u64::from(load(place)) * (1 << 20) / u64::from(available.weight(place));
    if available.places() > COMPARE_ALL {
        let sample = || {
            let slots = available.from(fastrand::usize(..available.slots()));
            slots
                .map(|slot| available.place(slot))
                .find(|place| fits(*place))
        };
        return (0..SAMPLES)
            .filter_map(|_| sample())
            .min_by_key(|place| cost(*place));
    }
    let fitting = available
        .from(0)
        .map(|slot| available.place(slot))
        .filter(|place| fits(*place));
    let least = fitting.map(cost).min()?;
    round_robin::choose(available, |place| fits(place) && cost(place) <= least)
        // The loads moved meanwhile: any that fits.
        .or_else(|| round_robin::choose(available, fits))
}
