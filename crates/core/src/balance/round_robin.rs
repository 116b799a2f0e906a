//! Keys in turn, by weight. The next turn begins after the key that was taken, so that all other keys share the part
//! of an unavailable one, not its neighbour alone.

use super::AvailableSet;

/// Maximum number of attempts to move the turn on under contention. The last choice is used in any case.
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
