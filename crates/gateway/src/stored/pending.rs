//! What waits to be stored.

use keypool_core::pool::MemberRef;
use keypool_core::store::Flush;

/// The flushes of a node, of which one may be pending.
pub(crate) struct PendingFlushes {
    /// A random number that names this process in the store.
    node: u64,
    /// The number of the last flush that was made.
    number: u64,
    /// A flush that may not be stored yet. It is sent again as it is, so that nothing counts twice.
    pub(crate) pending: Option<Pending>,
}

/// A flush, and the keys that it is about.
pub(crate) struct Pending {
    pub(crate) flush: Flush,
    /// The keys of the flush's `keys`, in the same order.
    pub(crate) members: Vec<MemberRef>,
}

impl Default for PendingFlushes {
    fn default() -> Self {
        Self {
            // The store keeps signed numbers.
            node: fastrand::u64(1..=i64::MAX as u64),
            number: 0,
            pending: None,
        }
    }
}

impl PendingFlushes {
    /// Gives a new flush its number, and makes it the pending one.
    pub(crate) fn set_pending(&mut self, mut pending: Pending) {
        self.number += 1;
        pending.flush.node = self.node;
        pending.flush.number = self.number;
        self.pending = Some(pending);
    }
}
