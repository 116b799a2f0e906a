//! What can be told of a pool: each key's state, when a key will be back, and why none can be had.

use std::sync::Arc;
use std::time::Instant;

use super::{Demand, Member, Pool};
use crate::fault::Class;
use crate::key::flag;

/// A key's state as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyState {
    /// Takes calls.
    Active,
    /// Cooldowns for a while: rate-limited for the only model in use, or set aside by its breaker.
    Cooling,
    /// Its group's quota or balance is used up.
    Exhausted,
    /// The provider does not accept it.
    Invalid,
    /// Switched off.
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

/// One rest, for one model or (`None`) for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CooldownReport {
    /// The model that rests.
    pub model: Option<Arc<str>>,
    /// Until when.
    pub until: Instant,
    /// Why.
    pub class: Class,
}

/// One key as the statistics show it.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// Its name.
    pub name: Arc<str>,
    /// Calls in flight.
    pub active: u32,
    /// Attempts so far.
    pub total: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Milliseconds since the Unix epoch; `None`: never used.
    pub last_used_ms: Option<u64>,
    /// Its state.
    pub state: KeyState,
    /// Whether it could take a request now.
    pub is_available: bool,
    /// Its rests.
    pub cooldowns: Vec<CooldownReport>,
}

/// When a request that finds no key may expect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextAvailable {
    /// A key is in use up to its cap; a slot may free at any time.
    pub slot_may_free: bool,
    /// When the first resting key is due back.
    pub cooldown_ends: Option<Instant>,
}

impl NextAvailable {
    /// Whether a key may be had before `deadline`.
    pub fn comes_before(&self, deadline: Instant) -> bool {
        self.slot_may_free || self.cooldown_ends.is_some_and(|at| at <= deadline)
    }
}

/// How many keys are in which state, as far as one model is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// All keys that may serve.
    pub total: usize,
    /// Free, or in use up to their cap.
    pub active: usize,
    /// Rate-limited for this model.
    pub rate_limited: usize,
    /// Forbidden for this model.
    pub forbidden: usize,
    /// Set aside by the breaker.
    pub ejected: usize,
    /// Without quota or balance.
    pub exhausted: usize,
    /// Not accepted by the provider.
    pub invalid: usize,
    /// Switched off.
    pub disabled: usize,
}

impl Pool {
    /// Every key's state and counters, in the order of the configuration.
    pub fn report(&self) -> Vec<KeyReport> {
        let now = self.clock.now();
        self.wake_due(now);
        self.members
            .iter()
            .map(|member| member.report(now))
            .collect()
    }

    /// The keys that do not serve, or fail more often than the breaker allows.
    pub fn failing(&self) -> Vec<Arc<str>> {
        let now = self.clock.now();
        self.wake_due(now);
        let settings = &self.settings.breaker;
        let fails = |member: &&Member| {
            let report = member.report(now);
            let counts = || member.key.breaker().lock().counts(settings, now);
            report.state != KeyState::Active || counts().is_over_threshold(settings)
        };
        self.members
            .iter()
            .filter(fails)
            .map(|member| Arc::clone(&member.name))
            .collect()
    }

    /// Whether all keys belong to one quota group, so that they rest together.
    pub fn is_one_group(&self) -> bool {
        self.members
            .windows(2)
            .all(|pair| Arc::ptr_eq(&pair[0].group, &pair[1].group))
    }

    /// When the demand may expect a key. What this very request tried counts as resting until its back-off ends.
    pub fn next_available(&self, demand: &Demand) -> NextAvailable {
        let now = self.clock.now();
        if !demand.is_plain() {
            return self.compute_next_available(demand, now);
        }
        let version = self.availability.version();
        if let Some(known) = self.availability_cache.of(&demand.model, version, now) {
            return known;
        }
        let next_available = self.compute_next_available(demand, now);
        self.availability_cache
            .keep(&demand.model, version, next_available);
        next_available
    }

    /// The next_available, from a look at every key.
    fn compute_next_available(&self, demand: &Demand, now: Instant) -> NextAvailable {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut next_available = NextAvailable::default();
        for (index, member) in self.members.iter().enumerate() {
            let flags = member.key.flags();
            if flags & (flag::DISABLED | flag::INVALID) != 0 || !demand.admits(member) {
                continue;
            }
            let exhausted = member
                .key
                .exhausted_until()
                .filter(|_| flags & flag::EXHAUSTED != 0);
            let rests = member
                .cooling_until(&demand.model, now)
                .max(exhausted)
                .max(demand.tried_until(index, now));
            // A key that is set aside serves if no other can; when its probe is due, things change all the same.
            let open = member
                .key
                .open_until()
                .filter(|_| flags & flag::EJECTED != 0);
            next_available.slot_may_free |= rests.is_none();
            next_available.cooldown_ends = [next_available.cooldown_ends, rests.or(open)]
                .into_iter()
                .flatten()
                .min();
        }
        next_available
    }

    /// How the keys that may serve the demand stand with regard to its model.
    pub fn key_counts(&self, demand: &Demand) -> KeyCounts {
        let now = self.clock.now();
        self.wake_due(now);
        if !demand.is_plain() {
            return self.count(demand, now);
        }
        let version = self.availability.version();
        if let Some(known) = self
            .availability_cache
            .key_counts_of(&demand.model, version, now)
        {
            return known;
        }
        let key_counts = self.count(demand, now);
        self.availability_cache
            .keep_key_counts(&demand.model, version, key_counts);
        key_counts
    }

    fn count(&self, demand: &Demand, now: Instant) -> KeyCounts {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut key_counts = KeyCounts::default();
        for member in self.members.iter().filter(|member| demand.admits(member)) {
            key_counts.total += 1;
            *key_counts.count_of(member, &demand.model, now) += 1;
        }
        key_counts
    }
}

impl KeyCounts {
    fn count_of(&mut self, member: &Member, model: &Arc<str>, now: Instant) -> &mut usize {
        let flags = member.key.flags();
        let upstream_model = member.upstream_model(model);
        match flags {
            _ if flags & flag::DISABLED != 0 => &mut self.disabled,
            _ if flags & flag::INVALID != 0 => &mut self.invalid,
            _ if flags & flag::EXHAUSTED != 0 => &mut self.exhausted,
            _ if member.key.forbidden.until(upstream_model, now).is_some() => &mut self.forbidden,
            _ if member.group.cooldowns.until(upstream_model, now).is_some() => {
                &mut self.rate_limited
            }
            _ if flags & (flag::EJECTED | flag::PROBING) != 0 => &mut self.ejected,
            _ => &mut self.active,
        }
    }
}

impl Member {
    fn report(&self, now: Instant) -> KeyReport {
        let key = &self.key;
        let flags = key.flags();
        let cooldowns = self.cooldowns(now);
        let only_model_cools = cooldowns
            .iter()
            .filter_map(|cooldown| cooldown.model.as_ref())
            .any(|model| self.model.is_some() || key.only_model_is(model));
        let state = match flags {
            _ if flags & flag::DISABLED != 0 => KeyState::Disabled,
            _ if flags & flag::INVALID != 0 => KeyState::Invalid,
            _ if flags & flag::EXHAUSTED != 0 => KeyState::Exhausted,
            _ if flags & (flag::EJECTED | flag::PROBING) != 0 || only_model_cools => {
                KeyState::Cooling
            }
            _ => KeyState::Active,
        };
        KeyReport {
            name: Arc::clone(&self.name),
            active: key.active(),
            total: key.total(),
            failed: key.failed(),
            last_used_ms: key.last_used_ms(),
            state,
            is_available: flags & flag::BLOCKING == 0 && !only_model_cools,
            cooldowns,
        }
    }

    fn cooldowns(&self, now: Instant) -> Vec<CooldownReport> {
        let whole = |until: Option<Instant>, class| {
            until.map(|until| CooldownReport {
                model: None,
                until,
                class,
            })
        };
        let models = self
            .group
            .cooldowns
            .list(now)
            .into_iter()
            .chain(self.key.forbidden.list(now));
        let mut cooldowns: Vec<CooldownReport> =
            whole(self.key.exhausted_until(), Class::Exhausted)
                .into_iter()
                .chain(whole(self.key.open_until(), Class::UpstreamTrouble))
                .chain(models.map(|(model, rest)| CooldownReport {
                    model: Some(model),
                    until: rest.until,
                    class: rest.class,
                }))
                .collect();
        cooldowns.sort_by_key(|cooldown| cooldown.until);
        cooldowns
    }
}
