//! Which quota group holds an object that a call made, and for whom: files, batches, stored responses, tasks.
//!
//! Kept in memory, within a bound; the longest unused go first. Must never know a wire form or a pool.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypool_core::pool::GroupId;
use parking_lot::Mutex;

/// How many ids are remembered.
const CAPACITY: usize = 100_000;
/// Locks, so that requests about different objects seldom meet.
const SHARDS: usize = 16;
/// Bits that tell without a lock that an id was never noted: eight for each id that is remembered.
const MARKS: usize = 1 << 20;
/// One id in more groups than this belongs to the newest.
const MAX_OWNERS: usize = 8;

/// Who made an object: a virtual key's name; `None`: anybody, while no virtual key is required.
pub(crate) type Maker = Option<Arc<str>>;

/// What is known of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The caller made it, through a key of this group.
    Own(GroupId),
    /// Another caller made it.
    Foreign,
    /// Nothing.
    Unknown,
}

/// All objects that are remembered.
pub(crate) struct Objects {
    shards: [Mutex<Shard>; SHARDS],
    capacity: usize,
    hasher: RandomState,
    /// A bit for each id that was ever noted; ids may share one. Most strings in a request's body are no ids, and
    /// must not meet at a lock.
    marks: Box<[AtomicU64]>,
    noted: AtomicU64,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// Ids by when they were used last.
    order: BTreeMap<u64, Arc<str>>,
    now: u64,
}

struct Entry {
    used: u64,
    /// Providers do not share ids, so there may be one in each group.
    owners: Vec<(GroupId, Maker)>,
}

impl Default for Objects {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Objects {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            shards: Default::default(),
            capacity: capacity.div_ceil(SHARDS),
            hasher: RandomState::new(),
            marks: (0..MARKS / 64).map(|_| AtomicU64::new(0)).collect(),
            noted: AtomicU64::new(0),
        }
    }

    /// Remembers that `maker` made `id` through a key of `group`. Who made it first keeps it.
    pub(crate) fn note(&self, id: &str, group: &GroupId, maker: &Maker) {
        let hash = self.hasher.hash_one(id);
        let (word, bit) = mark(hash);
        self.marks[word].fetch_or(bit, Ordering::Relaxed);
        self.noted.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(hash).lock();
        let id = shard.touch(id);
        let Some(entry) = shard.entries.get_mut(&id) else {
            return;
        };
        if entry.owners.iter().any(|(known, _)| known == group) {
            return;
        }
        if entry.owners.len() == MAX_OWNERS {
            entry.owners.remove(0);
        }
        entry.owners.push((group.clone(), maker.clone()));
        if shard.entries.len() > self.capacity {
            shard.drop_oldest();
        }
    }

    /// Where `id` is, as far as `maker` may know.
    pub(crate) fn find(&self, id: &str, maker: &Maker) -> Found {
        let hash = self.hasher.hash_one(id);
        let (word, bit) = mark(hash);
        if self.marks[word].load(Ordering::Relaxed) & bit == 0 {
            return Found::Unknown;
        }
        let mut shard = self.shard(hash).lock();
        let Some(entry) = shard.entries.get(id) else {
            return Found::Unknown;
        };
        let own = entry.owners.iter().rev().find(|(_, owner)| owner == maker);
        let Some((group, _)) = own else {
            return Found::Foreign;
        };
        let found = Found::Own(group.clone());
        shard.touch(id);
        found
    }

    /// Whether any object was ever noted.
    pub(crate) fn has_any(&self) -> bool {
        self.noted.load(Ordering::Relaxed) > 0
    }

    /// The object that `maker` made through `group` is gone.
    pub(crate) fn forget(&self, id: &str, group: &GroupId, maker: &Maker) {
        let mut shard = self.shard(self.hasher.hash_one(id)).lock();
        let Some(entry) = shard.entries.get_mut(id) else {
            return;
        };
        entry
            .owners
            .retain(|(of, owner)| of != group || owner != maker);
        if entry.owners.is_empty() {
            let used = entry.used;
            shard.entries.remove(id);
            shard.order.remove(&used);
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }
}

/// The word and the bit that mark an id; other bits of the hash than those that choose its shard.
fn mark(hash: u64) -> (usize, u64) {
    let at = (hash >> 32) as usize % MARKS;
    (at / 64, 1 << (at % 64))
}

impl Shard {
    /// Notes that `id` is used now; it has an entry afterwards.
    fn touch(&mut self, id: &str) -> Arc<str> {
        self.now += 1;
        let (key, used) = match self.entries.get_key_value(id) {
            Some((key, entry)) => (Arc::clone(key), Some(entry.used)),
            None => (Arc::from(id), None),
        };
        if let Some(used) = used {
            self.order.remove(&used);
        }
        self.order.insert(self.now, Arc::clone(&key));
        let entry = self.entries.entry(Arc::clone(&key)).or_insert(Entry {
            used: 0,
            owners: Vec::new(),
        });
        entry.used = self.now;
        key
    }

    fn drop_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_first() {
            self.entries.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupId {
        GroupId::Named("mock", name.into())
    }

    fn maker(name: &str) -> Maker {
        Some(name.into())
    }

    #[test]
    fn only_its_maker_finds_an_object() {
        let objects = Objects::default();
        assert_eq!(objects.find("f", &None), Found::Unknown);
        objects.note("f", &group("a"), &maker("x"));
        assert_eq!(objects.find("f", &maker("x")), Found::Own(group("a")));
        assert_eq!(objects.find("f", &maker("y")), Found::Foreign);
        assert_eq!(objects.find("f", &None), Found::Foreign);
        assert_eq!(objects.find("g", &maker("x")), Found::Unknown);
    }

    #[test]
    fn who_made_it_first_keeps_it_until_it_is_gone() {
        let objects = Objects::default();
        objects.note("f", &group("a"), &maker("x"));
        objects.note("f", &group("a"), &maker("y"));
        assert_eq!(objects.find("f", &maker("y")), Found::Foreign);
        objects.forget("f", &group("a"), &maker("y"));
        assert_eq!(objects.find("f", &maker("x")), Found::Own(group("a")));
        objects.note("f", &group("b"), &maker("y"));
        assert_eq!(objects.find("f", &maker("y")), Found::Own(group("b")));
        assert_eq!(objects.find("f", &maker("x")), Found::Own(group("a")));
        objects.forget("f", &group("a"), &maker("x"));
        assert_eq!(objects.find("f", &maker("x")), Found::Foreign);
        objects.forget("f", &group("b"), &maker("y"));
        assert_eq!(objects.find("f", &maker("x")), Found::Unknown);
    }

    #[test]
    fn the_longest_unused_go_first() {
        let objects = Objects::with_capacity(SHARDS * 4);
        let shard = |id: &str| objects.shard(objects.hasher.hash_one(id));
        let alike: Vec<String> = (0..)
            .map(|n| format!("f{n}"))
            .filter(|id| std::ptr::eq(shard(id), shard("f0")))
            .take(6)
            .collect();
        for id in &alike[..4] {
            objects.note(id, &group("a"), &None);
        }
        assert_ne!(objects.find(&alike[0], &None), Found::Unknown);
        for id in &alike[4..] {
            objects.note(id, &group("a"), &None);
        }
        let known: Vec<bool> = alike
            .iter()
            .map(|id| objects.find(id, &None) != Found::Unknown)
            .collect();
        assert_eq!(known, [true, false, false, true, true, true]);
        let shard = shard("f0").lock();
        assert_eq!((shard.entries.len(), shard.order.len()), (4, 4));
    }

    #[test]
    fn one_id_in_many_groups_stays_small() {
        let objects = Objects::default();
        for n in 0..20 {
            objects.note("f", &group(&n.to_string()), &maker(&n.to_string()));
        }
        assert_eq!(objects.find("f", &maker("0")), Found::Foreign);
        assert_eq!(objects.find("f", &maker("19")), Found::Own(group("19")));
    }
}
