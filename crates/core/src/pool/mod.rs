//! A pool: keys that can stand in for each other, and the one index where a call gets the right to use one.
//!
//! The common case (a key is free, nobody waits) takes no lock. A request that finds no key waits in the pool's queue.

mod availability_cache;
mod choice;
mod group;
mod health;
mod lease;
mod outcome;
mod queue;
mod registry;
mod status;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;

pub use choice::{Obstacle, SelectedBy, Selection, Skipped};
pub use group::{GroupId, ObjectOrigin, OnlyGroup};
pub use health::{CommonCause, NoFailover, PoolHealth};
pub use lease::Lease;
pub use outcome::Effect;
pub use queue::{Caller, Handoff, QueueFull, Ticket};
pub use registry::Registry;
pub use status::{CooldownReport, KeyCounts, KeyReport, KeyState, NextAvailable};

use crate::availability::Availability;
use crate::balance::{self, AffinityRing};
use crate::base_url::BaseUrl;
use crate::clock::Clock;
use crate::key::{Group, Key, flag};
use crate::proxy_url::ProxyUrl;
use crate::settings::PoolSettings;
use availability_cache::AvailabilityCache;
use queue::Lines;

/// A race for a slot is lost at most so often before the request looks at the pool as a whole.
const MAX_RACES: usize = 16;

/// One pool as one configuration has it.
pub struct Pool {
    settings: PoolSettings,
    members: Box<[Member]>,
    availability: Arc<Availability>,
    /// Where conversations are at home; only under `affinity`.
    ring: Option<AffinityRing>,
    availability_cache: AvailabilityCache,
    lines: Mutex<Lines>,
    clock: Arc<dyn Clock>,
    /// Held while a key is set aside, so that two at once cannot empty the pool.
    ejecting: Mutex<()>,
    /// How many keys may serve, under which version of the availability (version × 2^16 + keys).
    usable: AtomicU64,
    /// How often every key was looked at.
    #[cfg(test)]
    looks: AtomicU64,
}

/// A key in its pool: what the pool's configuration says of it.
// What a choice reads stands first, on one cache line: among ten thousand keys every line is a wait for memory.
#[repr(C, align(64))]
pub struct Member {
    /// Its state, shared by all pools it stands in.
    pub key: Arc<Key>,
    group: Arc<Group>,
    /// The model sent upstream in index of the one asked for.
    pub model: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Where its calls go.
    pub base_url: BaseUrl,
    /// The proxy that they go through.
    pub proxy: Option<ProxyUrl>,
}

/// What a request needs of a pool, and what it has tried already.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The model that the client asked for, as the provider names it; empty where calls name none.
    pub model: Arc<str>,
    /// The conversation that the call belongs to, as a hash; `None` where it belongs to none.
    pub conversation: Option<u64>,
    /// Places that failed in this request, and when each may be tried again.
    pub tried: Vec<Tried>,
    /// Only keys of this group may serve it; `None`: any.
    pub only_group: Option<OnlyGroup>,
}

/// A index that failed in this request.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Its index in the pool.
    pub index: usize,
    /// Not before then again.
    pub not_before: Instant,
}

impl Demand {
    /// A demand for `model`, nothing tried yet.
    pub fn of(model: impl Into<Arc<str>>) -> Self {
        Self {
            model: model.into(),
            conversation: None,
            tried: Vec::new(),
            only_group: None,
        }
    }

    /// Notes that `index` failed and is not to be tried before `not_before`.
    pub fn note_failure(&mut self, index: usize, not_before: Instant) {
        self.tried.retain(|tried| tried.index != index);
        self.tried.push(Tried { index, not_before });
    }

    /// Whether it differs from other demands by its model alone, so that what was found out for one holds for all.
    fn is_plain(&self) -> bool {
        self.tried.is_empty() && self.only_group.is_none()
    }

    fn tried_until(&self, index: usize, now: Instant) -> Option<Instant> {
        self.tried
            .iter()
            .find(|tried| tried.index == index && tried.not_before > now)
            .map(|tried| tried.not_before)
    }

    fn was_tried(&self, index: usize) -> bool {
        self.tried.iter().any(|tried| tried.index == index)
    }
}

impl Member {
    /// The model sent upstream for a client's `model`.
    pub fn upstream_model<'a>(&'a self, model: &'a Arc<str>) -> &'a Arc<str> {
        self.model.as_ref().unwrap_or(model)
    }

    /// When this member's rests for `model` end.
    fn cooling_until(&self, model: &Arc<str>, now: Instant) -> Option<Instant> {
        let model = self.upstream_model(model);
        let group = self.group.cooldowns.until(model, now);
        group.max(self.key.forbidden.until(model, now))
    }
}

impl Pool {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Its settings.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// Its keys, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many attempts a request gets now: `min(retries + 1, 2 × keys)`, counting keys that may serve it and are
    /// neither disabled nor invalid.
    pub fn max_attempts(&self, demand: &Demand) -> u32 {
        let most = self.settings.retry.retries + 1;
        // More keys than this make no difference, so a large pool is not counted through.
        let enough = most.div_ceil(2) as usize;
        let keys = match self.availability.available.free_keys() {
            _ if demand.only_group.is_some() => self.count_usable(demand, enough),
            free if free >= enough => enough,
            _ => self.usable(demand, enough),
        };
        most.min(2 * keys as u32)
    }

    /// How many keys may serve the demand and are neither disabled nor invalid, up to `enough`.
    fn count_usable(&self, demand: &Demand, enough: usize) -> usize {
        let usable = |member: &&Member| {
            member.key.flags() & (flag::DISABLED | flag::INVALID) == 0 && demand.admits(member)
        };
        self.members.iter().filter(usable).take(enough).count()
    }

    /// The same for a demand that any key may serve, remembered.
    fn usable(&self, demand: &Demand, enough: usize) -> usize {
        const COUNT_BITS: u32 = 16;
        let version = self.availability.version();
        let known = self.usable.load(SeqCst);
        if known >> COUNT_BITS == version {
            return (known & ((1 << COUNT_BITS) - 1)) as usize;
        }
        let keys = self.count_usable(demand, enough);
        self.usable
            .store(version << COUNT_BITS | keys as u64, SeqCst);
        keys
    }

    /// A key for the demand, if one is free now and nobody waits; those who wait come first (see [`Pool::join`]).
    pub fn acquire(self: &Arc<Self>, demand: &Demand) -> Option<Lease> {
        if self.waiting() > 0 {
            return None;
        }
        self.pick(demand, self.clock.now())
    }

    /// The next key for the demand, whoever waits.
    fn pick(self: &Arc<Self>, demand: &Demand, now: Instant) -> Option<Lease> {
        self.wake_due(now);
        if demand.is_plain() && self.is_known_unavailable(&demand.model, now) {
            return None;
        }
        let passed = RefCell::new(Vec::new());
        let fits = |index: usize| match self.obstacle_in_time(index, demand, now) {
            None => true,
            Some((obstacle, until)) => {
                choice::note(&mut passed.borrow_mut(), index, obstacle, until);
                false
            }
        };
        let untried = |index: usize| !demand.was_tried(index) && fits(index);
        let mut picked = self.pick_among(demand, now, untried);
        if picked.is_none() && !demand.tried.is_empty() {
            picked = self.pick_among(demand, now, fits);
        }
        let picked =
            picked.or_else(|| Some((self.pick_ejected(demand, now)?, SelectedBy::LastResort)));
        let (lease, by) = picked?;
        let choice = self.choice(by, lease.index(), demand, now, passed.into_inner());
        Some(lease.chosen(choice))
    }

    /// Whether a look at every key found that all rest, and nothing has changed since.
    fn is_known_unavailable(&self, model: &str, now: Instant) -> bool {
        let known = self
            .availability_cache
            .of(model, self.availability.version(), now);
        known.is_some_and(|next_available| !next_available.slot_may_free)
    }

    fn pick_among(
        self: &Arc<Self>,
        demand: &Demand,
        now: Instant,
        fits: impl Fn(usize) -> bool,
    ) -> Option<(Lease, SelectedBy)> {
        let load = |index: usize| self.members[index].key.active();
        let (strategy, available) = (self.settings.strategy, &self.availability.available);
        for _ in 0..MAX_RACES {
            if let (Some(ring), Some(conversation)) = (&self.ring, demand.conversation) {
                let chosen = ring.choose(conversation, now, available, load, &fits)?;
                if let Some(lease) = self.take(chosen.0, demand, flag::BLOCKING) {
                    ring.note_served(conversation, chosen, now);
                    return Some((lease, SelectedBy::of(chosen.1)));
                }
                continue;
            }
            let index = balance::choose(strategy, available, load, &fits)?;
            if let Some(lease) = self.take(index, demand, flag::BLOCKING) {
                return Some((lease, SelectedBy::Strategy(strategy)));
            }
        }
        None
    }

    /// With no other key usable, one whose breaker is open serves: when all fail alike it is the provider.
    fn pick_ejected(self: &Arc<Self>, demand: &Demand, now: Instant) -> Option<Lease> {
        const OPEN: u32 = flag::EJECTED | flag::PROBING;
        const GONE: u32 = flag::DISABLED | flag::INVALID | flag::EXHAUSTED;
        let rests = |member: &Member| member.cooling_until(&demand.model, now).is_some();
        let mut ejected = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            let flags = member.key.flags();
            if flags & GONE != 0 || rests(member) || !demand.admits(member) {
                continue;
            }
            if flags & OPEN == 0 {
                return None;
            }
            if flags & flag::FULL == 0 && demand.tried_until(index, now).is_none() {
                ejected.push(index);
            }
        }
        ejected.sort_by_key(|index| (demand.was_tried(*index), self.members[*index].key.active()));
        ejected
            .into_iter()
            .find_map(|index| self.take(index, demand, GONE | flag::FULL))
    }

    /// What keeps a index from serving this demand for a while, beside its key's flags.
    fn obstacle_in_time(
        &self,
        index: usize,
        demand: &Demand,
        now: Instant,
    ) -> Option<(Obstacle, Option<Instant>)> {
        let member = &self.members[index];
        if !demand.admits(member) {
            return Some((Obstacle::OtherGroup, None));
        }
        let model = member.upstream_model(&demand.model);
        let forbidden = member.key.forbidden.until(model, now);
        let limited = member.group.cooldowns.until(model, now);
        let (obstacle, until) = match (forbidden, limited) {
            (Some(until), _) => (Obstacle::Forbidden, until),
            (None, Some(until)) => (Obstacle::RateLimited, until),
            (None, None) => (Obstacle::Tried, demand.tried_until(index, now)?),
        };
        Some((obstacle, Some(until)))
    }

    fn take(self: &Arc<Self>, index: usize, demand: &Demand, blocked_by: u32) -> Option<Lease> {
        let key = &self.members[index].key;
        let taken = key.take(blocked_by, wall_ms(&*self.clock))?;
        let model = Arc::clone(self.members[index].upstream_model(&demand.model));
        key.note_model(&model);
        Some(Lease::new(Arc::clone(self), index, model, taken.probe))
    }

    /// Ends the timed flags that have come to their end.
    fn wake_due(&self, now: Instant) {
        if !self.availability.take_due(now) {
            return;
        }
        for member in &self.members {
            member.key.wake_if_due(now);
            if let Some(due) = member.key.next_due() {
                self.availability.note_due(due);
            }
        }
    }
}

fn wall_ms(clock: &dyn Clock) -> u64 {
    let since = clock
        .wall()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
