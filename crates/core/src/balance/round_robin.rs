//! Keys in turn, by weight. The next turn begins after the key that was chosen. The turns of an unavailable key are
//! thus shared by all others, and do not all fall to the key after it.

use super::AvailableSet;

/// Maximum number of attempts to move the turn on under contention. The last choice is used in any case.
const MAX_TRIES: usize = 8;

pub(super) fn choose(available: &AvailableSet, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let mut chosen = None;
    for _ in 0..MAX_TRIES {
        let turn = available.cursor();
        let position = available
            .from(turn)
            .find(|position| fits(available.key_at(*position)))?;
        chosen = Some(available.key_at(position));
        if available.advance(turn, position) {
            break;
        }
    }
    chosen
}
