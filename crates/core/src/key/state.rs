//! The part of a key's state that outlives the process: what the store knows of it, and what it does not know yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Key, KeyId, QuotaGroup, flag};
use crate::clock::Moment;
use crate::cooldowns::{Cooldown, Cooldowns};
use crate::fault::Class;
use crate::store::{KeyCooldown, KeyMarks, KeyRecord, KeyUse, NewMarks, UpstreamKeyId};

/// What the store knows of a key.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// It has a record of the key.
    is_known: bool,
    total: u64,
    failed: u64,
    marks: KeyMarks,
}

impl From<&KeyId> for UpstreamKeyId {
    fn from(id: &KeyId) -> Self {
        Self {
            provider: id.provider.into(),
            origin: Arc::clone(&id.origin),
            digest: id.digest,
        }
    }
}

impl Key {
    /// Takes over what the store knows of the key, once. What was counted so far is added.
    pub(crate) fn restore(&self, group: &QuotaGroup, record: &KeyRecord, moment: &Moment) {
        let mut saved = self.saved.lock();
        if saved.is_known {
            return;
        }
        self.total.fetch_add(record.total, Ordering::Relaxed);
        self.failed.fetch_add(record.failed, Ordering::Relaxed);
        self.last_used_ms
            .fetch_max(millis(record.last_used), Ordering::Relaxed);
        *saved = Saved {
            is_known: true,
            total: record.total,
            failed: record.failed,
            marks: record.marks.clone(),
        };
        drop(saved);
        self.set_disabled(record.disabled);
        self.restore_marks(group, &record.marks, moment);
    }

    fn restore_marks(&self, group: &QuotaGroup, marks: &KeyMarks, moment: &Moment) {
        if marks.invalid {
            self.change(flag::INVALID, 0);
        }
        if marks.has_served {
            self.note_served();
        }
        if let Some(until) = marks.exhausted_until.and_then(|at| moment.instant(at)) {
            self.exhaust(until);
        }
        for cooldown in &marks.cooldowns {
            let class = Class::of_name(&cooldown.class);
            let (Some(until), Some(class)) = (moment.instant(cooldown.until), class) else {
                continue;
            };
            let cooldowns = match cooldown.of_group {
                true => &group.cooldowns,
                false => &self.forbidden,
            };
            cooldowns.set(&cooldown.model, Cooldown { until, class }, moment.now);
        }
        self.notify_changed();
    }

    /// Follows a change that another node made: whether the key is switched off, invalid or exhausted.
    pub(crate) fn follow(&self, record: &KeyRecord, moment: &Moment) {
        {
            // The store knows these. Storing them again could undo what another node changes meanwhile.
            let mut saved = self.saved.lock();
            saved.marks.invalid = record.marks.invalid;
            saved.marks.exhausted_until = record.marks.exhausted_until;
        }
        self.set_disabled(record.disabled);
        match record.marks.invalid {
            true => self.change(flag::INVALID, 0),
            false => self.change(0, flag::INVALID),
        }
        match record
            .marks
            .exhausted_until
            .and_then(|at| moment.instant(at))
        {
            Some(until) => self.exhaust(until),
            None => self.end_exhaustion(),
        }
        self.notify_changed();
        self.serve_waiting();
    }

    /// An operator switches the key off, or on again.
    pub(crate) fn set_disabled(&self, disabled: bool) {
        match disabled {
            true => self.change(flag::DISABLED, 0),
            false => self.change(0, flag::DISABLED),
        }
        self.notify_changed();
    }

    /// The provider accepts the key. With `has_quota`, it has quota left too.
    pub(crate) fn recovered(&self, has_quota: bool) {
        self.change(0, flag::INVALID);
        if has_quota {
            self.end_exhaustion();
        }
        self.notify_changed();
        self.serve_waiting();
    }

    /// What the store does not know yet; `None` if it knows everything.
    pub(crate) fn unsaved(&self, group: &QuotaGroup, moment: &Moment) -> Option<KeyUse> {
        let saved = self.saved.lock();
        let marks = self.marks(group, moment);
        let marks = match saved.is_known {
            true => NewMarks::since(&saved.marks, marks),
            false => Some(marks.into()),
        };
        let total = self.total().saturating_sub(saved.total);
        let failed = self.failed().saturating_sub(saved.failed);
        if marks.is_none() && total == 0 && failed == 0 {
            return None;
        }
        let used = self.last_used_ms().filter(|_| total > 0);
        Some(KeyUse {
            key: (&self.id).into(),
            total,
            failed,
            last_used: used.map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
            marks,
        })
    }

    /// The store knows this now.
    pub(crate) fn note_saved(&self, stored: &KeyUse) {
        let mut saved = self.saved.lock();
        saved.is_known = true;
        saved.total += stored.total;
        saved.failed += stored.failed;
        if let Some(marks) = &stored.marks {
            marks.apply(&mut saved.marks);
        }
    }

    fn marks(&self, group: &QuotaGroup, moment: &Moment) -> KeyMarks {
        let flags = self.flags();
        let until = self.exhausted_until().filter(|until| *until > moment.now);
        let mut cooldowns = listed(&self.forbidden, false, moment);
        cooldowns.extend(listed(&group.cooldowns, true, moment));
        KeyMarks {
            invalid: flags & flag::INVALID != 0,
            has_served: flags & flag::HAS_SERVED != 0,
            exhausted_until: until.map(|until| rounded(moment.date(until))),
            cooldowns,
        }
    }
}

fn listed(cooldowns: &Cooldowns, of_group: bool, moment: &Moment) -> Vec<KeyCooldown> {
    let list = cooldowns.list(moment.now).into_iter();
    list.map(|(model, cooldown)| KeyCooldown {
        model,
        until: rounded(moment.date(cooldown.until)),
        class: cooldown.class.as_str().into(),
        of_group,
    })
    .collect()
}

/// To the nearest second, so that a time has not changed just because it was computed again: the two clocks drift.
fn rounded(at: SystemTime) -> SystemTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs((since + Duration::from_millis(500)).as_secs())
}

fn millis(at: Option<SystemTime>) -> u64 {
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fake::FakeClock;
    use crate::secret::Secret;

    struct World {
        clock: FakeClock,
        key: Arc<Key>,
    }

    impl World {
        fn new() -> Self {
            let secret = Secret::new("made-up");
            let id = KeyId {
                provider: "mock",
                origin: "http://mock.example".into(),
                digest: secret.digest(),
            };
            Self {
                clock: FakeClock::new(),
                key: Key::new(id, secret),
            }
        }

        fn moment(&self) -> Moment {
            Moment::of(&self.clock)
        }

        fn unsaved(&self) -> Option<KeyUse> {
            self.key.unsaved(&self.key.own_group, &self.moment())
        }

        fn record(&self) -> KeyRecord {
            KeyRecord::first_seen((&self.key.id).into(), self.moment().wall)
        }

        fn count(&self, total: u64) {
            self.key.total.fetch_add(total, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_was_saved_is_not_unsaved_later() {
        let world = World::new();
        world.count(3);
        world
            .key
            .exhaust(world.moment().now + Duration::from_secs(3600));
        let unsaved = world.unsaved().unwrap();
        assert_eq!(unsaved.total, 3);
        assert!(unsaved.marks.as_ref().unwrap().exhausted_until.is_some());
        world.key.note_saved(&unsaved);
        world.clock.pass(Duration::from_millis(1234));
        assert_eq!(world.unsaved(), None, "the same time, computed later");
        world.count(1);
        assert_eq!(world.unsaved().unwrap().total, 1);
    }

    #[test]
    fn a_restored_key_counts_on_and_stays_as_it_was() {
        let world = World::new();
        let in_an_hour = world.moment().wall + Duration::from_secs(3600);
        let cooldown = KeyCooldown {
            model: "m".into(),
            until: in_an_hour,
            class: "rate_limited".into(),
            of_group: true,
        };
        let record = KeyRecord {
            total: 10,
            failed: 2,
            disabled: true,
            marks: KeyMarks {
                invalid: true,
                has_served: true,
                exhausted_until: Some(in_an_hour),
                cooldowns: vec![cooldown],
            },
            ..world.record()
        };
        world.count(1);
        let group = &world.key.own_group;
        world.key.restore(group, &record, &world.moment());
        world.key.restore(group, &record, &world.moment());
        assert_eq!((world.key.total(), world.key.failed()), (11, 2));
        let flags = flag::DISABLED | flag::INVALID | flag::EXHAUSTED | flag::HAS_SERVED;
        assert_eq!(world.key.flags(), flags);
        let unsaved = world.unsaved().unwrap();
        assert_eq!((unsaved.total, unsaved.marks), (1, None));
    }

    #[test]
    fn a_mark_that_has_not_changed_is_not_stored_with_one_that_has() {
        let world = World::new();
        world.key.note_saved(&world.unsaved().unwrap());
        world.key.note_served();
        let has_served = NewMarks {
            has_served: Some(true),
            ..NewMarks::default()
        };
        let unsaved = world.unsaved().unwrap();
        assert_eq!(unsaved.marks, Some(has_served));
        world.key.note_saved(&unsaved);
        assert_eq!(world.unsaved(), None);
    }

    #[test]
    fn a_mark_that_was_followed_is_not_stored_again() {
        let world = World::new();
        world.key.note_saved(&world.unsaved().unwrap());
        let mut record = world.record();
        record.marks.invalid = true;
        world.key.follow(&record, &world.moment());
        assert_ne!(world.key.flags() & flag::INVALID, 0);
        assert_eq!(world.unsaved(), None);
        record.marks.invalid = false;
        world.key.follow(&record, &world.moment());
        assert_eq!(world.key.flags() & flag::INVALID, 0);
        assert_eq!(world.unsaved(), None);
    }
}
