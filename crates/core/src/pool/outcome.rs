//! What an attempt's outcome does to the pool: the one place where classes become rests, marks and breaker moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use crate::breaker::Tally;
use crate::fault::{Class, Fault};
use crate::key::{Key, default_rest, flag};
use crate::rests::Rest;

/// Flags of a key that its breaker keeps from the usual load.
const SET_ASIDE: u32 = flag::EJECTED | flag::HALF_OPEN | flag::ON_TRIAL;

/// What an outcome did, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consequence {
    /// How long the key, group or (key, model) rests now.
    pub rests_for: Option<Duration>,
    /// The key was set aside by its breaker.
    pub set_aside: bool,
}

impl Pool {
    pub(super) fn apply(
        &self,
        place: usize,
        model: &Arc<str>,
        fault: &Fault,
        trial: bool,
    ) -> Consequence {
        let now = self.clock.now();
        let member = &self.members[place];
        let key = &member.key;
        if fault.class.is_failure() {
            key.count_failure();
        }
        if fault.class == Class::UpstreamTrouble {
            return self.count_trouble(place, trial, now);
        }
        if trial {
            // The provider answered, whatever it said: the trouble is over.
            key.recover();
        }
        let rests_for = fault.wait.unwrap_or(default_rest(fault.class));
        let until = now + rests_for;
        let rest = Rest {
            until,
            class: fault.class,
        };
        match fault.class {
            Class::Success => {
                key.breaker()
                    .lock()
                    .record(false, &self.settings.breaker, now);
                if !trial {
                    key.climb();
                }
                return Consequence::default();
            }
            Class::CallerFault | Class::UpstreamTrouble => return Consequence::default(),
            Class::RateLimited => member.group.rests.set(model, rest, now),
            Class::Forbidden => key.forbidden.set(model, rest, now),
            Class::Exhausted => member
                .group
                .keys()
                .iter()
                .for_each(|key| key.exhaust(until)),
            Class::Rejected => {
                key.change(flag::INVALID, 0);
                key.notify_changed();
                return Consequence::default();
            }
        }
        member
            .group
            .keys()
            .iter()
            .for_each(|key| key.notify_changed());
        Consequence {
            rests_for: Some(rests_for),
            set_aside: false,
        }
    }

    fn count_trouble(&self, place: usize, trial: bool, now: Instant) -> Consequence {
        let key = &self.members[place].key;
        let settings = &self.settings.breaker;
        let wants_to_open = || key.breaker().lock().wants_to_open(settings, now);
        key.breaker().lock().record(true, settings, now);
        if !trial && !wants_to_open() {
            return Consequence::default();
        }
        let _one_at_a_time = self.ejecting.lock();
        let opens = trial || (wants_to_open() && self.may_spare(place, now));
        if !opens {
            return Consequence::default();
        }
        key.eject(settings, now);
        Consequence {
            rests_for: Some(settings.cooldown),
            set_aside: true,
        }
    }

    /// Whether the pool may set `place` aside: within `max_ejected`, or while a healthy key remains.
    fn may_spare(&self, place: usize, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let ejected = self
            .others(place)
            .filter(|key| key.flags() & SET_ASIDE != 0);
        let share = (settings.max_ejected * self.members.len() as f64).floor() as usize;
        ejected.count() < share.max(1) || self.leaves_better_ones(place, now)
    }

    /// Whether a key that fails less often than the threshold remains, and those that remain are clearly better.
    ///
    /// Where all fail alike, one is below the threshold by chance, and would have to carry the load of all. So the
    /// others together, without those that are over the threshold too, must fail half as often as this one at most,
    /// with one failure more than they had, since a few calls prove little.
    fn leaves_better_ones(&self, place: usize, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let (mut others, mut one_is_healthy) = (Tally::default(), false);
        for key in self.others(place) {
            if key.flags() & (flag::BLOCKING & !flag::FULL | SET_ASIDE) != 0 {
                continue;
            }
            let tally = key.breaker().lock().tally(settings, now);
            if tally.is_over(settings) {
                continue;
            }
            one_is_healthy |= tally.is_healthy(settings);
            others.calls += tally.calls;
            others.failures += tally.failures;
        }
        let own = self.members[place]
            .key
            .breaker()
            .lock()
            .tally(settings, now);
        let clearly_better = own
            .failure_rate(settings)
            .is_some_and(|own| (others.failures + 1) as f64 <= own / 2.0 * others.calls as f64);
        one_is_healthy && clearly_better
    }

    fn others(&self, place: usize) -> impl Iterator<Item = &Arc<Key>> {
        let members = self.members.iter().enumerate();
        members
            .filter(move |(other, _)| *other != place)
            .map(|(_, member)| &member.key)
    }

    /// Clears whatever keeps a key from serving but the operator's own switch.
    /// `None` if there is no key of that name.
    pub fn reset(&self, name: &str) -> Option<()> {
        let member = self.members.iter().find(|member| &*member.name == name)?;
        member.group.rests.clear();
        for key in member.group.keys() {
            key.end_exhaustion();
        }
        member.key.clear_rests();
        for key in member.group.keys() {
            key.notify_changed();
            key.serve_waiting();
        }
        Some(())
    }
}
