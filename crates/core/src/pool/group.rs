//! The quota group of a key: its id, which stays the same across reloads, and the search for its keys in a pool.
//!
//! It must never know why a request is bound to a group.

use std::sync::Arc;

use super::{Demand, KeySet, Lease, Member, Pool};
use crate::key::{KeyId, QuotaGroup};

/// What identifies a quota group, whatever configuration it is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupId {
    /// `group = "…"`, of one provider.
    Named(&'static str, Arc<str>),
    /// A key for which no group is configured.
    OfKey(KeyId),
}

/// Where an object was made: the key, and the `group` that it had then.
///
/// A reload may give the key another group. Its account, and what was made there, stay the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectOrigin {
    /// The key that made it.
    pub key: KeyId,
    /// The name of its group then; `None`: the key alone.
    pub group: Option<Arc<str>>,
}

impl ObjectOrigin {
    /// Whether both belong to one account, according to the configuration when they were made.
    pub fn is_account_of(&self, other: &Self) -> bool {
        self.key == other.key || (self.group.is_some() && self.group_id() == other.group_id())
    }

    /// The group at that time.
    pub fn group_id(&self) -> GroupId {
        match &self.group {
            Some(name) => GroupId::Named(self.key.provider, Arc::clone(name)),
            None => GroupId::OfKey(self.key.clone()),
        }
    }
}

impl Demand {
    /// Whether this key may serve the demand at all.
    pub(super) fn admits(&self, member: &Member) -> bool {
        let is_it = |group: &Arc<QuotaGroup>| Arc::ptr_eq(group, &member.group);
        self.bound_group.as_ref().is_none_or(is_it) && !self.excluded_groups.iter().any(is_it)
    }
}

impl Pool {
    /// The group of that id, if one of the pool's keys belongs to it. It stays the same group after a reload.
    pub fn group(&self, id: &GroupId) -> Option<Arc<QuotaGroup>> {
        let keys = self.keys.load();
        let index = (0..keys.members.len()).find(|index| keys.is_of(*index, id))?;
        Some(Arc::clone(&keys.members[index].group))
    }

    /// The group that now holds what was made at `origin`: the group of its key or, if the key is gone, the group of
    /// that name. `None` if no key of the pool belongs to it.
    pub fn group_of_origin(&self, origin: &ObjectOrigin) -> Option<GroupId> {
        let keys = self.keys.load();
        let is_its_key = |member: &Member| member.key.id == origin.key;
        if let Some(index) = keys.members.iter().position(is_its_key) {
            return Some(keys.group_of(index));
        }
        let group = origin.group_id();
        (0..keys.members.len())
            .any(|index| keys.is_of(index, &group))
            .then_some(group)
    }

    /// The group to which all keys belong; `None` if there are several, or no key.
    pub fn sole_group(&self) -> Option<GroupId> {
        let keys = self.keys.load();
        (!keys.members.is_empty() && keys.is_one_group()).then(|| keys.group_of(0))
    }

    /// Whether all keys belong to one quota group, so that they cool down together.
    pub fn is_one_group(&self) -> bool {
        self.keys.load().is_one_group()
    }
}

impl KeySet {
    fn is_one_group(&self) -> bool {
        self.members
            .windows(2)
            .all(|pair| Arc::ptr_eq(&pair[0].group, &pair[1].group))
    }

    fn group_of(&self, index: usize) -> GroupId {
        self.origin(index).group_id()
    }

    /// The origin of an object that a call with the key at `index` makes.
    fn origin(&self, index: usize) -> ObjectOrigin {
        ObjectOrigin {
            key: self.members[index].key.id.clone(),
            group: self.settings.keys[index].group.clone(),
        }
    }

    /// Whether the key at `index` belongs to that group; as `group_of`, without making an id for each of many keys.
    fn is_of(&self, index: usize, id: &GroupId) -> bool {
        match (&self.settings.keys[index].group, id) {
            (Some(name), GroupId::Named(provider, wanted)) => {
                name == wanted && self.settings.provider == *provider
            }
            (None, GroupId::OfKey(key)) => self.members[index].key.id == *key,
            _ => false,
        }
    }
}

impl Lease {
    /// The origin of an object that its call makes.
    pub fn origin(&self) -> ObjectOrigin {
        self.keys().origin(self.member().index())
    }
}
