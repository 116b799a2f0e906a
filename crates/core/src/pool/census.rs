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
    /// Rests for a while: rate-limited for the only model in use, or set aside by its breaker.
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
pub struct Cooldown {
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
    pub cooldowns: Vec<Cooldown>,
}

/// When a request that finds no key may expect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// A key is in use up to its cap; a slot may free at any time.
    pub busy: bool,
    /// When the first resting key is due back.
    pub at: Option<Instant>,
}

impl Outlook {
    /// Whether a key may be had before `deadline`.
    pub fn comes_before(&self, deadline: Instant) -> bool {
        self.busy || self.at.is_some_and(|at| at <= deadline)
    }
}

/// How many keys are in which state, as far as one model is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All keys that may serve.
    pub total: usize,
    /// Free, or in use up to their cap.
    pub active: usize,
    /// Rate-limited for this model.
    pub rate_limited: usize,
    /// Forbidden for this model.
    pub forbidden: usize,
    /// Set aside by the breaker.
    pub set_aside: usize,
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
            let tally = || member.key.breaker().lock().tally(settings, now);
            report.state != KeyState::Active || tally().is_over(settings)
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
    pub fn outlook(&self, demand: &Demand) -> Outlook {
        let now = self.clock.now();
        if !demand.is_plain() {
            return self.look_out(demand, now);
        }
        let version = self.board.version();
        if let Some(known) = self.outlooks.of(&demand.model, version, now) {
            return known;
        }
        let outlook = self.look_out(demand, now);
        self.outlooks.keep(&demand.model, version, outlook);
        outlook
    }

    /// The outlook, from a look at every key.
    fn look_out(&self, demand: &Demand, now: Instant) -> Outlook {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut outlook = Outlook::default();
        for (place, member) in self.members.iter().enumerate() {
            let flags = member.key.flags();
            if flags & (flag::DISABLED | flag::INVALID) != 0 || !demand.admits(member) {
                continue;
            }
            let exhausted = member
                .key
                .exhausted_until()
                .filter(|_| flags & flag::EXHAUSTED != 0);
            let rests = member
                .rests_until(&demand.model, now)
                .max(exhausted)
                .max(demand.tried_until(place, now));
            // A key that is set aside serves if no other can; when its trial is due, things change all the same.
            let open = member
                .key
                .open_until()
                .filter(|_| flags & flag::EJECTED != 0);
            outlook.busy |= rests.is_none();
            outlook.at = [outlook.at, rests.or(open)].into_iter().flatten().min();
        }
        outlook
    }

    /// How the keys that may serve the demand stand with regard to its model.
    pub fn census(&self, demand: &Demand) -> Census {
        let now = self.clock.now();
        self.wake_due(now);
        if !demand.is_plain() {
            return self.count(demand, now);
        }
        let version = self.board.version();
        if let Some(known) = self.outlooks.census_of(&demand.model, version, now) {
            return known;
        }
        let census = self.count(demand, now);
        self.outlooks.keep_census(&demand.model, version, census);
        census
    }

    fn count(&self, demand: &Demand, now: Instant) -> Census {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut census = Census::default();
        for member in self.members.iter().filter(|member| demand.admits(member)) {
            census.total += 1;
            *census.count_of(member, &demand.model, now) += 1;
        }
        census
    }
}

impl Census {
    fn count_of(&mut self, member: &Member, model: &Arc<str>, now: Instant) -> &mut usize {
        let flags = member.key.flags();
        let upstream_model = member.upstream_model(model);
        match flags {
            _ if flags & flag::DISABLED != 0 => &mut self.disabled,
            _ if flags & flag::INVALID != 0 => &mut self.invalid,
            _ if flags & flag::EXHAUSTED != 0 => &mut self.exhausted,
            _ if member.key.forbidden.until(upstream_model, now).is_some() => &mut self.forbidden,
            _ if member.group.rests.until(upstream_model, now).is_some() => &mut self.rate_limited,
            _ if flags & (flag::EJECTED | flag::ON_TRIAL) != 0 => &mut self.set_aside,
            _ => &mut self.active,
        }
    }
}

impl Member {
    fn report(&self, now: Instant) -> KeyReport {
        let key = &self.key;
        let flags = key.flags();
        let cooldowns = self.cooldowns(now);
        let only_model_rests = cooldowns
            .iter()
            .filter_map(|cooldown| cooldown.model.as_ref())
            .any(|model| self.model.is_some() || key.only_model_is(model));
        let state = match flags {
            _ if flags & flag::DISABLED != 0 => KeyState::Disabled,
            _ if flags & flag::INVALID != 0 => KeyState::Invalid,
            _ if flags & flag::EXHAUSTED != 0 => KeyState::Exhausted,
            _ if flags & (flag::EJECTED | flag::ON_TRIAL) != 0 || only_model_rests => {
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
            is_available: flags & flag::BLOCKING == 0 && !only_model_rests,
            cooldowns,
        }
    }

    fn cooldowns(&self, now: Instant) -> Vec<Cooldown> {
        let whole = |until: Option<Instant>, class| {
            until.map(|until| Cooldown {
                model: None,
                until,
                class,
            })
        };
        let models = self
            .group
            .rests
            .list(now)
            .into_iter()
            .chain(self.key.forbidden.list(now));
        let mut cooldowns: Vec<Cooldown> = whole(self.key.exhausted_until(), Class::Exhausted)
            .into_iter()
            .chain(whole(self.key.open_until(), Class::UpstreamTrouble))
            .chain(models.map(|(model, rest)| Cooldown {
                model: Some(model),
                until: rest.until,
                class: rest.class,
            }))
            .collect();
        cooldowns.sort_by_key(|cooldown| cooldown.until);
        cooldowns
    }
}
