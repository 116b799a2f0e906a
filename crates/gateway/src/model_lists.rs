//! Cached model lists of providers, by pool. How they are requested is not known here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use keypool_providers::protocol::ListedModel;
use parking_lot::Mutex;

/// Model lists by pool.
#[derive(Default)]
pub(crate) struct ModelLists {
    by_pool: Mutex<HashMap<Arc<str>, Arc<PoolList>>>,
}

/// One pool's list, and when it expires. The lock lets one request ask the provider while others wait for the result.
pub(crate) type PoolList = tokio::sync::Mutex<Option<(Instant, Vec<ListedModel>)>>;

impl ModelLists {
    /// The list of one pool, initially empty.
    pub(crate) fn of(&self, pool: &Arc<str>) -> Arc<PoolList> {
        Arc::clone(self.by_pool.lock().entry(Arc::clone(pool)).or_default())
    }

    /// Drops all lists, after the pools have changed.
    pub(crate) fn forget(&self) {
        self.by_pool.lock().clear();
    }
}
