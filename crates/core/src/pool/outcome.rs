//! What an attempt's outcome does to the pool: the one index where classes become rests, marks and breaker moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use crate::breaker::WindowCounts;
use crate::cooldowns::Cooldown;
use crate::fault::{Class, Fault};
use crate::key::{Key, default_cooldown, flag};

/// Flags of a key that its breaker keeps from the usual load.
const BREAKER_NOT_CLOSED: u32 = flag::EJECTED | flag::HALF_OPEN | flag::PROBING;

/// What an outcome did, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// How long the key, group or (key, model) rests now.
    pub cooldown: Option<Duration>,
    /// The key was set aside by its breaker.
    pub ejected: bool,
}

impl Pool {
    pub(super) fn apply(
        &self,
        index: usize,
        model: &Arc<str>,
        fault: &Fault,
        probe: bool,
    ) -> Effect {
        let now = self.clock.now();
        let member = &self.members[index];
        let key = &member.key;
        if fault.class.is_failure() {
            key.count_failure();
        }
        if fault.class == Class::UpstreamTrouble {
            return self.count_trouble(index, probe, now);
        }
        if probe {
            // The provider answered, whatever it said: the trouble is over.
            key.recover();
        }
        let cooldown = fault.wait.unwrap_or(default_cooldown(fault.class));
        let until = now + cooldown;
        let rest = Cooldown {
            until,
            class: fault.class,
        };
        match fault.class {
            Class::Success => {
                key.breaker()
                    .lock()
                    .record(false, &self.settings.breaker, now);
                if !probe {
                    key.raise_slow_start();
                }
                return Effect::default();
            }
            Class::CallerFault | Class::UpstreamTrouble => return Effect::default(),
            Class::RateLimited => member.group.cooldowns.set(model, rest, now),
            Class::Forbidden => key.forbidden.set(model, rest, now),
            Class::Exhausted => member
                .group
                .keys()
                .iter()
                .for_each(|key| key.exhaust(until)),
            Class::Rejected => {
                key.change(flag::INVALID, 0);
                key.notify_changed();
                return Effect::default();
            }
        }
        member
            .group
            .keys()
            .iter()
            .for_each(|key| key.notify_changed());
        Effect {
            cooldown: Some(cooldown),
            ejected: false,
        }
    }

    fn count_trouble(&self, index: usize, probe: bool, now: Instant) -> Effect {
        let key = &self.members[index].key;
        let settings = &self.settings.breaker;
        let should_open = || key.breaker().lock().should_open(settings, now);
        key.breaker().lock().record(true, settings, now);
        if !probe && !should_open() {
            return Effect::default();
        }
        let _one_at_a_time = self.ejecting.lock();
        let opens = probe || (should_open() && self.may_spare(index, now));
        if !opens {
            return Effect::default();
        }
        key.eject(settings, now);
        Effect {
            cooldown: Some(settings.cooldown),
            ejected: true,
        }
    }

    /// Whether the pool may set `index` aside: within `max_ejected`, or while a healthy key remains.
    fn may_spare(&self, index: usize, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let ejected = self
            .others(index)
            .filter(|key| key.flags() & BREAKER_NOT_CLOSED != 0);
        let share = (settings.max_ejected * self.members.len() as f64).floor() as usize;
        ejected.count() < share.max(1) || self.leaves_better_ones(index, now)
    }

    /// Whether a key that fails less often than the threshold remains, and those that remain are clearly better.
    ///
    /// Where all fail alike, one is below the threshold by chance, and would have to carry the load of all. So the
    /// others together, without those that are over the threshold too, must fail half as often as this one at most,
    /// with one failure more than they had, since a few calls prove little.
    fn leaves_better_ones(&self, index: usize, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let (mut others, mut one_is_healthy) = (WindowCounts::default(), false);
        for key in self.others(index) {
            if key.flags() & (flag::BLOCKING & !flag::FULL | BREAKER_NOT_CLOSED) != 0 {
                continue;
            }
            let counts = key.breaker().lock().counts(settings, now);
            if counts.is_over_threshold(settings) {
                continue;
            }
            one_is_healthy |= counts.is_healthy(settings);
            others.calls += counts.calls;
            others.failures += counts.failures;
        }
        let own = self.members[index]
            .key
            .breaker()
            .lock()
            .counts(settings, now);
        let clearly_better = own
            .failure_rate(settings)
            .is_some_and(|own| (others.failures + 1) as f64 <= own / 2.0 * others.calls as f64);
        one_is_healthy && clearly_better
    }

    fn others(&self, index: usize) -> impl Iterator<Item = &Arc<Key>> {
        let members = self.members.iter().enumerate();
        members
            .filter(move |(other, _)| *other != index)
            .map(|(_, member)| &member.key)
    }

    /// Clears whatever keeps a key from serving but the operator's own switch.
    /// `None` if there is no key of that name.
    pub fn reset(&self, name: &str) -> Option<()> {
        let member = self.members.iter().find(|member| &*member.name == name)?;
        member.group.cooldowns.clear();
        for key in member.group.keys() {
            key.end_exhaustion();
        }
        member.key.reset();
        for key in member.group.keys() {
            key.notify_changed();
            key.serve_waiting();
        }
        Some(())
    }
}
