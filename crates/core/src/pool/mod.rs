//! A pool: keys that can stand in for each other, and the one place where a call gets the right to use one.
//!
//! The common case (a key is free, nobody waits) takes no lock. A request that finds no key waits in the pool's queue.

mod census;
mod group;
mod lease;
mod outcome;
mod queue;
mod registry;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

pub use census::{Census, Cooldown, KeyReport, KeyState, Outlook};
pub use group::{GroupId, OnlyGroup};
pub use lease::Lease;
pub use outcome::Consequence;
pub use queue::{Caller, Handoff, QueueFull, Ticket};
pub use registry::Registry;

use crate::balance;
use crate::base_url::BaseUrl;
use crate::board::Board;
use crate::clock::Clock;
use crate::key::{Group, Key, flag};
use crate::settings::PoolSettings;
use queue::Lines;

/// A race for a slot is lost at most so often before the request looks at the pool as a whole.
const MAX_RACES: usize = 16;

/// One pool as one configuration has it.
pub struct Pool {
    settings: PoolSettings,
    members: Box<[Member]>,
    board: Arc<Board>,
    lines: Mutex<Lines>,
    clock: Arc<dyn Clock>,
    /// Held while a key is set aside, so that two at once cannot empty the pool.
    ejecting: Mutex<()>,
}

/// A key in its pool: what the pool's configuration says of it.
pub struct Member {
    /// Its state, shared by all pools it stands in.
    pub key: Arc<Key>,
    /// Its name.
    pub name: Arc<str>,
    /// Where its calls go.
    pub base_url: BaseUrl,
    /// The model sent upstream in place of the one asked for.
    pub model: Option<Arc<str>>,
    group: Arc<Group>,
}

/// What a request needs of a pool, and what it has tried already.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The model that the client asked for, as the provider names it; empty where calls name none.
    pub model: Arc<str>,
    /// Places that failed in this request, and when each may be tried again.
    pub tried: Vec<Tried>,
    /// Only keys of this group may serve it; `None`: any.
    pub only_group: Option<OnlyGroup>,
}

/// A place that failed in this request.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Its place in the pool.
    pub place: usize,
    /// Not before then again.
    pub not_before: Instant,
}

impl Demand {
    /// A demand for `model`, nothing tried yet.
    pub fn of(model: impl Into<Arc<str>>) -> Self {
        Self {
            model: model.into(),
            tried: Vec::new(),
            only_group: None,
        }
    }

    /// Notes that `place` failed and is not to be tried before `not_before`.
    pub fn note_failure(&mut self, place: usize, not_before: Instant) {
        self.tried.retain(|tried| tried.place != place);
        self.tried.push(Tried { place, not_before });
    }

    fn tried_until(&self, place: usize, now: Instant) -> Option<Instant> {
        self.tried
            .iter()
            .find(|tried| tried.place == place && tried.not_before > now)
            .map(|tried| tried.not_before)
    }

    fn was_tried(&self, place: usize) -> bool {
        self.tried.iter().any(|tried| tried.place == place)
    }
}

impl Member {
    /// The model sent upstream for a client's `model`.
    pub fn upstream_model<'a>(&'a self, model: &'a Arc<str>) -> &'a Arc<str> {
        self.model.as_ref().unwrap_or(model)
    }

    /// When this member's rests for `model` end.
    fn rests_until(&self, model: &Arc<str>, now: Instant) -> Option<Instant> {
        let model = self.upstream_model(model);
        let group = self.group.rests.until(model, now);
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
        let usable = |member: &&Member| {
            member.key.flags() & (flag::DISABLED | flag::INVALID) == 0 && demand.admits(member)
        };
        // More keys than this make no difference, so a large pool is not counted through.
        let enough = most.div_ceil(2) as usize;
        let keys = self.members.iter().filter(usable).take(enough).count();
        most.min(2 * keys as u32)
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
        let untried = |place: usize| !demand.was_tried(place) && self.fits(place, demand, now);
        let lease = self.pick_among(demand, untried);
        if lease.is_some() || demand.tried.is_empty() {
            return lease.or_else(|| self.pick_ejected(demand, now));
        }
        self.pick_among(demand, |place| self.fits(place, demand, now))
            .or_else(|| self.pick_ejected(demand, now))
    }

    fn pick_among(
        self: &Arc<Self>,
        demand: &Demand,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Lease> {
        for _ in 0..MAX_RACES {
            let load = |place: usize| self.members[place].key.active();
            let place =
                balance::choose(self.settings.strategy, &self.board.available, load, &fits)?;
            if let Some(lease) = self.take(place, demand, flag::BLOCKING) {
                return Some(lease);
            }
        }
        None
    }

    /// With no other key usable, one whose breaker is open serves: when all fail alike it is the provider.
    fn pick_ejected(self: &Arc<Self>, demand: &Demand, now: Instant) -> Option<Lease> {
        const SET_ASIDE: u32 = flag::EJECTED | flag::ON_TRIAL;
        const GONE: u32 = flag::DISABLED | flag::INVALID | flag::EXHAUSTED;
        let rests = |member: &Member| member.rests_until(&demand.model, now).is_some();
        let mut ejected = Vec::new();
        for (place, member) in self.members.iter().enumerate() {
            let flags = member.key.flags();
            if flags & GONE != 0 || rests(member) || !demand.admits(member) {
                continue;
            }
            if flags & SET_ASIDE == 0 {
                return None;
            }
            if flags & flag::FULL == 0 && demand.tried_until(place, now).is_none() {
                ejected.push(place);
            }
        }
        ejected.sort_by_key(|place| (demand.was_tried(*place), self.members[*place].key.active()));
        ejected
            .into_iter()
            .find_map(|place| self.take(place, demand, GONE | flag::FULL))
    }

    fn fits(&self, place: usize, demand: &Demand, now: Instant) -> bool {
        demand.admits(&self.members[place])
            && demand.tried_until(place, now).is_none()
            && self.members[place]
                .rests_until(&demand.model, now)
                .is_none()
    }

    fn take(self: &Arc<Self>, place: usize, demand: &Demand, blocked_by: u32) -> Option<Lease> {
        let key = &self.members[place].key;
        let taken = key.take(blocked_by, wall_ms(&*self.clock))?;
        let model = Arc::clone(self.members[place].upstream_model(&demand.model));
        key.note_model(&model);
        Some(Lease::new(Arc::clone(self), place, model, taken.trial))
    }

    /// Ends the timed flags that have come to their end.
    fn wake_due(&self, now: Instant) {
        if !self.board.take_due(now) {
            return;
        }
        for member in &self.members {
            member.key.wake_if_due(now);
            if let Some(due) = member.key.next_due() {
                self.board.note_due(due);
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
