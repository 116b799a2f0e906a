//! Any available key, by weight.

use super::AvailableSet;

/// Number of random positions that are tried first.
const DRAWS: usize = 8;
/// Number of random available positions that are tried next, before the set is searched from a random one on.
const DRAWS_OF_AVAILABLE: usize = 4;

pub(super) fn choose(available: &AvailableSet, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if available.positions() == 0 {
        return None;
    }
    let drawn = (0..DRAWS)
        .map(|_| fastrand::usize(..available.positions()))
        .filter(|position| available.has_position(*position))
        .map(|position| available.key_at(position))
        .find(|index| fits(*index));
    drawn.or_else(|| choose_of_available(available, fits))
}

fn choose_of_available(available: &AvailableSet, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let count = available.count();
    if count == 0 {
        return None;
    }
    let draw = || available.nth(fastrand::usize(..count));
    let drawn = (0..DRAWS_OF_AVAILABLE)
        .filter_map(|_| draw())
        .map(|position| available.key_at(position))
        .find(|index| fits(*index));
    drawn.or_else(|| {
        let mut keys = available.keys_from(draw().unwrap_or(0));
        keys.find(|index| fits(*index))
    })
}
