//! Quota groups: keys of one organisation, project or account.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Key;
use crate::cooldowns::Cooldowns;

/// A quota group: keys of one organisation, project or account, which share limits and balance.
#[derive(Debug, Default)]
pub struct QuotaGroup {
    /// Models that are rate-limited for all keys of the group.
    pub(crate) cooldowns: Cooldowns,
    keys: Mutex<Vec<Weak<Key>>>,
}

impl QuotaGroup {
    pub(crate) fn leave_all(&self) {
        self.keys.lock().clear();
    }

    pub(crate) fn join(&self, key: &Arc<Key>) {
        let mut keys = self.keys.lock();
        if !keys.iter().any(|old| old.as_ptr() == Arc::as_ptr(key)) {
            keys.push(Arc::downgrade(key));
        }
    }

    /// The keys that belong to it now.
    pub(crate) fn keys(&self) -> Vec<Arc<Key>> {
        self.keys.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
