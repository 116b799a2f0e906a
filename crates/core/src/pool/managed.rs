//! What operators, checks and other nodes do to a key of a pool, and what is stored of it.

use super::{KeyReport, KeySet, Member, MemberRef, Pool};
use crate::clock::Moment;
use crate::key::flag;
use crate::store::{KeyRecord, KeyUse};
use std::sync::Arc;

impl Pool {
    /// The key of that name.
    pub fn member(&self, name: &str) -> Option<MemberRef> {
        self.keys.load_full().member_named(name)
    }
}

impl KeySet {
    /// The key of that name.
    pub fn member_named(self: &Arc<Self>, name: &str) -> Option<MemberRef> {
        let index = self
            .members
            .iter()
            .position(|member| &*member.name == name)?;
        self.member(index)
    }

    /// All keys, in order.
    pub fn all(self: &Arc<Self>) -> impl Iterator<Item = MemberRef> {
        (0..self.members.len()).map(|index| MemberRef::new(Arc::clone(self), index))
    }
}

impl Member {
    /// The key's state and counters.
    pub fn report(&self, moment: &Moment) -> KeyReport {
        self.key.clear_expired(moment.now);
        self.report_at(moment.now)
    }

    /// An operator switches the key off in every pool, or on again. Calls in flight go on.
    pub fn set_disabled(&self, disabled: bool) {
        self.key.set_disabled(disabled);
        self.key.serve_waiting();
    }

    /// Whether an operator switched the key off.
    pub fn is_disabled(&self) -> bool {
        self.key.flags() & flag::DISABLED != 0
    }

    /// Whether the provider does not accept the key.
    pub fn is_invalid(&self) -> bool {
        self.key.flags() & flag::INVALID != 0
    }

    /// The provider accepts the key, so it is no longer invalid. With `has_quota`, it is no longer exhausted either.
    pub fn recovered(&self, has_quota: bool) {
        self.key.recovered(has_quota);
    }

    /// Clears everything that keeps the key from serving, except that an operator switched it off.
    pub fn reset(&self) {
        self.group.cooldowns.clear();
        for key in self.group.keys() {
            key.end_exhaustion();
        }
        self.key.reset();
        for key in self.group.keys() {
            key.notify_changed();
            key.serve_waiting();
        }
    }

    /// Takes over what the store knows of the key, unless that was done before.
    pub fn restore(&self, record: &KeyRecord, moment: &Moment) {
        self.key.restore(&self.group, record, moment);
    }

    /// Follows a change that another node made. `is_reset`: it cleared the key's cooldowns.
    pub fn follow(&self, record: &KeyRecord, is_reset: bool, moment: &Moment) {
        if is_reset {
            self.reset();
        }
        self.key.follow(record, moment);
    }

    /// What the store does not know of the key yet; `None` if it knows everything.
    pub fn unsaved(&self, moment: &Moment) -> Option<KeyUse> {
        self.key.unsaved(&self.group, moment)
    }

    /// The store knows this now.
    pub fn note_saved(&self, stored: &KeyUse) {
        self.key.note_saved(stored);
    }
}
