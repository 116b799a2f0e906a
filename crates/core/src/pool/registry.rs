//! Makes the pools of a configuration, and carries the state of keys over from one configuration to the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::Mutex;

use super::availability_cache::AvailabilityCache;
use super::queue::Lines;
use super::{Member, Pool};
use crate::availability::Availability;
use crate::balance::AffinityRing;
use crate::clock::Clock;
use crate::key::{Key, KeyId};
use crate::key_book::KeyBook;
use crate::secret::Digest256;
use crate::settings::{KeySettings, PoolSettings, Strategy};

/// Knows every key in use, by what makes it itself.
pub struct Registry {
    clock: Arc<dyn Clock>,
    book: KeyBook,
    /// Requests that wait for a key, in whatever pool.
    waiting: Arc<AtomicUsize>,
}

impl Registry {
    /// A registry that has seen no key yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            book: KeyBook::default(),
            waiting: Arc::default(),
        }
    }

    /// The pools for `settings`. A pool whose settings did not change is the one of `before`; a key that
    /// stays keeps its counters and rests, whatever pool, name or index it has now.
    pub fn pools(&self, settings: &[PoolSettings], before: &[Arc<Pool>]) -> Vec<Arc<Pool>> {
        let kept =
            |wanted: &PoolSettings| before.iter().find(|pool| pool.settings == *wanted).cloned();
        let pools: Vec<Arc<Pool>> = settings
            .iter()
            .map(|wanted| kept(wanted).unwrap_or_else(|| self.pool(wanted)))
            .collect();
        apply_groups(&pools);
        apply_caps(&pools);
        self.book.prune();
        pools
    }

    fn pool(&self, settings: &PoolSettings) -> Arc<Pool> {
        let members: Box<[Member]> = settings
            .keys
            .iter()
            .map(|key| self.member(settings.provider, key))
            .collect();
        let weights: Vec<u32> = settings.keys.iter().map(|key| key.weight).collect();
        let now = self.clock.now();
        let availability = Arc::new(Availability::new(&weights, now, Arc::clone(&self.waiting)));
        for (index, member) in members.iter().enumerate() {
            member.key.attach(&availability, index);
        }
        let identities = || -> Vec<u64> { settings.keys.iter().map(group_identity).collect() };
        let ring = (settings.strategy == Strategy::Affinity)
            .then(|| AffinityRing::new(&identities(), &availability.available, now));
        let pool = Arc::new(Pool {
            ring,
            availability_cache: AvailabilityCache::default(),
            settings: settings.clone(),
            members,
            availability,
            lines: Mutex::new(Lines::default()),
            clock: Arc::clone(&self.clock),
            ejecting: Mutex::new(()),
            usable: AtomicU64::new(0),
            #[cfg(test)]
            looks: AtomicU64::new(0),
        });
        let waiting = Arc::downgrade(&pool);
        pool.availability.on_free(move || {
            if let Some(pool) = waiting.upgrade() {
                pool.serve_waiting();
            }
        });
        pool
    }

    fn member(&self, provider: &'static str, settings: &KeySettings) -> Member {
        let origin = Arc::clone(settings.base_url.origin());
        let id = KeyId {
            provider,
            origin,
            digest: settings.secret.digest(),
        };
        let key = self.book.key(id, &settings.secret);
        let group = match &settings.group {
            Some(name) => self.book.group(provider, name),
            None => Arc::clone(&key.own_group),
        };
        Member {
            key,
            name: Arc::clone(&settings.name),
            base_url: settings.base_url.clone(),
            proxy: settings.proxy.clone(),
            model: settings.model.clone(),
            group,
        }
    }
}

/// What makes a key's quota group itself for the sake of affinity, on every node and after every reload.
fn group_identity(key: &KeySettings) -> u64 {
    match &key.group {
        Some(name) => Digest256::of(name.as_bytes()).head(),
        None => key.secret.digest().head(),
    }
}

/// Groups hold the keys that this configuration puts in them, and no others.
fn apply_groups(pools: &[Arc<Pool>]) {
    let members = || pools.iter().flat_map(|pool| &pool.members);
    members().for_each(|member| member.group.leave_all());
    members().for_each(|member| member.group.join(&member.key));
}

/// Of differing caps for one key the lowest holds.
fn apply_caps(pools: &[Arc<Pool>]) {
    let mut caps: HashMap<*const Key, (Arc<Key>, Option<u32>)> = HashMap::new();
    for pool in pools {
        for (member, settings) in pool.members.iter().zip(&pool.settings.keys) {
            let (_, cap) = caps
                .entry(Arc::as_ptr(&member.key))
                .or_insert_with(|| (Arc::clone(&member.key), None));
            *cap = [*cap, settings.max_concurrent].into_iter().flatten().min();
        }
    }
    for (key, cap) in caps.into_values() {
        key.set_cap(cap);
        key.serve_waiting();
    }
}
