//! The state that all connections share: keys, recordings, random numbers, ids and the time.
//!
//! This module must never know of sockets or of any provider's wire format.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::prompt_cache::PromptCaches;
use crate::quota::Quota;
use crate::recorded::Recorded;
use crate::script::{Behaviour, Key, Seen, Step, Verdict, Visit, VisitContext};

/// Maximum number of requests that `Mock::recorded` returns.
pub const MAX_RECORDED_REQUESTS: usize = 1000;
/// Maximum number of objects (responses, research tasks, …) whose owner is remembered.
const MAX_OBJECTS: usize = 10_000;
/// What a key has at first, if no quota was set.
const CREDITS: f64 = 1000.0;
const FIRST_SEED: u64 = 0x6b65_7970_6f6f_6c21;

/// The ids of objects and the owner of each. The oldest are forgotten.
#[derive(Debug, Default)]
struct Objects {
    owners: HashMap<String, String>,
    /// The progress of each object that is an upload.
    uploads: HashMap<String, Progress>,
    order: VecDeque<String>,
}

/// The progress of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) mime_type: String,
    pub(crate) received: u64,
    pub(crate) status: Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Status {
    #[default]
    Active,
    Final,
    Cancelled,
}

/// The state that all connections share.
#[derive(Debug)]
pub(crate) struct State {
    keys: RwLock<HashMap<String, Arc<Key>>>,
    any_script: Mutex<VecDeque<Step>>,
    defaults: RwLock<Arc<Behaviour>>,
    first_defaults: Arc<Behaviour>,
    /// By key; that of `*` is for all others.
    quotas: RwLock<HashMap<String, Quota>>,
    allowed: RwLock<HashSet<String>>,
    recordings: Mutex<VecDeque<Arc<Recorded>>>,
    objects: Mutex<Objects>,
    prompt_caches: PromptCaches,
    random: Mutex<fastrand::Rng>,
    changed: Arc<Notify>,
    next_id: AtomicU64,
    id_salt: u64,
    started: Instant,
    started_unix: u64,
}

impl State {
    /// `salt` makes this mock's ids differ from those of other mocks in the same test.
    pub(crate) fn new(defaults: Behaviour, salt: u16) -> Self {
        let defaults = Arc::new(defaults);
        State {
            keys: RwLock::default(),
            any_script: Mutex::default(),
            defaults: RwLock::new(Arc::clone(&defaults)),
            first_defaults: defaults,
            quotas: RwLock::default(),
            allowed: RwLock::default(),
            recordings: Mutex::default(),
            objects: Mutex::default(),
            prompt_caches: PromptCaches::default(),
            random: Mutex::new(fastrand::Rng::with_seed(FIRST_SEED)),
            changed: Arc::default(),
            next_id: AtomicU64::new(1),
            id_salt: u64::from(salt) << 40,
            started: Instant::now(),
            started_unix: unix_now(),
        }
    }

    fn key(&self, key: &str) -> Arc<Key> {
        if let Some(found) = self.keys.read().get(key) {
            return Arc::clone(found);
        }
        let mut keys = self.keys.write();
        Arc::clone(
            keys.entry(key.to_owned())
                .or_insert_with(|| Arc::new(Key::new(Arc::clone(&self.changed)))),
        )
    }

    fn known_key(&self, key: &str) -> Option<Arc<Key>> {
        self.keys.read().get(key).cloned()
    }

    pub(crate) fn script(&self, key: &str, steps: impl IntoIterator<Item = Step>) {
        match key {
            "*" => self.any_script.lock().extend(steps),
            _ => self.key(key).script(steps),
        }
    }

    pub(crate) fn behave(&self, key: &str, behaviour: Behaviour) {
        match key {
            "*" => *self.defaults.write() = Arc::new(behaviour),
            _ => self.key(key).behave(behaviour),
        }
    }

    pub(crate) fn set_quota(&self, key: &str, quota: Quota) {
        self.quotas.write().insert(key.to_owned(), quota);
    }

    /// What the key has left: what was set, else the first credits without one for each 200 it received.
    pub(crate) fn quota(&self, key: &str) -> Quota {
        let quotas = self.quotas.read();
        if let Some(set) = quotas.get(key).or_else(|| quotas.get("*")) {
            return *set;
        }
        let used = self.seen(key).by_status.get(&200).copied().unwrap_or(0);
        Quota {
            remaining: Some((CREDITS - used as f64).max(0.0)),
            limit: Some(CREDITS),
        }
    }

    pub(crate) fn allow_keys(&self, keys: impl Iterator<Item = String>) {
        self.allowed.write().extend(keys);
    }

    pub(crate) fn seed(&self, seed: u64) {
        self.random.lock().seed(seed);
    }

    pub(crate) fn seen(&self, key: &str) -> Seen {
        self.known_key(key)
            .map(|key| key.seen())
            .unwrap_or_default()
    }

    /// Leaves out keys that have sent no request.
    pub(crate) fn seen_all(&self) -> BTreeMap<String, Seen> {
        let keys = self.keys.read();
        let seen = keys.iter().map(|(name, key)| (name.clone(), key.seen()));
        seen.filter(|(_, seen)| seen.requests > 0).collect()
    }

    pub(crate) async fn wait_for(&self, key: &str, reached: impl Fn(&Seen) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the check, so that no change between check and wait is missed.
            changed.as_mut().enable();
            if reached(&self.seen(key)) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn last_request(&self, key: &str) -> Option<Recorded> {
        self.known_key(key)?
            .last()
            .map(|recorded| (*recorded).clone())
    }

    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.recordings
            .lock()
            .iter()
            .map(|recorded| (**recorded).clone())
            .collect()
    }

    pub(crate) fn record(&self, recorded: Recorded) {
        let key = self.key(&recorded.key);
        let recorded = Arc::new(recorded);
        key.set_last(Arc::clone(&recorded));
        let mut recordings = self.recordings.lock();
        if recordings.len() == MAX_RECORDED_REQUESTS {
            recordings.pop_front();
        }
        recordings.push_back(recorded);
    }

    pub(crate) fn clear(&self) {
        self.keys.write().clear();
        self.any_script.lock().clear();
        *self.defaults.write() = Arc::clone(&self.first_defaults);
        self.quotas.write().clear();
        self.allowed.write().clear();
        self.recordings.lock().clear();
        *self.objects.lock() = Objects::default();
        self.prompt_caches.clear();
        self.changed.notify_waiters();
    }

    /// Counts a request whose head has arrived, and decides what happens to it.
    pub(crate) fn visit(&self, key: &str) -> (Visit, Arc<Behaviour>, Verdict) {
        let defaults = Arc::clone(&self.defaults.read());
        let context = VisitContext {
            defaults: &defaults,
            known: self.allowed.read().contains(key),
            now: Instant::now(),
            any_step: &|| self.any_script.lock().pop_front(),
            chance: &|| self.random.lock().f64(),
        };
        self.key(key).visit(&context)
    }

    /// Returns how many tokens of a chat call's prompt were cached, and caches all of it.
    pub(crate) fn cached_tokens(&self, key: &str, body: &[u8], behaviour: &Behaviour) -> u64 {
        let Some(ttl) = behaviour.prompt_cache else {
            return 0;
        };
        let account = behaviour.account.as_deref().unwrap_or(key);
        let cached = self.prompt_caches.read(account, body, Instant::now(), ttl);
        self.key(key).count_cached(cached);
        cached.tokens
    }

    /// A new id: `prefix` and 24 hexadecimal digits.
    pub(crate) fn id(&self, prefix: &str) -> String {
        let n = self.next_id.fetch_add(1, Ordering::Relaxed) | self.id_salt;
        let (high, low) = (scatter(n), scatter(n ^ FIRST_SEED));
        format!("{prefix}{high:016x}{:08x}", low as u32)
    }

    /// Remembers which key created an object. Keys that end in the same `@name` belong to one organisation, and share it.
    pub(crate) fn own(&self, id: &str, key: &str) {
        let mut objects = self.objects.lock();
        if objects.order.len() == MAX_OBJECTS
            && let Some(oldest) = objects.order.pop_front()
        {
            objects.owners.remove(&oldest);
            objects.uploads.remove(&oldest);
        }
        objects.order.push_back(id.to_owned());
        objects
            .owners
            .insert(id.to_owned(), organisation(key).to_owned());
    }

    /// Whether the object exists for `key`, which means that the key's organisation created it.
    pub(crate) fn owns(&self, id: &str, key: &str) -> bool {
        self.objects
            .lock()
            .owners
            .get(id)
            .is_some_and(|owner| owner == organisation(key))
    }

    /// Reads or changes the progress of an upload.
    pub(crate) fn upload<T>(&self, id: &str, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(
            self.objects
                .lock()
                .uploads
                .entry(id.to_owned())
                .or_default(),
        )
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, id: &str) {
        self.objects.lock().owners.remove(id);
    }

    /// Seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        self.started_unix + self.started.elapsed().as_secs()
    }
}

/// The owner of the key's objects.
fn organisation(key: &str) -> &str {
    key.rsplit_once('@').map_or(key, |(_, name)| name)
}

/// SplitMix64's finalizer. Different numbers stay different, and look random.
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the mock's only look at the wall clock, for the dates in its answers"
)]
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn state(salt: u16) -> State {
        State::new(Behaviour::default(), salt)
    }

    #[test]
    fn ids_differ_within_a_mock_and_between_mocks() {
        let (one, two) = (state(1), state(2));
        let ids: HashSet<String> = (0..1000)
            .flat_map(|_| [one.id("x-"), two.id("x-")])
            .collect();
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == 26 && id.starts_with("x-")));
    }

    #[test]
    fn a_seed_repeats_its_random_numbers() {
        let state = state(1);
        state.behave(
            "*",
            Behaviour {
                fail_share: 0.5,
                ..Behaviour::default()
            },
        );
        let run = |seed| -> Vec<bool> {
            state.seed(seed);
            (0..64)
                .map(|_| matches!(state.visit("k").2, Verdict::Refuse(_)))
                .collect()
        };
        let first = run(7);
        assert_eq!(first, run(7));
        assert_ne!(first, run(8));
        let failed = first.iter().filter(|failed| **failed).count();
        assert!(
            (16..=48).contains(&failed),
            "about half of 64 fail: {failed}"
        );
    }

    #[test]
    fn objects_belong_to_one_key_and_the_oldest_are_forgotten() {
        let state = state(1);
        state.own("first", "k");
        assert!(state.owns("first", "k"));
        assert!(!state.owns("first", "other"));
        for n in 0..MAX_OBJECTS {
            state.own(&format!("o{n}"), "k");
        }
        assert!(!state.owns("first", "k"));
        assert!(state.owns("o0", "k"));
        state.delete("o0");
        assert!(!state.owns("o0", "k"));
        state.own("shared", "k1@org");
        assert!(state.owns("shared", "k2@org") && !state.owns("shared", "k1"));
    }

    #[test]
    fn recordings_keep_the_newest() {
        let state = state(1);
        for n in 0..MAX_RECORDED_REQUESTS + 5 {
            state.record(Recorded {
                key: "k".to_owned(),
                method: "GET".to_owned(),
                path: format!("/{n}"),
                headers: Vec::new(),
                body: Bytes::new(),
                body_len: 0,
                large_hash: None,
            });
        }
        let recorded = state.recorded();
        assert_eq!(recorded.len(), MAX_RECORDED_REQUESTS);
        assert_eq!(
            (
                recorded[0].path.as_str(),
                recorded[MAX_RECORDED_REQUESTS - 1].path.as_str()
            ),
            ("/5", "/1004")
        );
        assert_eq!(
            state.last_request("k").map(|r| r.path),
            Some("/1004".to_owned())
        );
    }
}
