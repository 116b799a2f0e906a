//! Applies the outcome of an attempt to the key, its group and its breaker. Only here does a class start a cooldown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{KeySet, MemberRef, Pool};
use crate::breaker::WindowCounts;
use crate::cooldowns::{Cooldown, at_endpoint};
use crate::fault::{Class, Fault, Scope};
use crate::key::{Key, default_cooldown, flag};

/// How an outcome changed the key, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Length of the cooldown that began: of the key or its group, for one model or for all.
    pub cooldown: Option<Duration>,
    /// The breaker ejected the key.
    pub ejected: bool,
    /// The key was rejected without a reason although it has served before: a call that costs nothing must tell.
    pub needs_check: bool,
}

/// A call that ended, as its lease knows it.
pub(super) struct EndedCall<'a> {
    pub(super) member: &'a MemberRef,
    /// The model sent upstream.
    pub(super) model: &'a Arc<str>,
    pub(super) endpoint: &'a str,
    /// It was the breaker's probe.
    pub(super) is_probe: bool,
    /// It could go to one group only, because of an object that it names.
    pub(super) is_bound: bool,
}

impl Pool {
    pub(super) fn apply(&self, call: &EndedCall<'_>, outcome: &Fault) -> Effect {
        let (member, now) = (call.member, self.clock.now());
        let key = &member.key;
        if outcome.class.blames_key() {
            key.count_failure();
        }
        if outcome.class == Class::UpstreamTrouble {
            return self.apply_trouble(call);
        }
        if call.is_probe {
            match outcome.class {
                // It was not the provider that answered.
                Class::IntermediaryTrouble => key.probe_undecided(),
                // Whatever the provider said, the trouble is over.
                _ => key.recover(),
            }
        }
        let wait = outcome.wait.unwrap_or(default_cooldown(outcome.class));
        let until = now + wait;
        let cooldown = Cooldown {
            until,
            class: outcome.class,
        };
        match outcome.class {
            Class::Success => {
                let settings = &member.keys().settings.breaker;
                key.breaker.lock().record(false, settings, now);
                key.note_served();
                self.opinions.note_success(&member.key, call.model, now);
                if !call.is_probe {
                    key.raise_slow_start();
                }
                return Effect::default();
            }
            Class::CallerFault
            | Class::TooExpensive
            | Class::UpstreamTrouble
            | Class::IntermediaryTrouble => return Effect::default(),
            Class::RateLimited => member.group.cooldowns.set(call.model, cooldown, now),
            Class::Forbidden if outcome.scope == Scope::Endpoint => {
                let name = at_endpoint(call.model, call.endpoint);
                key.forbidden.set(&name.into(), cooldown, now);
            }
            Class::Forbidden => key.forbidden.set(call.model, cooldown, now),
            Class::Exhausted => member
                .group
                .keys()
                .iter()
                .for_each(|key| key.exhaust(until)),
            Class::Rejected => return reject(key, outcome),
        }
        member
            .group
            .keys()
            .iter()
            .for_each(|key| key.notify_changed());
        Effect {
            cooldown: Some(wait),
            ..Effect::default()
        }
    }

    /// A failure of the provider or of the way to it. It counts for the breaker at once only if no other group could show
    /// that the key is the reason; see [`Suspect`](super::Suspect).
    fn apply_trouble(&self, call: &EndedCall<'_>) -> Effect {
        let key = &call.member.key;
        if !call.is_bound && self.is_one_group() {
            return self.count_trouble(key, call.is_probe);
        }
        if call.is_probe {
            key.probe_undecided();
        }
        Effect::default()
    }

    /// Counts a failure against the key's breaker, and ejects the key if it fails too often and the pool can spare it.
    pub(super) fn count_trouble(&self, key: &Arc<Key>, was_probe: bool) -> Effect {
        // The keys that the pool has now decide, even if the call began under an earlier key set.
        let (keys, now) = (self.keys.load(), self.clock.now());
        let settings = &keys.settings.breaker;
        let should_open = || key.breaker.lock().should_open(settings, now);
        key.breaker.lock().record(true, settings, now);
        let fails_again = was_probe && key.flags() & flag::HALF_OPEN != 0;
        if !fails_again && !should_open() {
            return Effect::default();
        }
        let _one_at_a_time = self.ejecting.lock();
        let opens = fails_again || (should_open() && keys.can_spare(key, now));
        if !opens {
            return Effect::default();
        }
        key.eject(settings, now);
        Effect {
            cooldown: Some(settings.cooldown),
            ejected: true,
            ..Effect::default()
        }
    }
}

/// The provider does not accept the key. Words about the credential, or a key that never served, need no more proof.
fn reject(key: &Key, outcome: &Fault) -> Effect {
    let needs_check = !outcome.is_recognized && key.flags() & flag::HAS_SERVED != 0;
    if !needs_check {
        key.invalidate();
    }
    Effect {
        needs_check,
        ..Effect::default()
    }
}

impl KeySet {
    /// Whether the pool can spare `key`: within `max_ejected`, or while a healthy key remains.
    fn can_spare(&self, key: &Arc<Key>, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let ejected = self
            .others(key)
            .filter(|other| other.flags() & flag::BREAKER_NOT_CLOSED != 0);
        let share = (settings.max_ejected * self.members.len() as f64).floor() as usize;
        ejected.count() < share.max(1) || self.has_better_than(key, now)
    }

    /// Whether another key is under the threshold, and the keys under it fail at most half as often as this one.
    ///
    /// When a provider is down, all keys fail alike, and one is under the threshold by chance. It must not be left to
    /// carry the whole load. One failure is added to the count of the others, since a few calls prove little.
    fn has_better_than(&self, key: &Arc<Key>, now: Instant) -> bool {
        let settings = &self.settings.breaker;
        let (mut others, mut one_is_healthy) = (WindowCounts::default(), false);
        for other in self.others(key) {
            if other.flags() & (flag::UNUSABLE | flag::BREAKER_NOT_CLOSED) != 0 {
                continue;
            }
            let counts = other.breaker.lock().counts(settings, now);
            if counts.is_over_threshold(settings) {
                continue;
            }
            one_is_healthy |= counts.is_healthy(settings);
            others.calls += counts.calls;
            others.failures += counts.failures;
        }
        let own = key.breaker.lock().counts(settings, now);
        let clearly_better = own
            .failure_rate(settings)
            .is_some_and(|own| (others.failures + 1) as f64 <= own / 2.0 * others.calls as f64);
        one_is_healthy && clearly_better
    }

    fn others(&self, key: &Arc<Key>) -> impl Iterator<Item = &Arc<Key>> {
        let keys = self.members.iter().map(|member| &member.key);
        keys.filter(move |other| !Arc::ptr_eq(other, key))
    }
}
