//! Any available key, by weight.

use super::Available;

/// So many draws before the set is searched from a random slot on.
const DRAWS: usize = 4;

pub(super) fn choose(available: &Available, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let count = available.count();
    if count == 0 {
        return None;
    }
    let draw = || available.nth(fastrand::usize(..count));
    let drawn = (0..DRAWS)
        .filter_map(|_| draw())
        .map(|slot| available.place(slot))
        .find(|place| fits(*place));
    drawn.or_else(|| {
        available
            .from(draw().unwrap_or(0))
            .map(|slot| available.place(slot))
            .find(|place| fits(*place))
    })
}
