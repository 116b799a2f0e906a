//! Which keys and groups there are, by what makes them themselves: so that a reload finds them again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::key::{Group, Key, KeyId};
use crate::secret::Secret;

/// A quota group's provider and name.
type GroupId = (&'static str, Arc<str>);

/// Remembers keys and groups across reloads, by what makes them themselves.
#[derive(Default)]
pub(crate) struct KeyBook {
    keys: Mutex<HashMap<KeyId, Weak<Key>>>,
    groups: Mutex<HashMap<GroupId, Weak<Group>>>,
}

impl KeyBook {
    /// Forgets what no pool holds any more.
    pub(crate) fn prune(&self) {
        self.keys.lock().retain(|_, key| key.strong_count() > 0);
        self.groups
            .lock()
            .retain(|_, group| group.strong_count() > 0);
    }

    pub(crate) fn key(&self, id: KeyId, secret: &Secret) -> Arc<Key> {
        let mut keys = self.keys.lock();
        if let Some(key) = keys.get(&id).and_then(Weak::upgrade) {
            return key;
        }
        let key = Key::new(id.clone(), secret.clone());
        keys.insert(id, Arc::downgrade(&key));
        key
    }

    pub(crate) fn group(&self, provider: &'static str, name: &Arc<str>) -> Arc<Group> {
        let mut groups = self.groups.lock();
        let id = (provider, Arc::clone(name));
        if let Some(group) = groups.get(&id).and_then(Weak::upgrade) {
            return group;
        }
        let group = Arc::new(Group::default());
        groups.insert(id, Arc::downgrade(&group));
        group
    }
}
