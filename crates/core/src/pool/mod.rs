//! A pool: keys that can stand in for each other, and the one place where a call gets the right to use one.
//!
//! The common case (a key is free, nobody waits) takes no lock. A request that finds no key waits in the pool's
//! queue. A pool outlives its keys: a reload replaces its [`KeySet`], while its queue and what it remembers stay.

mod availability_cache;
mod group;
mod health;
mod key_records;
mod key_set;
mod lease;
mod managed;
mod obstacle;
mod opinions;
mod outcome;
mod queue;
mod registry;
mod selection;
mod status;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use availability_cache::NextAvailable;
pub use group::{GroupId, ObjectOrigin};
pub use health::{NoFailover, PoolHealth};
pub use key_records::KeyRecords;
pub use key_set::{KeySet, Member, MemberRef};
pub use lease::{Lease, Leased, Suspect};
pub use obstacle::{ExcludedKey, Obstacle};
pub use opinions::{Opinion, Seeking};
pub use outcome::Effect;
pub use queue::{FairnessKey, Handoff, Lane, QueueFull, Ticket};
pub use registry::{Prepare, Registry};
pub use selection::{SelectedBy, Selection};
pub use status::{CooldownReport, KeyCounts, KeyReport, KeyState};

use crate::availability::WaitSignal;
use crate::balance::{self, Conversation, OverflowTable};
use crate::clock::Clock;
use crate::key::{Key, QuotaGroup, TakeTime, flag};
use crate::limit::Cost;
use opinions::Opinions;
use queue::WaitQueues;

/// How often a request may lose the race for a slot before it gives up on the available set.
const MAX_RACES: usize = 16;

/// A pool: it keeps its queue, its waiting requests and its memory of conversations while its keys change.
pub struct Pool {
    name: Arc<str>,
    provider: &'static str,
    keys: ArcSwap<KeySet>,
    wait_signal: Arc<WaitSignal>,
    queues: Mutex<WaitQueues>,
    /// Conversations served away from home; only used under `affinity`.
    overflow: OverflowTable,
    clock: Arc<dyn Clock>,
    /// What other groups say of refusals that no rule knows.
    opinions: Opinions,
    /// Held while a key is ejected, so that two at once cannot empty the pool.
    ejecting: Mutex<()>,
}

/// What a request needs of a pool, and which of its keys it has tried.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The model that the client asked for, as the provider names it; empty where calls name none.
    pub model: Arc<str>,
    /// The path of the endpoint that is called, without a pool's name.
    pub endpoint: Arc<str>,
    /// A hash of the conversation that the call belongs to; `None`: it belongs to none.
    pub conversation: Option<u64>,
    /// Keys that failed in this request. See [`Demand::note_failure`].
    pub tried: Vec<Tried>,
    /// Only keys of this group may serve it; `None`: any.
    pub bound_group: Option<Arc<QuotaGroup>>,
    /// What it uses of the keys' own limits.
    pub cost: Cost,
    /// Groups that must not serve it, since they refused this request for what it is.
    pub excluded_groups: Vec<Arc<QuotaGroup>>,
}

/// A key that failed in this request. Named by what a reload keeps, not by its index.
#[derive(Clone)]
pub struct Tried {
    key: Arc<Key>,
    /// One key may be in a pool twice, for different models.
    name: Arc<str>,
    not_before: Instant,
}

impl Demand {
    /// A demand for `model`, with nothing tried yet.
    pub fn of(model: impl Into<Arc<str>>) -> Self {
        Self {
            model: model.into(),
            ..Self::default()
        }
    }

    /// Notes that the key failed in this request and must not be tried again before `not_before`.
    pub fn note_failure(&mut self, member: &Member, not_before: Instant) {
        self.tried.retain(|tried| !tried.is(member));
        self.tried.push(Tried {
            key: Arc::clone(&member.key),
            name: Arc::clone(&member.name),
            not_before,
        });
    }

    /// Notes that no key of the member's group may serve the request.
    pub fn exclude_group_of(&mut self, member: &Member) {
        self.excluded_groups.push(Arc::clone(&member.group));
    }

    /// Whether it differs from other demands by its model alone, so that what was found for one holds for all.
    fn depends_on_model_only(&self) -> bool {
        self.tried.is_empty()
            && self.bound_group.is_none()
            && self.excluded_groups.is_empty()
            && self.cost == Cost::REQUEST
    }

    fn tried_until(&self, member: &Member, now: Instant) -> Option<Instant> {
        let tried = self.tried.iter().find(|tried| tried.is(member))?;
        (tried.not_before > now).then_some(tried.not_before)
    }

    fn was_tried(&self, member: &Member) -> bool {
        self.tried.iter().any(|tried| tried.is(member))
    }
}

impl Tried {
    fn is(&self, member: &Member) -> bool {
        Arc::ptr_eq(&self.key, &member.key) && self.name == member.name
    }
}

impl std::fmt::Debug for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tried({}, {:?})", self.name, self.not_before)
    }
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name of its provider.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// Its current keys and settings. Take them once for everything that must fit together: a reload may replace
    /// them at any time.
    pub fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// The same, to be read at once and not kept; cheaper, since nothing is counted.
    pub fn current(&self) -> impl Deref<Target = Arc<KeySet>> {
        self.keys.load()
    }

    /// Puts another set of keys in place of the current one, and serves waiting requests from it at once.
    fn replace_keys(self: &Arc<Self>, keys: Arc<KeySet>) {
        if Arc::ptr_eq(&keys, &self.keys.load()) {
            return;
        }
        self.keys.swap(keys).detach();
        // The next available key may be another one now.
        self.wait_signal.notify_changed();
        self.serve_waiting();
    }

    /// How many attempts a request gets now: `min(retries + 1, 2 × keys)`, counting keys that may serve it and are
    /// neither disabled nor invalid.
    pub fn max_attempts(&self, demand: &Demand) -> u32 {
        self.keys.load().max_attempts(demand)
    }

    /// A key for the demand, if one is free now and nobody waits: waiting requests come first (see [`Pool::join`]).
    pub fn acquire(self: &Arc<Self>, demand: &Demand) -> Option<Leased> {
        if self.waiting() > 0 {
            return None;
        }
        self.pick(&self.keys.load(), demand, self.clock.now())
    }

    /// The next key for the demand, even if requests wait.
    fn pick(self: &Arc<Self>, keys: &Arc<KeySet>, demand: &Demand, now: Instant) -> Option<Leased> {
        keys.clear_expired(now);
        if demand.depends_on_model_only() && keys.is_known_unavailable(&demand.model, now) {
            return None;
        }
        let passed = RefCell::new(Vec::new());
        let fits = |index: usize| match keys.why_not(index, demand, now) {
            None => true,
            Some(key) => {
                selection::note(&mut passed.borrow_mut(), key);
                false
            }
        };
        let untried = |index: usize| !demand.was_tried(&keys.members[index]) && fits(index);
        let mut picked = self.pick_among(keys, demand, now, untried);
        if picked.is_none() && !demand.tried.is_empty() {
            picked = self.pick_among(keys, demand, now, fits);
        }
        let picked = picked.or_else(|| self.pick_ejected(keys, demand, now));
        if picked.is_none() {
            keys.reserve_ahead_on_one(demand, now);
        }
        let (lease, by) = picked?;
        let selection =
            keys.selection(by, lease.member().index(), demand, now, passed.into_inner());
        Some(Leased { lease, selection })
    }

    fn pick_among(
        self: &Arc<Self>,
        keys: &Arc<KeySet>,
        demand: &Demand,
        now: Instant,
        fits: impl Fn(usize) -> bool,
    ) -> Option<(Lease, SelectedBy)> {
        let load = |index: usize| keys.members[index].key.active();
        let (strategy, available) = (keys.settings.strategy, &keys.availability.available);
        for _ in 0..MAX_RACES {
            if let (Some(ring), Some(id)) = (&keys.ring, demand.conversation) {
                let overflow = &self.overflow;
                let conversation = Conversation { id, now, overflow };
                let choice = ring.choose(&conversation, available, load, &fits)?;
                if let Some(lease) = self.take(keys, choice.index, demand, flag::BLOCKING) {
                    ring.note_served(&conversation, choice);
                    return Some((lease, SelectedBy::Affinity(choice.found)));
                }
                continue;
            }
            let index = balance::choose(strategy, available, load, &fits)?;
            if let Some(lease) = self.take(keys, index, demand, flag::BLOCKING) {
                return Some((lease, SelectedBy::Strategy(strategy)));
            }
        }
        None
    }

    /// With no other key usable, an ejected one serves: when all fail alike, it is the provider.
    fn pick_ejected(
        self: &Arc<Self>,
        keys: &Arc<KeySet>,
        demand: &Demand,
        now: Instant,
    ) -> Option<(Lease, SelectedBy)> {
        let mut ejected = Vec::new();
        for (index, member) in keys.members.iter().enumerate() {
            let obstacle = keys.why_not(index, demand, now).map(|why| why.obstacle);
            let is_ejected = member.key.flags() & flag::EJECTED_OR_PROBING != 0;
            match obstacle {
                Some(Obstacle::Ejected | Obstacle::Probing) => ejected.push(index),
                None | Some(Obstacle::Full | Obstacle::Tried) if !is_ejected => return None,
                _ => {}
            }
        }
        let was_tried = |index: &usize| demand.was_tried(&keys.members[*index]);
        ejected.sort_by_key(|index| (was_tried(index), keys.members[*index].key.active()));
        let lease = ejected
            .into_iter()
            .find_map(|index| self.take(keys, index, demand, flag::UNUSABLE | flag::FULL))?;
        Some((lease, SelectedBy::LastResort))
    }

    fn take(
        self: &Arc<Self>,
        keys: &Arc<KeySet>,
        index: usize,
        demand: &Demand,
        blocked_by: u32,
    ) -> Option<Lease> {
        let member = &keys.members[index];
        let time = TakeTime {
            wall_ms: wall_ms(&*self.clock),
            clock: &*self.clock,
        };
        let slot = member.key.take(blocked_by, &demand.cost, time)?;
        let model = Arc::clone(member.upstream_model(&demand.model));
        member.key.note_model(&model);
        Some(Lease::new(
            Arc::clone(self),
            MemberRef::new(Arc::clone(keys), index),
            model,
            slot,
            demand,
        ))
    }
}

fn wall_ms(clock: &dyn Clock) -> u64 {
    let since = clock
        .wall()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
