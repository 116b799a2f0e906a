//! The keys and settings of a pool as one configuration has them: the part of a pool that a reload replaces.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::Demand;
use super::availability_cache::AvailabilityCache;
use crate::availability::Availability;
use crate::balance::AffinityRing;
use crate::base_url::BaseUrl;
use crate::key::{Key, QuotaGroup, flag};
use crate::proxy_url::ProxyUrl;
use crate::settings::PoolSettings;

/// Number of keys that are looked at to count the usable ones of a large pool.
const MAX_COUNTED: usize = 1024;

/// The keys of a pool, with the settings that belong to them.
pub struct KeySet {
    pub(super) settings: Arc<PoolSettings>,
    pub(super) members: Box<[Member]>,
    pub(super) availability: Arc<Availability>,
    /// Decides which quota group serves a conversation; only under `affinity`.
    pub(super) ring: Option<AffinityRing>,
    pub(super) cache: AvailabilityCache,
    /// Where the search begins for a key about which the limiter's store is asked.
    pub(super) next_asked: AtomicUsize,
    /// How often every key was looked at to find the next available one.
    #[cfg(test)]
    pub(super) looks: AtomicU64,
}

/// A key in its pool, with what the pool's configuration says about it.
// The fields that a choice reads come first, on one cache line; see `Key`.
#[repr(C, align(64))]
pub struct Member {
    /// The key's state, shared by all pools that it is in.
    pub key: Arc<Key>,
    pub(super) group: Arc<QuotaGroup>,
    /// The model sent upstream instead of the one that the client named.
    pub model: Option<Arc<str>>,
    /// The key's name in this pool.
    pub name: Arc<str>,
    /// Where its calls go.
    pub base_url: BaseUrl,
    /// The proxy that they go through.
    pub proxy: Option<ProxyUrl>,
    /// What [`Prepare`](super::Prepare) made for it, such as the headers of its calls.
    pub(super) prepared: Arc<dyn Any + Send + Sync>,
}

/// A key of a pool, together with the key set that its index is valid in.
#[derive(Clone)]
pub struct MemberRef {
    keys: Arc<KeySet>,
    index: usize,
}

impl MemberRef {
    pub(super) fn new(keys: Arc<KeySet>, index: usize) -> Self {
        Self { keys, index }
    }

    /// The key set.
    pub fn keys(&self) -> &Arc<KeySet> {
        &self.keys
    }

    /// The key's index in the key set, from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl Deref for MemberRef {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.keys.members[self.index]
    }
}

impl Member {
    /// The model sent upstream for a client's `model`.
    pub fn upstream_model<'a>(&'a self, model: &'a Arc<str>) -> &'a Arc<str> {
        self.model.as_ref().unwrap_or(model)
    }

    /// The provider does not accept the key: it is invalid until somebody resets or replaces it.
    pub fn reject(&self) {
        self.key.invalidate();
    }

    /// What the registry's `prepare` made for this key; `None` if that was no `T`.
    pub fn prepared<T: Any>(&self) -> Option<&T> {
        self.prepared.downcast_ref()
    }
}

impl KeySet {
    /// The pool's settings.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// The keys, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The key at `index`, if there is one.
    pub fn member(self: &Arc<Self>, index: usize) -> Option<MemberRef> {
        (index < self.members.len()).then(|| MemberRef::new(Arc::clone(self), index))
    }

    /// Its keys no longer report their changes to this set: another one took its place.
    pub(super) fn detach(&self) {
        for member in &self.members {
            member.key.detach(&self.availability);
        }
    }

    /// See [`super::Pool::max_attempts`].
    pub(super) fn max_attempts(&self, demand: &Demand) -> u32 {
        let most = self.settings.retry.retries + 1;
        // More keys than this make no difference, so a large pool is not counted through.
        let enough = most.div_ceil(2) as usize;
        let free = match demand.bound_group {
            Some(_) => 0,
            None => self.availability.available.available_keys(),
        };
        let keys = if free >= enough {
            enough
        } else {
            free.max(self.count_usable(demand, enough))
        };
        most.min(2 * keys as u32)
    }

    /// Number of keys that may serve the demand and are neither disabled nor invalid, up to `enough`. Of a large
    /// pool every nth key is looked at, which finds enough of them unless nearly all are lost.
    fn count_usable(&self, demand: &Demand, enough: usize) -> usize {
        let step = match demand.bound_group {
            Some(_) => 1,
            None => self.members.len().div_ceil(MAX_COUNTED).max(1),
        };
        let is_usable = |member: &&Member| {
            member.key.flags() & (flag::DISABLED | flag::INVALID) == 0 && demand.admits(member)
        };
        let looked_at = self.members.iter().step_by(step);
        looked_at.filter(is_usable).take(enough).count()
    }

    /// Whether a look at every key found that all are cooling, and nothing has changed since.
    pub(super) fn is_known_unavailable(&self, model: &str, now: Instant) -> bool {
        let known = self.cache.of(model, self.availability.version(), now);
        known.is_some_and(|next_available| !next_available.slot_may_free)
    }

    /// Clears timed flags whose time has passed.
    pub(super) fn clear_expired(&self, now: Instant) {
        if !self.availability.take_due(now) {
            return;
        }
        for member in &self.members {
            member.key.clear_expired(now);
            if let Some(due) = member.key.next_due() {
                self.availability.note_due(due);
            }
        }
    }
}
