//! The model lists that providers gave, kept by pool. How they are asked for is not known here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use keypool_providers::protocol::ListedModel;
use parking_lot::Mutex;

/// Providers' lists, by pool.
#[derive(Default)]
pub(crate) struct ModelLists {
    by_pool: Mutex<HashMap<Arc<str>, Arc<PoolList>>>,
}

/// One pool's list; the lock lets one request ask while the others wait for its result.
#[derive(Default)]
pub(crate) struct PoolList {
    /// The list, and until when it is good.
    pub(crate) kept: tokio::sync::Mutex<Option<(Instant, Vec<ListedModel>)>>,
}

impl ModelLists {
    /// The list of one pool, empty at first.
    pub(crate) fn of(&self, pool: &Arc<str>) -> Arc<PoolList> {
        Arc::clone(self.by_pool.lock().entry(Arc::clone(pool)).or_default())
    }

    /// Forgets all lists: the pools changed.
    pub(crate) fn forget(&self) {
        self.by_pool.lock().clear();
    }
}
