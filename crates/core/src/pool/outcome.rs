//! What an attempt's outcome does to the pool: the one place where classes become rests, marks and breaker moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use crate::fault::{Class, Fault};
use crate::key::{default_rest, flag};
use crate::rests::Rest;

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
        const SET_ASIDE: u32 = flag::EJECTED | flag::HALF_OPEN | flag::ON_TRIAL;
        let settings = &self.settings.breaker;
        let others = || {
            self.members
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != place)
                .map(|(_, member)| &member.key)
        };
        let ejected = others().filter(|key| key.flags() & SET_ASIDE != 0).count();
        let share = (settings.max_ejected * self.members.len() as f64).floor() as usize;
        ejected < share.max(1)
            || others().any(|key| {
                key.flags() & (flag::BLOCKING & !flag::FULL | SET_ASIDE) == 0
                    && key.breaker().lock().is_healthy(settings, now)
            })
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
