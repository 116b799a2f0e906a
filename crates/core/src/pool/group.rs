//! The quota group of a key: as a name that outlives pools and reloads, and as what a request can be bound to.
//!
//! Must never know what binds a request.

use std::fmt;
use std::sync::Arc;

use super::{Demand, Lease, Member, Pool};
use crate::key::{Group, KeyId};

/// What makes a quota group itself, whatever configuration it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupId {
    /// `group = "…"`, of one provider.
    Named(&'static str, Arc<str>),
    /// A key for which no group is configured.
    OfKey(KeyId),
}

/// A group of a pool, for a request that only its keys may serve.
#[derive(Clone)]
pub struct OnlyGroup(Arc<Group>);

impl OnlyGroup {
    pub(super) fn has(&self, member: &Member) -> bool {
        Arc::ptr_eq(&self.0, &member.group)
    }
}

impl fmt::Debug for OnlyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyGroup")
    }
}

impl Demand {
    /// Whether the demand may be served by this member at all.
    pub(super) fn admits(&self, member: &Member) -> bool {
        self.only_group
            .as_ref()
            .is_none_or(|group| group.has(member))
    }
}

impl Pool {
    /// The group of that id, where one of the pool's keys belongs to it.
    pub fn group(&self, id: &GroupId) -> Option<OnlyGroup> {
        let place = (0..self.members.len()).find(|place| self.is_of(*place, id))?;
        Some(OnlyGroup(Arc::clone(&self.members[place].group)))
    }

    /// The group to which all keys belong; `None` where there are several, or no key.
    pub fn only_group(&self) -> Option<GroupId> {
        (!self.members.is_empty() && self.is_one_group()).then(|| self.group_of(0))
    }

    fn group_of(&self, place: usize) -> GroupId {
        match &self.settings.keys[place].group {
            Some(name) => GroupId::Named(self.settings.provider, Arc::clone(name)),
            None => GroupId::OfKey(self.members[place].key.id().clone()),
        }
    }

    /// As `group_of`, without making an id for each of many keys.
    fn is_of(&self, place: usize, id: &GroupId) -> bool {
        match (&self.settings.keys[place].group, id) {
            (Some(name), GroupId::Named(provider, wanted)) => {
                name == wanted && self.settings.provider == *provider
            }
            (None, GroupId::OfKey(key)) => self.members[place].key.id() == key,
            _ => false,
        }
    }
}

impl Lease {
    /// The quota group of its key.
    pub fn group(&self) -> GroupId {
        self.pool().group_of(self.place())
    }
}
