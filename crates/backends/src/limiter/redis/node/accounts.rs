//! All accounts of a node.

use std::collections::HashMap;
use std::sync::Arc;

use keypool_core::limit::{IdHasher, LimitId};
use parking_lot::Mutex;

use super::account::Account;

/// Number of parts of the map, each with a lock of its own.
const SHARDS: usize = 64;

type Shard = HashMap<LimitId, Arc<Account>, IdHasher>;

/// The callers and keys that this node knows.
pub(super) struct Accounts(Box<[Mutex<Shard>]>);

impl Default for Accounts {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Accounts {
    /// The account of an id; a new one if there is none.
    pub(super) fn of(&self, id: LimitId) -> Arc<Account> {
        let mut shard = self.shard(id).lock();
        let account = shard
            .entry(id)
            .or_insert_with(|| Arc::new(Account::new(id)));
        Arc::clone(account)
    }

    /// The account of an id, if there is one.
    pub(super) fn get(&self, id: LimitId) -> Option<Arc<Account>> {
        self.shard(id).lock().get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Account>> {
        let shards = self.0.iter();
        shards
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Lets go of accounts that nobody uses now, except those to keep.
    pub(super) fn retain(&self, keep: impl Fn(&Account) -> bool) {
        for shard in &self.0 {
            let is_used = |account: &Arc<Account>| Arc::strong_count(account) > 1 || keep(account);
            shard.lock().retain(|_, account| is_used(account));
        }
    }

    fn shard(&self, id: LimitId) -> &Mutex<Shard> {
        // The map uses the lower bits.
        &self.0[(id.0 >> 64) as usize % SHARDS]
    }
}
