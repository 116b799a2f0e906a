//! Which account holds an object that a call made, and for whom: files, batches, stored responses, tasks.
//!
//! Kept in memory, within a bound. When it is reached, whoever has most loses what it has not used for longest, so that
//! nobody's objects make room for another's. Must never know a wire form or a pool.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypool_core::pool::ObjectOrigin;
use parking_lot::Mutex;

/// How many ids are remembered.
const CAPACITY: usize = 100_000;
/// Locks, so that requests about different objects seldom meet.
const SHARDS: usize = 16;
/// Bits that tell without a lock that an id was never noted: eight for each id that is remembered.
const MARKS: usize = 1 << 20;
/// One id is remembered at so many accounts. What is made at a further one takes the place of its own maker's, or none.
const MAX_OWNERS: usize = 8;

/// Who made an object: a virtual key's name; `None`: anybody, while no virtual key is required.
pub(crate) type Owner = Option<Arc<str>>;

/// What is known of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The caller made it, at each of these accounts; the newest first.
    Own(Vec<ObjectOrigin>),
    /// Another caller made it.
    Foreign,
    /// Nothing.
    Unknown,
}

/// All objects that are remembered.
pub(crate) struct Objects {
    shards: [Mutex<Shard>; SHARDS],
    /// Of each shard. Ids fall into shards at random, so what is fair in each is fair in all.
    capacity: usize,
    hasher: RandomState,
    /// A bit for each id that was ever noted; ids may share one. Most strings in a request's body are no ids, and
    /// must not meet at a lock.
    marks: Box<[AtomicU64]>,
    noted: AtomicU64,
}

/// What one maker holds under one id, at one account.
struct Owned {
    origin: ObjectOrigin,
    maker: Owner,
    used: u64,
}

#[derive(Default)]
struct Shard {
    /// Providers do not share ids, so there may be one at each account.
    entries: HashMap<Arc<str>, Vec<Owned>>,
    /// Each maker's ids by when they were used last.
    makers: HashMap<Owner, BTreeMap<u64, Arc<str>>>,
    /// Makers by how much they hold.
    by_count: BTreeSet<(usize, Owner)>,
    held: usize,
    now: u64,
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

    /// Remembers that `maker` made `id` through the key of `origin`. Who made it there first keeps it.
    pub(crate) fn note(&self, id: &str, origin: &ObjectOrigin, maker: &Owner) {
        self.put(id, origin, maker, false);
    }

    /// As [`Self::note`], where the provider made `id` just now: whatever had that name there before is gone.
    pub(crate) fn note_new(&self, id: &str, origin: &ObjectOrigin, maker: &Owner) {
        self.put(id, origin, maker, true);
    }

    fn put(&self, id: &str, origin: &ObjectOrigin, maker: &Owner, is_new: bool) {
        let hash = self.hasher.hash_one(id);
        let (word, bit) = mark(hash);
        self.marks[word].fetch_or(bit, Ordering::Relaxed);
        self.noted.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(hash).lock();
        let is_there = |known: &Owned| known.origin.is_account_of(origin);
        while let Some(at) = shard.owned(id).iter().position(is_there) {
            if !is_new {
                return;
            }
            shard.remove(id, at);
        }
        let owned = shard.owned(id);
        if owned.len() >= MAX_OWNERS {
            let Some(own) = owned.iter().position(|known| known.maker == *maker) else {
                return;
            };
            shard.remove(id, own);
        }
        shard.add(id, origin.clone(), maker.clone());
        if shard.held > self.capacity {
            shard.make_room();
        }
    }

    /// Where `id` is, as far as `maker` may know.
    pub(crate) fn find(&self, id: &str, maker: &Owner) -> Found {
        let hash = self.hasher.hash_one(id);
        if !self.may_know(hash) {
            return Found::Unknown;
        }
        let mut shard = self.shard(hash).lock();
        let Some(owned) = shard.entries.get(id) else {
            return Found::Unknown;
        };
        let places = 0..owned.len();
        let mut origins = Vec::new();
        for at in places.rev() {
            if let Some(origin) = shard.touch(id, at, maker) {
                origins.push(origin);
            }
        }
        if origins.is_empty() {
            return Found::Foreign;
        }
        Found::Own(origins)
    }

    /// Who made `id`, where that is one caller.
    pub(crate) fn maker(&self, id: &str) -> Option<Owner> {
        let hash = self.hasher.hash_one(id);
        if !self.may_know(hash) {
            return None;
        }
        let shard = self.shard(hash).lock();
        match shard.entries.get(id)?.as_slice() {
            [only] => Some(only.maker.clone()),
            _ => None,
        }
    }

    /// Whether any object was ever noted.
    pub(crate) fn has_any(&self) -> bool {
        self.noted.load(Ordering::Relaxed) > 0
    }

    /// The object that `maker` made through the account of `origin` is gone.
    pub(crate) fn forget(&self, id: &str, origin: &ObjectOrigin, maker: &Owner) {
        self.remove(id, |known| {
            known.maker == *maker && known.origin.is_account_of(origin)
        });
    }

    /// Forgets one `id` of `maker`'s, wherever it is. Whether there was one.
    pub(crate) fn take(&self, id: &str, maker: &Owner) -> bool {
        self.remove(id, |known| known.maker == *maker)
    }

    fn remove(&self, id: &str, is_it: impl Fn(&Owned) -> bool) -> bool {
        let mut shard = self.shard(self.hasher.hash_one(id)).lock();
        let found = shard.owned(id).iter().position(is_it);
        if let Some(at) = found {
            shard.remove(id, at);
        }
        found.is_some()
    }

    fn may_know(&self, hash: u64) -> bool {
        let (word, bit) = mark(hash);
        self.marks[word].load(Ordering::Relaxed) & bit != 0
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
    /// The owners of `id`, the newest last.
    fn owned(&self, id: &str) -> &[Owned] {
        self.entries.get(id).map_or(&[][..], Vec::as_slice)
    }

    /// Puts one more owner behind the others of `id`.
    fn add(&mut self, id: &str, origin: ObjectOrigin, maker: Owner) {
        self.now += 1;
        let used = self.now;
        let known = self.entries.get_key_value(id);
        let id = known.map_or_else(|| Arc::from(id), |(id, _)| Arc::clone(id));
        let owned = Owned {
            origin,
            maker: maker.clone(),
            used,
        };
        self.entries.entry(Arc::clone(&id)).or_default().push(owned);
        self.held += 1;
        self.change(maker, |ids| {
            ids.insert(used, id);
        });
    }

    /// Takes the owner at this place from `id`.
    fn remove(&mut self, id: &str, at: usize) {
        let Some(owners) = self.entries.get_mut(id) else {
            return;
        };
        let Owned { maker, used, .. } = owners.remove(at);
        if owners.is_empty() {
            self.entries.remove(id);
        }
        self.held -= 1;
        self.change(maker, |ids| {
            ids.remove(&used);
        });
    }

    /// Notes that the owner at this place uses `id` now, if it is `maker`; gives back where its object is.
    fn touch(&mut self, id: &str, at: usize, maker: &Owner) -> Option<ObjectOrigin> {
        let owned = self.entries.get_mut(id)?.get_mut(at)?;
        if owned.maker != *maker {
            return None;
        }
        self.now += 1;
        let now = self.now;
        let before = std::mem::replace(&mut owned.used, now);
        if let Some(ids) = self.makers.get_mut(&owned.maker)
            && let Some(id) = ids.remove(&before)
        {
            ids.insert(now, id);
        }
        Some(owned.origin.clone())
    }

    /// Takes from the maker with most what it has not used for longest.
    fn make_room(&mut self) {
        let most = self
            .by_count
            .last()
            .and_then(|(_, maker)| self.makers.get(maker));
        let Some((used, id)) = most.and_then(|ids| ids.first_key_value()) else {
            return;
        };
        let (used, id) = (*used, Arc::clone(id));
        if let Some(at) = self.owned(&id).iter().position(|owned| owned.used == used) {
            self.remove(&id, at);
        }
    }

    /// Changes what a maker holds; makers with nothing are forgotten.
    fn change(&mut self, maker: Owner, change: impl FnOnce(&mut BTreeMap<u64, Arc<str>>)) {
        let ids = self.makers.entry(maker.clone()).or_default();
        let before = ids.len();
        change(ids);
        let after = ids.len();
        let mut place = (before, maker);
        self.by_count.remove(&place);
        if after == 0 {
            self.makers.remove(&place.1);
        } else {
            place.0 = after;
            self.by_count.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use keypool_core::key::KeyId;
    use keypool_core::secret::Digest256;

    use super::*;

    /// A key alone at its account.
    fn key(name: &str) -> ObjectOrigin {
        let key = KeyId {
            provider: "mock",
            origin: "http://mock.example".into(),
            digest: Digest256::of(name.as_bytes()),
        };
        ObjectOrigin { key, group: None }
    }

    fn maker(name: &str) -> Owner {
        Some(name.into())
    }

    fn own<const N: usize>(keys: [&str; N]) -> Found {
        Found::Own(keys.map(key).into())
    }

    #[test]
    fn only_its_maker_finds_an_object() {
        let objects = Objects::default();
        assert_eq!(objects.find("f", &None), Found::Unknown);
        objects.note("f", &key("a"), &maker("x"));
        assert_eq!(objects.find("f", &maker("x")), own(["a"]));
        assert_eq!(objects.find("f", &maker("y")), Found::Foreign);
        assert_eq!(objects.find("f", &None), Found::Foreign);
        assert_eq!(objects.find("g", &maker("x")), Found::Unknown);
    }

    #[test]
    fn who_made_it_first_keeps_it_from_those_who_are_only_shown_it() {
        let objects = Objects::default();
        objects.note("f", &key("a"), &maker("x"));
        objects.note("f", &key("a"), &maker("y"));
        assert_eq!(objects.find("f", &maker("y")), Found::Foreign);
        objects.forget("f", &key("a"), &maker("y"));
        assert!(!objects.take("f", &maker("y")));
        assert_eq!(objects.find("f", &maker("x")), own(["a"]));
        objects.note("f", &key("b"), &maker("y"));
        assert_eq!(objects.find("f", &maker("y")), own(["b"]));
        assert_eq!(objects.find("f", &maker("x")), own(["a"]));
        objects.forget("f", &key("a"), &maker("x"));
        assert_eq!(objects.find("f", &maker("x")), Found::Foreign);
        assert!(objects.take("f", &maker("y")));
        assert_eq!(objects.find("f", &maker("x")), Found::Unknown);
    }

    #[test]
    fn who_makes_a_name_anew_has_it_at_that_account_alone() {
        let objects = Objects::default();
        objects.note("f", &key("a"), &maker("x"));
        objects.note("f", &key("b"), &maker("x"));
        objects.note_new("f", &key("a"), &maker("y"));
        assert_eq!(objects.find("f", &maker("y")), own(["a"]));
        assert_eq!(objects.find("f", &maker("x")), own(["b"]));
        objects.note_new("f", &key("b"), &maker("y"));
        assert_eq!(objects.find("f", &maker("x")), Found::Foreign);
        let shard = objects.shard(objects.hasher.hash_one("f")).lock();
        shard.check();
        assert_eq!(shard.held, 2);
    }

    #[test]
    fn an_id_at_several_accounts_of_its_maker_is_found_at_each() {
        let objects = Objects::default();
        for (at, of) in [("a", "x"), ("b", "y"), ("c", "x")] {
            objects.note("f", &key(at), &maker(of));
        }
        assert_eq!(objects.find("f", &maker("x")), own(["c", "a"]));
        assert_eq!(objects.find("f", &maker("y")), own(["b"]));
        objects.shard(objects.hasher.hash_one("f")).lock().check();
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
            objects.note(id, &key("a"), &None);
        }
        assert_ne!(objects.find(&alike[0], &None), Found::Unknown);
        for id in &alike[4..] {
            objects.note(id, &key("a"), &None);
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
        /// All its parts tell the same.
        fn check(&self) {
            let owned: usize = self.entries.values().map(Vec::len).sum();
            let listed: usize = self.makers.values().map(BTreeMap::len).sum();
            assert_eq!((owned, listed), (self.held, self.held));
            let counts = self
                .makers
                .iter()
                .map(|(maker, ids)| (ids.len(), maker.clone()));
            assert_eq!(counts.collect::<BTreeSet<_>>(), self.by_count);
            for (id, owners) in &self.entries {
                assert!(!owners.is_empty());
                for owner in owners {
                    assert_eq!(self.makers[&owner.maker].get(&owner.used), Some(id));
                }
            }
        }
    }

    #[test]
    fn a_caller_that_makes_very_many_pushes_out_its_own_alone() {
        let objects = Objects::with_capacity(SHARDS * 20);
        let (few, many) = (maker("few"), maker("many"));
        for n in 0..40 {
            objects.note(&format!("few{n}"), &key("a"), &few);
        }
        for n in 0..10_000 {
            objects.note(&format!("many{n}"), &key("a"), &many);
        }
        // In no shard do the few come near half of the room.
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
        assert_eq!(held, [20; SHARDS], "all of the room is used, and no more");
    }

    #[test]
    fn nobody_is_pushed_below_an_equal_share() {
        let objects = Objects::with_capacity(SHARDS * 12);
        let makers = ["x", "y", "z"].map(maker);
        for n in 0..3000 {
            // One makes ten times as many as each other.
            let of = if n % 12 < 10 { 0 } else { n % 12 - 9 };
            objects.note(&format!("f{n}"), &key("a"), &makers[of]);
        }
        for shard in &objects.shards {
            let shard = shard.lock();
            shard.check();
            let counts: Vec<usize> = makers
                .iter()
                .map(|maker| shard.makers[maker].len())
                .collect();
            assert_eq!(counts, [4, 4, 4]);
        }
    }

    #[test]
    fn an_id_is_looked_up_by_its_only_maker() {
        let objects = Objects::default();
        assert_eq!(objects.maker("u"), None);
        objects.note("u", &key("a"), &maker("x"));
        assert_eq!(objects.maker("u"), Some(maker("x")));
        objects.note("u", &key("b"), &maker("y"));
        assert_eq!(objects.maker("u"), None, "there are two");
        objects.forget("u", &key("a"), &maker("x"));
        assert_eq!(objects.maker("u"), Some(maker("y")));
    }

    #[test]
    fn one_id_at_many_accounts_stays_small_and_nobody_loses_its_own_to_another() {
        let objects = Objects::default();
        objects.note("f", &key("a"), &maker("x"));
        for n in 0..20 {
            objects.note_new("f", &key(&n.to_string()), &maker("y"));
        }
        assert_eq!(objects.find("f", &maker("x")), own(["a"]));
        let newest = ["19", "18", "17", "16", "15", "14", "13"];
        assert_eq!(objects.find("f", &maker("y")), own(newest));
        objects.note_new("f", &key("z"), &maker("z"));
        assert_eq!(objects.find("f", &maker("z")), Found::Foreign);
        assert_eq!(objects.find("f", &maker("y")), own(newest));
        objects.shard(objects.hasher.hash_one("f")).lock().check();
    }
}
