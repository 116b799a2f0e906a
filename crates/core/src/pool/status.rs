//! The status of a pool: each key's state, and when a key can be available again.

use std::sync::Arc;
use std::time::Instant;

use super::{Demand, KeySet, Member, NextAvailable, Obstacle, Pool};
use crate::cooldowns::is_at_endpoint;
use crate::fault::Class;
use crate::key::flag;
use crate::limit::Cost;

/// A key's state as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyState {
    /// Takes calls.
    Active,
    /// Cooling down: rate-limited for the only model in use, or ejected by its breaker.
    Cooling,
    /// Its group has no quota or balance left.
    Exhausted,
    /// The provider does not accept it.
    Invalid,
    /// An operator switched it off.
    Disabled,
}

impl KeyState {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cooling => "cooling",
            Self::Exhausted => "exhausted",
            Self::Invalid => "invalid",
            Self::Disabled => "disabled",
        }
    }
}

/// One cooldown of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CooldownReport {
    /// The model that it applies to; `None`: all models.
    pub model: Option<Arc<str>>,
    /// When it ends.
    pub until: Instant,
    /// What caused it.
    pub class: Class,
}

/// The state and counters of one key.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// The key's name.
    pub name: Arc<str>,
    /// Calls in flight.
    pub active: u32,
    /// Attempts so far.
    pub total: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// When it was last used, in milliseconds since the Unix epoch; `None`: never.
    pub last_used_ms: Option<u64>,
    /// The key's state.
    pub state: KeyState,
    /// Whether it could take a request now.
    pub is_available: bool,
    /// The cooldowns of the key and its group, the first to end first.
    pub cooldowns: Vec<CooldownReport>,
}

/// How many keys are in which state, for one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// All keys that may serve.
    pub total: usize,
    /// Free, or with all slots in use.
    pub active: usize,
    /// Rate-limited for this model.
    pub rate_limited: usize,
    /// At a limit of their own.
    pub over_limit: usize,
    /// Forbidden for this model.
    pub forbidden: usize,
    /// Ejected by the breaker.
    pub ejected: usize,
    /// Without quota or balance.
    pub exhausted: usize,
    /// Not accepted by the provider.
    pub invalid: usize,
    /// Switched off by an operator.
    pub disabled: usize,
}

impl Pool {
    /// Every key's state and counters, in the order of the configuration.
    pub fn report(&self) -> Vec<KeyReport> {
        let (keys, now) = (self.keys.load(), self.clock.now());
        keys.clear_expired(now);
        let members = keys.members.iter();
        members.map(|member| member.report_at(now)).collect()
    }

    /// The names of the keys that do not serve, or fail more often than the breaker allows.
    pub fn failing(&self) -> Vec<Arc<str>> {
        let (keys, now) = (self.keys.load(), self.clock.now());
        keys.clear_expired(now);
        let settings = &keys.settings.breaker;
        let fails = |member: &&Member| {
            let report = member.report_at(now);
            let counts = || member.key.breaker.lock().counts(settings, now);
            report.state != KeyState::Active || counts().is_over_threshold(settings)
        };
        let failing = keys.members.iter().filter(fails);
        failing.map(|member| Arc::clone(&member.name)).collect()
    }

    /// When the demand may expect a key. A key that this request tried counts as cooling until its back-off ends.
    pub fn next_available(&self, demand: &Demand) -> NextAvailable {
        self.keys.load().next_available(demand, self.clock.now())
    }

    /// The states of the keys that may serve the demand, for its model.
    pub fn key_counts(&self, demand: &Demand) -> KeyCounts {
        let (keys, now) = (self.keys.load(), self.clock.now());
        keys.clear_expired(now);
        let mut counts = KeyCounts::default();
        for index in 0..keys.members.len() {
            let why_not = keys.why_not(index, demand, now);
            counts.add(why_not.map(|key| key.obstacle));
        }
        counts
    }
}

impl KeySet {
    fn next_available(&self, demand: &Demand, now: Instant) -> NextAvailable {
        if !demand.depends_on_model_only() {
            return self.compute_next_available(demand, now);
        }
        let version = self.availability.version();
        if let Some(known) = self.cache.of(&demand.model, version, now) {
            return known;
        }
        let next_available = self.compute_next_available(demand, now);
        // What holds at one endpoint only says nothing of the others.
        if !self.any_forbidden_at_endpoint(now) {
            self.cache.keep(&demand.model, version, next_available);
        }
        next_available
    }

    fn any_forbidden_at_endpoint(&self, now: Instant) -> bool {
        let mut keys = self.members.iter().map(|member| &member.key);
        keys.any(|key| key.forbidden.any_at_endpoint(now))
    }

    /// Looks at every key.
    fn compute_next_available(&self, demand: &Demand, now: Instant) -> NextAvailable {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut next_available = NextAvailable::default();
        for index in 0..self.members.len() {
            let why_not = self.why_not(index, demand, now);
            let (slot_may_free, ends) = match why_not.map(|key| key.obstacle) {
                None | Some(Obstacle::Full | Obstacle::Probing) => (true, None),
                Some(Obstacle::OtherGroup | Obstacle::Disabled | Obstacle::Invalid) => continue,
                Some(
                    Obstacle::Exhausted
                    | Obstacle::Forbidden
                    | Obstacle::RateLimited
                    | Obstacle::Tried,
                ) => (false, self.cooling_until(index, demand, now)),
                Some(Obstacle::OverLimit) => {
                    let no_room = self.members[index].key.no_room(&demand.cost, now);
                    let may_free = no_room.is_none_or(|no_room| no_room.may_free);
                    (may_free, self.cooling_until(index, demand, now))
                }
                // An ejected key serves if no other can; and when its probe is due, it may serve again.
                Some(Obstacle::Ejected) => (true, self.members[index].key.open_until()),
            };
            next_available.slot_may_free |= slot_may_free;
            let earlier = next_available.cooldown_ends;
            next_available.cooldown_ends = earlier.into_iter().chain(ends).min();
        }
        next_available
    }
}

impl KeyCounts {
    /// Counts a key by what keeps it from serving.
    fn add(&mut self, obstacle: Option<Obstacle>) {
        let count = match obstacle {
            Some(Obstacle::OtherGroup) => return,
            None | Some(Obstacle::Full | Obstacle::Tried) => &mut self.active,
            Some(Obstacle::Disabled) => &mut self.disabled,
            Some(Obstacle::Invalid) => &mut self.invalid,
            Some(Obstacle::Exhausted) => &mut self.exhausted,
            Some(Obstacle::Forbidden) => &mut self.forbidden,
            Some(Obstacle::RateLimited) => &mut self.rate_limited,
            Some(Obstacle::OverLimit) => &mut self.over_limit,
            Some(Obstacle::Ejected | Obstacle::Probing) => &mut self.ejected,
        };
        *count += 1;
        self.total += 1;
    }
}

impl Member {
    pub(super) fn report_at(&self, now: Instant) -> KeyReport {
        let key = &self.key;
        let flags = key.flags();
        let cooldowns = self.cooldowns(now);
        let only_model_cools = cooldowns
            .iter()
            .filter_map(|cooldown| cooldown.model.as_ref())
            .filter(|model| !is_at_endpoint(model))
            .any(|model| self.model.is_some() || key.only_model_is(model));
        let state = match Obstacle::of_flags(flags) {
            Some(Obstacle::Disabled) => KeyState::Disabled,
            Some(Obstacle::Invalid) => KeyState::Invalid,
            Some(Obstacle::Exhausted) => KeyState::Exhausted,
            Some(Obstacle::Ejected | Obstacle::Probing) => KeyState::Cooling,
            _ if only_model_cools => KeyState::Cooling,
            _ => KeyState::Active,
        };
        KeyReport {
            name: Arc::clone(&self.name),
            active: key.active(),
            total: key.total(),
            failed: key.failed(),
            last_used_ms: key.last_used_ms(),
            state,
            is_available: flags & flag::BLOCKING == 0
                && !only_model_cools
                && key
                    .no_room(&Cost::REQUEST, now)
                    .is_none_or(|no_room| no_room.is_unknown),
            cooldowns,
        }
    }

    fn cooldowns(&self, now: Instant) -> Vec<CooldownReport> {
        let whole = [
            (self.key.exhausted_until(), Class::Exhausted),
            (self.key.open_until(), Class::UpstreamTrouble),
        ];
        let whole = whole.into_iter().filter_map(|(until, class)| {
            Some(CooldownReport {
                model: None,
                until: until?,
                class,
            })
        });
        let mut models = self.group.cooldowns.list(now);
        models.extend(self.key.forbidden.list(now));
        let models = models.into_iter().map(|(model, cooldown)| CooldownReport {
            model: Some(model),
            until: cooldown.until,
            class: cooldown.class,
        });
        let mut cooldowns: Vec<CooldownReport> = whole.chain(models).collect();
        cooldowns.sort_by_key(|cooldown| cooldown.until);
        cooldowns
    }
}
