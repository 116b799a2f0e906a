//! Makes the pools of a configuration, and carries pools and the state of keys over to the next one.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::availability_cache::AvailabilityCache;
use super::opinions::Opinions;
use super::queue::WaitQueues;
use super::{KeyRecords, KeySet, Member, Pool};
use crate::availability::{Availability, WaitSignal};
use crate::balance::{AffinityRing, OverflowTable};
use crate::clock::{Clock, Moment};
use crate::key::{Key, KeyId, QuotaGroup};
use crate::limit::{Limiter, Limits};
use crate::secret::{Digest256, Secret};
use crate::settings::{KeySettings, PoolSettings, Strategy};

/// Prepares data for a key once per key set, such as headers; see [`Member::prepared`].
pub type Prepare =
    Box<dyn Fn(&PoolSettings, &KeySettings) -> Arc<dyn Any + Send + Sync> + Send + Sync>;

/// A quota group's provider and name.
type GroupName = (&'static str, Arc<str>);

/// Knows every key and quota group in use, so that a reload finds them again.
pub struct Registry {
    clock: Arc<dyn Clock>,
    prepare: Prepare,
    /// Counts the limits of keys together with other nodes; `None`: each node counts by itself.
    limiter: Option<Arc<dyn Limiter>>,
    /// What the store knows of keys.
    records: Arc<KeyRecords>,
    keys: Mutex<HashMap<KeyId, Weak<Key>>>,
    groups: Mutex<HashMap<GroupName, Weak<QuotaGroup>>>,
    /// Number of requests that wait for a key, in all pools.
    waiting: Arc<AtomicUsize>,
}

impl Registry {
    /// A registry without keys. `prepare` is called for each key of a pool when its key set is made.
    pub fn new(clock: Arc<dyn Clock>, prepare: Prepare) -> Self {
        Self {
            clock,
            prepare,
            limiter: None,
            records: Arc::default(),
            keys: Mutex::default(),
            groups: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// From now on, `limiter` counts the limits of keys, if several nodes share it.
    #[must_use]
    pub fn with_limiter(mut self, limiter: &Arc<dyn Limiter>) -> Self {
        self.limiter = limiter.is_shared().then(|| Arc::clone(limiter));
        self
    }

    /// From now on, new keys take over what `records` says of them.
    #[must_use]
    pub fn with_records(self, records: Arc<KeyRecords>) -> Self {
        Self { records, ..self }
    }

    /// The pools for `settings`.
    ///
    /// A pool of the same name and provider as one of `before` is that pool: its waiting requests stay in their
    /// queue, and its keys are replaced if its settings changed. A key that stays keeps its counters and cooldowns,
    /// whatever pool, name or index it has now. A pool of `before` that is left out goes on with the keys it has.
    pub fn pools(&self, settings: &[Arc<PoolSettings>], before: &[Arc<Pool>]) -> Vec<Arc<Pool>> {
        let planned: Vec<(Arc<Pool>, Arc<KeySet>)> = settings
            .iter()
            .map(|wanted| self.plan(wanted, before))
            .collect();
        // Before the keys can be used: a new key must not take more calls than its cap allows.
        let key_sets = || planned.iter().map(|(_, keys)| &**keys);
        apply_groups(key_sets);
        self.apply_caps(key_sets());
        let replace = |(pool, keys): (Arc<Pool>, Arc<KeySet>)| {
            pool.replace_keys(keys);
            pool
        };
        let pools = planned.into_iter().map(replace).collect();
        self.prune();
        pools
    }

    /// The pool for the settings, and the keys that it is to have.
    fn plan(&self, wanted: &Arc<PoolSettings>, before: &[Arc<Pool>]) -> (Arc<Pool>, Arc<KeySet>) {
        let is_same =
            |pool: &&Arc<Pool>| pool.name == wanted.name && pool.provider == wanted.provider;
        let Some(pool) = before.iter().find(is_same) else {
            let pool = self.pool(wanted);
            let keys = pool.keys();
            return (pool, keys);
        };
        let mut keys = pool.keys();
        if keys.settings != *wanted {
            keys = self.key_set(wanted, &pool.wait_signal);
        }
        (Arc::clone(pool), keys)
    }

    fn pool(&self, settings: &Arc<PoolSettings>) -> Arc<Pool> {
        let wait_signal = Arc::new(WaitSignal::new(Arc::clone(&self.waiting)));
        let pool = Arc::new(Pool {
            name: Arc::clone(&settings.name),
            provider: settings.provider,
            keys: ArcSwap::new(self.key_set(settings, &wait_signal)),
            wait_signal,
            queues: Mutex::new(WaitQueues::default()),
            overflow: OverflowTable::new(self.clock.now()),
            clock: Arc::clone(&self.clock),
            opinions: Opinions::default(),
            ejecting: Mutex::new(()),
        });
        let weak = Arc::downgrade(&pool);
        pool.wait_signal.on_free(move || {
            if let Some(pool) = weak.upgrade() {
                pool.serve_waiting();
            }
        });
        pool
    }

    fn key_set(&self, settings: &Arc<PoolSettings>, wait_signal: &Arc<WaitSignal>) -> Arc<KeySet> {
        let keys = &settings.keys;
        let members: Box<[Member]> = keys.iter().map(|key| self.member(settings, key)).collect();
        let weights: Vec<u32> = keys.iter().map(|key| key.weight).collect();
        let availability = Arc::new(Availability::new(
            &weights,
            self.clock.now(),
            Arc::clone(wait_signal),
        ));
        for (index, member) in members.iter().enumerate() {
            member.key.attach(&availability, index);
        }
        let identities = || -> Vec<u64> { keys.iter().map(group_identity).collect() };
        let ring = (settings.strategy == Strategy::Affinity)
            .then(|| AffinityRing::new(&identities(), &availability.available));
        Arc::new(KeySet {
            settings: Arc::clone(settings),
            members,
            availability,
            ring,
            cache: AvailabilityCache::default(),
            next_asked: AtomicUsize::new(0),
            #[cfg(test)]
            looks: std::sync::atomic::AtomicU64::new(0),
        })
    }

    fn member(&self, pool: &PoolSettings, settings: &KeySettings) -> Member {
        let (key, is_new) = self.key(KeyId::of(pool, settings), &settings.secret);
        let group = match &settings.group {
            Some(name) => self.group(pool.provider, name),
            None => Arc::clone(&key.own_group),
        };
        if let Some(record) = is_new
            .then(|| self.records.get(&(&key.id).into()))
            .flatten()
        {
            key.restore(&group, &record, &Moment::of(&*self.clock));
        }
        Member {
            key,
            name: Arc::clone(&settings.name),
            base_url: settings.base_url.clone(),
            proxy: settings.proxy.clone(),
            model: settings.model.clone(),
            group,
            prepared: (self.prepare)(pool, settings),
        }
    }

    /// The key of that id, and whether it is a new one, since no pool has it.
    fn key(&self, id: KeyId, secret: &Secret) -> (Arc<Key>, bool) {
        let mut keys = self.keys.lock();
        if let Some(key) = keys.get(&id).and_then(Weak::upgrade) {
            return (key, false);
        }
        let key = Key::new(id.clone(), secret.clone());
        keys.insert(id, Arc::downgrade(&key));
        (key, true)
    }

    /// The group of that name: a new one if no pool has it.
    fn group(&self, provider: &'static str, name: &Arc<str>) -> Arc<QuotaGroup> {
        let mut groups = self.groups.lock();
        let id = (provider, Arc::clone(name));
        if let Some(group) = groups.get(&id).and_then(Weak::upgrade) {
            return group;
        }
        let group = Arc::new(QuotaGroup::default());
        groups.insert(id, Arc::downgrade(&group));
        group
    }

    /// Sets the cap and the limits of each key. Where pools give one key different ones, the lowest holds.
    fn apply_caps<'a>(&self, key_sets: impl Iterator<Item = &'a KeySet>) {
        let now = self.clock.now();
        let mut caps: HashMap<*const Key, (&Arc<Key>, Limits)> = HashMap::new();
        for keys in key_sets {
            for (member, settings) in keys.members.iter().zip(&keys.settings.keys) {
                let (_, lowest) = caps
                    .entry(Arc::as_ptr(&member.key))
                    .or_insert((&member.key, Limits::default()));
                let limits = Limits {
                    concurrent: settings.max_concurrent,
                    ..settings.limits
                };
                *lowest = lowest.lowest(&limits);
            }
        }
        for (key, limits) in caps.into_values() {
            key.set_cap(limits.concurrent);
            let in_window = Limits {
                concurrent: None,
                ..limits
            };
            key.set_limits(in_window, now, self.limiter.as_ref());
            key.serve_waiting();
        }
    }

    /// Forgets keys and groups that no pool has any more.
    fn prune(&self) {
        self.keys.lock().retain(|_, key| key.strong_count() > 0);
        self.groups
            .lock()
            .retain(|_, group| group.strong_count() > 0);
    }
}

/// What identifies a key's quota group for affinity, on every node and after every reload.
fn group_identity(key: &KeySettings) -> u64 {
    match &key.group {
        Some(name) => Digest256::of(name.as_bytes()).head(),
        None => key.secret.digest().head(),
    }
}

/// Makes each group hold the keys that this configuration puts in it, and no others.
fn apply_groups<'a, I: Iterator<Item = &'a KeySet>>(key_sets: impl Fn() -> I) {
    let members = || key_sets().flat_map(|keys| &keys.members);
    members().for_each(|member| member.group.leave_all());
    members().for_each(|member| member.group.join(&member.key));
}
