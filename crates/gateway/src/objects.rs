//! Which account holds an object that a call created, and who owns it: files, batches, stored responses, tasks.
//!
//! Kept in memory, within a bound. When it is full, the owner with the most objects loses its least recently used one, so
//! that no caller's objects push out another's. Must never know a wire form or a pool.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypool_core::pool::ObjectOrigin;
use keypool_core::store::ObjectChange;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Maximum number of objects remembered.
pub(crate) const CAPACITY: usize = 100_000;
/// Number of locks. More than one, so that requests about different objects rarely contend.
const SHARDS: usize = 16;
/// Number of bits in the filter that tells without a lock that an id was never recorded: ten for each object.
const MARKS: usize = 1 << 20;
/// Accounts tracked per id. When full, a new entry replaces one of the same owner; if there is none, it is not recorded.
const MAX_OWNERS: usize = 8;

/// Who owns an object: a virtual key's name. `None`: everybody, while no virtual key is required.
pub(crate) type Owner = Option<Arc<str>>;

/// What is known of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The caller owns it, at each of these accounts. The newest comes first.
    Own(Vec<ObjectOrigin>),
    /// Another caller owns it.
    Foreign,
    /// Nothing is known.
    Unknown,
}

/// All remembered objects.
pub(crate) struct Objects {
    shards: [Mutex<Shard>; SHARDS],
    /// Maximum number of objects in each shard. Ids fall into shards at random, so what is fair in each is fair overall.
    capacity: usize,
    hasher: RandomState,
    /// A filter: one bit for every id that was ever recorded; ids may share a bit. Ids that were never recorded take no
    /// lock.
    marks: Box<[AtomicU64]>,
    recorded: AtomicU64,
    /// Objects that were created or deleted, and are not stored yet; `None`: nothing stores them. Bounded: the oldest are
    /// dropped.
    changes: Option<Mutex<VecDeque<ObjectChange>>>,
    changed: Notify,
}

/// One owner's object of one id, at one account.
struct Owned {
    origin: ObjectOrigin,
    owner: Owner,
    used: u64,
}

#[derive(Default)]
struct Shard {
    /// Each provider chooses ids on its own, so one id can exist at several accounts.
    entries: HashMap<Arc<str>, Vec<Owned>>,
    /// Each owner's ids, by last use.
    by_owner: HashMap<Owner, BTreeMap<u64, Arc<str>>>,
    /// Owners by their number of objects.
    by_count: BTreeSet<(usize, Owner)>,
    held: usize,
    now: u64,
}

impl Objects {
    /// No objects. `are_stored`: somebody takes the changes and stores them.
    pub(crate) fn new(are_stored: bool) -> Self {
        Self {
            changes: are_stored.then(Mutex::default),
            ..Self::with_capacity(CAPACITY)
        }
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            shards: Default::default(),
            capacity: capacity.div_ceil(SHARDS),
            hasher: RandomState::new(),
            marks: (0..MARKS / 64).map(|_| AtomicU64::new(0)).collect(),
            recorded: AtomicU64::new(0),
            changes: None,
            changed: Notify::new(),
        }
    }

    /// Resolves when there is a change to store.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The changes since this was last called.
    pub(crate) fn take_changes(&self) -> Vec<ObjectChange> {
        let changes = self.changes.as_ref();
        let taken = changes.map(|changes| std::mem::take(&mut *changes.lock()));
        taken.unwrap_or_default().into()
    }

    fn note_change(&self, id: &str, origin: &ObjectOrigin, owner: &Owner, deleted: bool) {
        let Some(changes) = &self.changes else {
            return;
        };
        let mut changes = changes.lock();
        if changes.len() >= CAPACITY {
            changes.pop_front();
        }
        changes.push_back(ObjectChange {
            id: id.into(),
            key: (&origin.key).into(),
            group: origin.group.clone(),
            owner: owner.clone(),
            deleted,
        });
        drop(changes);
        self.changed.notify_one();
    }

    /// Takes over what another process has stored.
    pub(crate) fn import(&self, id: &str, origin: &ObjectOrigin, owner: &Owner, deleted: bool) {
        match deleted {
            true => _ = self.remove(id, |known| is_of(known, origin, owner)),
            false => _ = self.put(id, origin, owner, false),
        }
    }

    /// Remembers that `owner` created `id` through the key of `origin`. An earlier owner at that account keeps it.
    pub(crate) fn record(&self, id: &str, origin: &ObjectOrigin, owner: &Owner) {
        if self.put(id, origin, owner, false) {
            self.note_change(id, origin, owner, false);
        }
    }

    /// Like [`Self::record`], if the provider has created `id` just now: an earlier object of that name no longer exists.
    pub(crate) fn record_new(&self, id: &str, origin: &ObjectOrigin, owner: &Owner) {
        if self.put(id, origin, owner, true) {
            self.note_change(id, origin, owner, false);
        }
    }

    /// Returns whether it is remembered now and was not before.
    fn put(&self, id: &str, origin: &ObjectOrigin, owner: &Owner, is_new: bool) -> bool {
        let hash = self.hasher.hash_one(id);
        let (word, bit) = mark(hash);
        self.marks[word].fetch_or(bit, Ordering::Relaxed);
        self.recorded.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(hash).lock();
        let is_there = |known: &Owned| known.origin.is_account_of(origin);
        while let Some(at) = shard.owned(id).iter().position(is_there) {
            if !is_new {
                return false;
            }
            shard.remove(id, at);
        }
        let owned = shard.owned(id);
        if owned.len() >= MAX_OWNERS {
            let Some(own) = owned.iter().position(|known| known.owner == *owner) else {
                return false;
            };
            shard.remove(id, own);
        }
        shard.add(id, origin.clone(), owner.clone());
        if shard.held > self.capacity {
            shard.make_room();
        }
        true
    }

    /// Where `id` is, if `owner` may know it.
    pub(crate) fn find(&self, id: &str, owner: &Owner) -> Found {
        let hash = self.hasher.hash_one(id);
        if !self.may_know(hash) {
            return Found::Unknown;
        }
        let mut shard = self.shard(hash).lock();
        let Some(owned) = shard.entries.get(id) else {
            return Found::Unknown;
        };
        let indexes = 0..owned.len();
        let mut origins = Vec::new();
        for at in indexes.rev() {
            if let Some(origin) = shard.touch(id, at, owner) {
                origins.push(origin);
            }
        }
        if origins.is_empty() {
            return Found::Foreign;
        }
        Found::Own(origins)
    }

    /// Who owns `id`, if there is exactly one owner.
    pub(crate) fn owner(&self, id: &str) -> Option<Owner> {
        let hash = self.hasher.hash_one(id);
        if !self.may_know(hash) {
            return None;
        }
        let shard = self.shard(hash).lock();
        match shard.entries.get(id)?.as_slice() {
            [only] => Some(only.owner.clone()),
            _ => None,
        }
    }

    /// Whether any object was ever recorded.
    pub(crate) fn has_any(&self) -> bool {
        self.recorded.load(Ordering::Relaxed) > 0
    }

    /// Forgets the object that `owner` has at the account of `origin`.
    pub(crate) fn forget(&self, id: &str, origin: &ObjectOrigin, owner: &Owner) {
        if let Some(gone) = self.remove(id, |known| is_of(known, origin, owner)) {
            self.note_change(id, &gone.origin, owner, true);
        }
    }

    /// Forgets one `id` of `owner`, at any account. Returns whether there was one.
    pub(crate) fn forget_any(&self, id: &str, owner: &Owner) -> bool {
        let gone = self.remove(id, |known| known.owner == *owner);
        if let Some(gone) = &gone {
            self.note_change(id, &gone.origin, owner, true);
        }
        gone.is_some()
    }

    fn remove(&self, id: &str, is_it: impl Fn(&Owned) -> bool) -> Option<Owned> {
        let mut shard = self.shard(self.hasher.hash_one(id)).lock();
        let at = shard.owned(id).iter().position(is_it)?;
        shard.remove(id, at)
    }

    fn may_know(&self, hash: u64) -> bool {
        let (word, bit) = mark(hash);
        self.marks[word].load(Ordering::Relaxed) & bit != 0
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }
}

/// Whether this is what `owner` has at the account of `origin`.
fn is_of(known: &Owned, origin: &ObjectOrigin, owner: &Owner) -> bool {
    known.owner == *owner && known.origin.is_account_of(origin)
}

/// The word and the bit of an id in the filter. Uses other bits of the hash than the choice of the shard.
fn mark(hash: u64) -> (usize, u64) {
    let at = (hash >> 32) as usize % MARKS;
    (at / 64, 1 << (at % 64))
}

impl Shard {
    /// The objects of this id, the newest last.
    fn owned(&self, id: &str) -> &[Owned] {
        self.entries.get(id).map_or(&[][..], Vec::as_slice)
    }

    /// Adds one more object of this id, as the newest.
    fn add(&mut self, id: &str, origin: ObjectOrigin, owner: Owner) {
        self.now += 1;
        let used = self.now;
        let known = self.entries.get_key_value(id);
        let id = known.map_or_else(|| Arc::from(id), |(id, _)| Arc::clone(id));
        let owned = Owned {
            origin,
            owner: owner.clone(),
            used,
        };
        self.entries.entry(Arc::clone(&id)).or_default().push(owned);
        self.held += 1;
        self.change(owner, |ids| {
            ids.insert(used, id);
        });
    }

    /// Removes the object at this index from those of `id`.
    fn remove(&mut self, id: &str, at: usize) -> Option<Owned> {
        let owners = self.entries.get_mut(id)?;
        let gone = owners.remove(at);
        if owners.is_empty() {
            self.entries.remove(id);
        }
        self.held -= 1;
        self.change(gone.owner.clone(), |ids| {
            ids.remove(&gone.used);
        });
        Some(gone)
    }

    /// Marks the object at this index as used now, if it is `owner`'s, and returns where it is.
    fn touch(&mut self, id: &str, at: usize, owner: &Owner) -> Option<ObjectOrigin> {
        let owned = self.entries.get_mut(id)?.get_mut(at)?;
        if owned.owner != *owner {
            return None;
        }
        self.now += 1;
        let now = self.now;
        let before = std::mem::replace(&mut owned.used, now);
        if let Some(ids) = self.by_owner.get_mut(&owned.owner)
            && let Some(id) = ids.remove(&before)
        {
            ids.insert(now, id);
        }
        Some(owned.origin.clone())
    }

    /// Removes the least recently used object of the owner with the most.
    fn make_room(&mut self) {
        let most = self
            .by_count
            .last()
            .and_then(|(_, owner)| self.by_owner.get(owner));
        let Some((used, id)) = most.and_then(|ids| ids.first_key_value()) else {
            return;
        };
        let (used, id) = (*used, Arc::clone(id));
        if let Some(at) = self.owned(&id).iter().position(|owned| owned.used == used) {
            self.remove(&id, at);
        }
    }

    /// Changes the ids of an owner. An owner without ids is forgotten.
    fn change(&mut self, owner: Owner, change: impl FnOnce(&mut BTreeMap<u64, Arc<str>>)) {
        let ids = self.by_owner.entry(owner.clone()).or_default();
        let before = ids.len();
        change(ids);
        let after = ids.len();
        let mut entry = (before, owner);
        self.by_count.remove(&entry);
        if after == 0 {
            self.by_owner.remove(&entry.1);
        } else {
            entry.0 = after;
            self.by_count.insert(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use keypool_core::key::KeyId;
    use keypool_core::secret::Digest256;

    use super::*;

    /// The only key of its account.
    fn key(name: &str) -> ObjectOrigin {
        let key = KeyId {
            provider: "mock",
            origin: "http://mock.example".into(),
            digest: Digest256::of(name.as_bytes()),
        };
        ObjectOrigin { key, group: None }
    }

    fn owner(name: &str) -> Owner {
        Some(name.into())
    }

    fn own<const N: usize>(keys: [&str; N]) -> Found {
        Found::Own(keys.map(key).into())
    }

    #[test]
    fn only_its_maker_finds_an_object() {
        let objects = Objects::new(false);
        assert_eq!(objects.find("f", &None), Found::Unknown);
        objects.record("f", &key("a"), &owner("x"));
        assert_eq!(objects.find("f", &owner("x")), own(["a"]));
        assert_eq!(objects.find("f", &owner("y")), Found::Foreign);
        assert_eq!(objects.find("f", &None), Found::Foreign);
        assert_eq!(objects.find("g", &owner("x")), Found::Unknown);
    }

    #[test]
    fn an_object_shown_to_another_caller_keeps_its_owner() {
        let objects = Objects::new(false);
        objects.record("f", &key("a"), &owner("x"));
        objects.record("f", &key("a"), &owner("y"));
        assert_eq!(objects.find("f", &owner("y")), Found::Foreign);
        objects.forget("f", &key("a"), &owner("y"));
        assert!(!objects.forget_any("f", &owner("y")));
        assert_eq!(objects.find("f", &owner("x")), own(["a"]));
        objects.record("f", &key("b"), &owner("y"));
        assert_eq!(objects.find("f", &owner("y")), own(["b"]));
        assert_eq!(objects.find("f", &owner("x")), own(["a"]));
        objects.forget("f", &key("a"), &owner("x"));
        assert_eq!(objects.find("f", &owner("x")), Found::Foreign);
        assert!(objects.forget_any("f", &owner("y")));
        assert_eq!(objects.find("f", &owner("x")), Found::Unknown);
    }

    #[test]
    fn a_recreated_name_has_its_new_owner_at_that_account_only() {
        let objects = Objects::new(false);
        objects.record("f", &key("a"), &owner("x"));
        objects.record("f", &key("b"), &owner("x"));
        objects.record_new("f", &key("a"), &owner("y"));
        assert_eq!(objects.find("f", &owner("y")), own(["a"]));
        assert_eq!(objects.find("f", &owner("x")), own(["b"]));
        objects.record_new("f", &key("b"), &owner("y"));
        assert_eq!(objects.find("f", &owner("x")), Found::Foreign);
        let shard = objects.shard(objects.hasher.hash_one("f")).lock();
        shard.check();
        assert_eq!(shard.held, 2);
    }

    #[test]
    fn an_id_at_several_accounts_of_its_maker_is_found_at_each() {
        let objects = Objects::new(false);
        for (at, of) in [("a", "x"), ("b", "y"), ("c", "x")] {
            objects.record("f", &key(at), &owner(of));
        }
        assert_eq!(objects.find("f", &owner("x")), own(["c", "a"]));
        assert_eq!(objects.find("f", &owner("y")), own(["b"]));
        objects.shard(objects.hasher.hash_one("f")).lock().check();
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let objects = Objects::with_capacity(SHARDS * 4);
        let shard = |id: &str| objects.shard(objects.hasher.hash_one(id));
        let alike: Vec<String> = (0..)
            .map(|n| format!("f{n}"))
            .filter(|id| std::ptr::eq(shard(id), shard("f0")))
            .take(6)
            .collect();
        for id in &alike[..4] {
            objects.record(id, &key("a"), &None);
        }
        assert_ne!(objects.find(&alike[0], &None), Found::Unknown);
        for id in &alike[4..] {
            objects.record(id, &key("a"), &None);
        }
        let known: Vec<bool> = alike
            .iter()
            .map(|id| objects.find(id, &None) != Found::Unknown)
            .collect();
        assert_eq!(known, [true, false, false, true, true, true]);
        let shard = shard("f0").lock();
        shard.check();
        assert_eq!(shard.entries.len(), 4);
    }

    impl Shard {
        /// All its parts agree.
        fn check(&self) {
            let owned: usize = self.entries.values().map(Vec::len).sum();
            let listed: usize = self.by_owner.values().map(BTreeMap::len).sum();
            assert_eq!((owned, listed), (self.held, self.held));
            let counts = self
                .by_owner
                .iter()
                .map(|(owner, ids)| (ids.len(), owner.clone()));
            assert_eq!(counts.collect::<BTreeSet<_>>(), self.by_count);
            for (id, owners) in &self.entries {
                assert!(!owners.is_empty());
                for owner in owners {
                    assert_eq!(self.by_owner[&owner.owner].get(&owner.used), Some(id));
                }
            }
        }
    }

    #[test]
    fn a_caller_with_very_many_objects_pushes_out_only_its_own() {
        let objects = Objects::with_capacity(SHARDS * 20);
        let (few, many) = (owner("few"), owner("many"));
        for n in 0..40 {
            objects.record(&format!("few{n}"), &key("a"), &few);
        }
        for n in 0..10_000 {
            objects.record(&format!("many{n}"), &key("a"), &many);
        }
        // In no shard do the few come near half of the capacity.
        let kept = (0..40).filter(|n| {
            let found = objects.find(&format!("few{n}"), &few);
            found == own(["a"])
        });
        assert_eq!(kept.count(), 40);
        assert_eq!(objects.find("many9999", &many), own(["a"]));
        assert_eq!(objects.find("many0", &many), Found::Unknown);
        let shards = objects.shards.iter().map(Mutex::lock);
        let held: Vec<usize> = shards
            .inspect(|shard| shard.check())
            .map(|shard| shard.held)
            .collect();
        assert_eq!(
            held, [20; SHARDS],
            "the whole capacity is used, and no more"
        );
    }

    #[test]
    fn no_owner_is_pushed_below_an_equal_share() {
        let objects = Objects::with_capacity(SHARDS * 12);
        let owners = ["x", "y", "z"].map(owner);
        for n in 0..3000 {
            // One owner creates ten times as many as each of the others.
            let of = if n % 12 < 10 { 0 } else { n % 12 - 9 };
            objects.record(&format!("f{n}"), &key("a"), &owners[of]);
        }
        for shard in &objects.shards {
            let shard = shard.lock();
            shard.check();
            let counts: Vec<usize> = owners
                .iter()
                .map(|owner| shard.by_owner[owner].len())
                .collect();
            assert_eq!(counts, [4, 4, 4]);
        }
    }

    #[test]
    fn an_id_with_one_owner_names_it() {
        let objects = Objects::new(false);
        assert_eq!(objects.owner("u"), None);
        objects.record("u", &key("a"), &owner("x"));
        assert_eq!(objects.owner("u"), Some(owner("x")));
        objects.record("u", &key("b"), &owner("y"));
        assert_eq!(objects.owner("u"), None, "there are two");
        objects.forget("u", &key("a"), &owner("x"));
        assert_eq!(objects.owner("u"), Some(owner("y")));
    }

    #[test]
    fn one_id_at_many_accounts_is_bounded_per_owner() {
        let objects = Objects::new(false);
        objects.record("f", &key("a"), &owner("x"));
        for n in 0..20 {
            objects.record_new("f", &key(&n.to_string()), &owner("y"));
        }
        assert_eq!(objects.find("f", &owner("x")), own(["a"]));
        let newest = ["19", "18", "17", "16", "15", "14", "13"];
        assert_eq!(objects.find("f", &owner("y")), own(newest));
        objects.record_new("f", &key("z"), &owner("z"));
        assert_eq!(objects.find("f", &owner("z")), Found::Foreign);
        assert_eq!(objects.find("f", &owner("y")), own(newest));
        objects.shard(objects.hasher.hash_one("f")).lock().check();
    }
}
