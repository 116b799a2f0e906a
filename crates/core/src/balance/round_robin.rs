//! Keys in turn, by weight. The turn passes to the key after the one that was taken, so that the
//! share of an unavailable key falls to all others alike and not to its neighbour.

use super::AvailableSet;

/// Under contention the turn is given up after so many tries; the choice is a good one all the same.
const MAX_TRIES: usize = 8;

pub(super) fn choose(available: &AvailableSet, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let mut chosen = None;
    for _ in 0..MAX_TRIES {
        let turn = available.cursor();
        let slot = available
            .from(turn)
            .find(|slot| fits(available.key_at(*slot)))?;
        chosen = Some(available.key_at(slot));
        if available.advance(turn, slot) {
            break;
        }
    }
    chosen
}
