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

/// Where an object was made: the key, and the `group` that it had. A reload may give the key another group; its
/// account, and what was made there, stay the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectOrigin {
    /// The key that made it.
    pub key: KeyId,
    /// The name of its group then; `None`: the key alone.
    pub group: Option<Arc<str>>,
}

impl ObjectOrigin {
    /// Whether both are of one account, as far as the configuration said so when they were made.
    pub fn is_account_of(&self, other: &Self) -> bool {
        self.key == other.key || (self.group.is_some() && self.group_id() == other.group_id())
    }

    /// The group as it was then.
    pub fn group_id(&self) -> GroupId {
        match &self.group {
            Some(name) => GroupId::Named(self.key.provider, Arc::clone(name)),
            None => GroupId::OfKey(self.key.clone()),
        }
    }
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
        let index = (0..self.members.len()).find(|index| self.is_of(*index, id))?;
        Some(OnlyGroup(Arc::clone(&self.members[index].group)))
    }

    /// The group that holds now what was made at `origin`: that of its key; where the key is gone, the one of that name.
    /// `None` where no key of the pool belongs to it.
    pub fn group_of_origin(&self, origin: &ObjectOrigin) -> Option<GroupId> {
        let is_its_key = |member: &Member| *member.key.id() == origin.key;
        if let Some(index) = self.members.iter().position(is_its_key) {
            return Some(self.group_of(index));
        }
        let group = origin.group_id();
        (0..self.members.len())
            .any(|index| self.is_of(index, &group))
            .then_some(group)
    }

    /// The group to which all keys belong; `None` where there are several, or no key.
    pub fn only_group(&self) -> Option<GroupId> {
        (!self.members.is_empty() && self.is_one_group()).then(|| self.group_of(0))
    }

    fn group_of(&self, index: usize) -> GroupId {
        match &self.settings.keys[index].group {
            Some(name) => GroupId::Named(self.settings.provider, Arc::clone(name)),
            None => GroupId::OfKey(self.members[index].key.id().clone()),
        }
    }

    /// As `group_of`, without making an id for each of many keys.
    fn is_of(&self, index: usize, id: &GroupId) -> bool {
        match (&self.settings.keys[index].group, id) {
            (Some(name), GroupId::Named(provider, wanted)) => {
                name == wanted && self.settings.provider == *provider
            }
            (None, GroupId::OfKey(key)) => self.members[index].key.id() == key,
            _ => false,
        }
    }
}

impl Lease {
    /// Where an object is that its call makes.
    pub fn origin(&self) -> ObjectOrigin {
        let group = &self.pool().settings.keys[self.index()].group;
        ObjectOrigin {
            key: self.member().key.id().clone(),
            group: group.clone(),
        }
    }
}
