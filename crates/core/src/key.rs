//! One upstream key: its counters, its switches, its breaker, its rests; and the quota group it belongs to.
//!
//! The state of a key is shared by every pool it stands in and survives a reload. Reading it takes no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::board::Board;
use crate::breaker::{Breaker, Position};
use crate::fault::Class;
use crate::rests::Rests;
use crate::secret::{Digest256, Secret};
use crate::settings::BreakerSettings;

/// What makes two configured keys one: the same secret at the same provider and host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId {
    /// The provider's name.
    pub provider: &'static str,
    /// Scheme, host and port.
    pub origin: Arc<str>,
    /// SHA-256 of the secret.
    pub digest: Digest256,
}

/// Reasons why a key takes no calls. Kept as bits of one word; a key is available when none is set.
pub(crate) mod flag {
    /// Switched off by an operator.
    pub(crate) const DISABLED: u32 = 1;
    /// Not accepted by the provider.
    pub(crate) const INVALID: u32 = 1 << 1;
    /// Its quota group has nothing left.
    pub(crate) const EXHAUSTED: u32 = 1 << 2;
    /// Its breaker is open.
    pub(crate) const EJECTED: u32 = 1 << 3;
    /// Its breaker is half-open and the trial is under way.
    pub(crate) const ON_TRIAL: u32 = 1 << 4;
    /// As many calls in flight as it may have.
    pub(crate) const FULL: u32 = 1 << 5;
    /// Its breaker is half-open: the next call is the trial. Does not block.
    pub(crate) const HALF_OPEN: u32 = 1 << 6;
    /// The flags that keep a key out of the available set.
    pub(crate) const BLOCKING: u32 = DISABLED | INVALID | EXHAUSTED | EJECTED | ON_TRIAL | FULL;
}

/// A recovered key takes this many calls at once, and one more for each success, …
const RAMP_START: u32 = 2;
/// … until it may have this many in flight; from there on only its own cap holds.
const RAMP_END: u32 = 64;

/// One upstream key.
// Fields stand in the order in which calls meet them, what every call touches on the first two cache lines.
#[repr(C, align(64))]
pub struct Key {
    flags: AtomicU32,
    active: AtomicU32,
    /// The configured cap; `u32::MAX`: none.
    cap: AtomicU32,
    /// The ramp after a recovery; `u32::MAX`: over.
    ramp: AtomicU32,
    total: AtomicU64,
    /// Milliseconds since the Unix epoch; 0: never.
    last_used_ms: AtomicU64,
    models: ModelsInUse,
    /// (key, model) pairs that the provider forbids.
    pub(crate) forbidden: Rests,
    breaker: Mutex<Breaker>,
    failed: AtomicU64,
    /// The group of a key for which none is configured.
    pub(crate) own_group: Arc<Group>,
    /// When `EXHAUSTED` ends by itself.
    exhausted_until: Mutex<Option<Instant>>,
    /// The boards of the pools it stands in, and its place on each; those of ended configurations with calls in
    /// flight included.
    boards: RwLock<Vec<(Weak<Board>, usize)>>,
    id: KeyId,
    secret: Secret,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(
    std::mem::offset_of!(Key, failed) >= 128 && std::mem::offset_of!(Key, breaker) + 48 <= 128
);

/// Whether a key has been used for one model only, cheaply: the digest of that model, or a mark.
#[derive(Default)]
struct ModelsInUse(AtomicU64);

impl ModelsInUse {
    const NONE: u64 = 0;
    const SEVERAL: u64 = 1;

    fn note(&self, model: &str) {
        let known = self.0.load(Ordering::Relaxed);
        if known == Self::SEVERAL {
            return;
        }
        let digest = Self::digest(model);
        if known == digest {
            return;
        }
        let first =
            self.0
                .compare_exchange(Self::NONE, digest, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|other| other != digest) {
            self.0.store(Self::SEVERAL, Ordering::Relaxed);
        }
    }

    fn is_only(&self, model: &str) -> bool {
        self.0.load(Ordering::Relaxed) == Self::digest(model)
    }

    /// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), kept clear of the marks.
    fn digest(model: &str) -> u64 {
        let hash = model.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash.max(Self::SEVERAL + 1)
    }
}

/// A quota group: keys of one organisation, project or account, which share their limits and balance.
#[derive(Default)]
pub struct Group {
    /// Models that rest for all keys of the group.
    pub(crate) rests: Rests,
    keys: Mutex<Vec<Weak<Key>>>,
}

impl Group {
    pub(crate) fn leave_all(&self) {
        self.keys.lock().clear();
    }

    pub(crate) fn join(&self, key: &Arc<Key>) {
        let mut keys = self.keys.lock();
        if !keys.iter().any(|old| old.as_ptr() == Arc::as_ptr(key)) {
            keys.push(Arc::downgrade(key));
        }
    }

    /// The keys that belong to it now.
    pub(crate) fn keys(&self) -> Vec<Arc<Key>> {
        self.keys.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Key {
    pub(crate) fn new(id: KeyId, secret: Secret) -> Arc<Self> {
        Arc::new(Self {
            id,
            secret,
            flags: AtomicU32::new(0),
            active: AtomicU32::new(0),
            cap: AtomicU32::new(u32::MAX),
            ramp: AtomicU32::new(u32::MAX),
            total: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::default()),
            forbidden: Rests::default(),
            own_group: Arc::new(Group::default()),
            exhausted_until: Mutex::new(None),
            models: ModelsInUse::default(),
            boards: RwLock::new(Vec::new()),
        })
    }

    /// What makes it this key.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The credential sent upstream.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Calls in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Attempts so far.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// When it was last used, in milliseconds since the Unix epoch.
    pub fn last_used_ms(&self) -> Option<u64> {
        Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::SeqCst)
    }

    pub(crate) fn breaker(&self) -> &Mutex<Breaker> {
        &self.breaker
    }

    /// When the group's exhaustion ends by itself.
    pub(crate) fn exhausted_until(&self) -> Option<Instant> {
        *self.exhausted_until.lock()
    }

    /// When the open breaker lets a trial through.
    pub(crate) fn open_until(&self) -> Option<Instant> {
        match self.breaker.lock().position() {
            Position::Open { until } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn set_cap(self: &Arc<Self>, cap: Option<u32>) {
        self.cap.store(cap.unwrap_or(u32::MAX), Ordering::SeqCst);
        self.settle_full();
    }

    /// From now on `board` shows this key at `place`.
    pub(crate) fn stand_on(&self, board: &Arc<Board>, place: usize) {
        let mut boards = self.boards.write();
        boards.retain(|(old, _)| old.strong_count() > 0);
        boards.push((Arc::downgrade(board), place));
        drop(boards);
        self.show();
    }

    fn boards(&self) -> Vec<Arc<Board>> {
        self.boards
            .read()
            .iter()
            .filter_map(|(board, _)| board.upgrade())
            .collect()
    }

    /// Takes one slot. `blocked_by`: the flags that forbid it (an ejected key may be forced to serve).
    /// Says whether the call is the breaker's trial.
    pub(crate) fn take(&self, blocked_by: u32, now_ms: u64) -> Option<Taken> {
        if self.flags() & blocked_by != 0 {
            return None;
        }
        let limit = self.limit();
        let taken = self
            .active
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |active| {
                (active < limit).then_some(active + 1)
            });
        let active = taken.ok()? + 1;
        let trial = self.flags() & flag::HALF_OPEN != 0 && self.begin_trial();
        if !trial && self.flags() & blocked_by & flag::ON_TRIAL != 0 {
            self.active.fetch_sub(1, Ordering::SeqCst);
            self.settle_full();
            return None;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        self.last_used_ms.store(now_ms, Ordering::Relaxed);
        if active >= limit {
            self.settle_full();
        }
        Some(Taken { trial })
    }

    fn begin_trial(&self) -> bool {
        let before = self.flags.fetch_or(flag::ON_TRIAL, Ordering::SeqCst);
        if before & flag::ON_TRIAL != 0 {
            return false;
        }
        self.show();
        true
    }

    /// Gives the slot back. Afterwards those who wait for one have to be served.
    pub(crate) fn release(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        if self.limit() != u32::MAX {
            self.settle_full();
        }
    }

    /// Offers what has become free to the requests that wait in any pool of this key.
    pub(crate) fn serve_waiting(&self) {
        // Collected first: handing a lease over takes the same lock again.
        let waited_for: Vec<Arc<Board>> = {
            let boards = self.boards.read();
            let live = boards.iter().filter_map(|(board, _)| board.upgrade());
            live.filter(|board| board.waiting() > 0).collect()
        };
        for board in waited_for {
            board.freed();
        }
    }

    /// Tells those who wait that a rest was set or cleared.
    pub(crate) fn notify_changed(&self) {
        for board in self.boards() {
            board.notify_changed();
        }
    }

    fn note_due(&self, due: Instant) {
        for board in self.boards() {
            board.note_due(due);
            board.notify_changed();
        }
    }

    fn limit(&self) -> u32 {
        self.cap
            .load(Ordering::SeqCst)
            .min(self.ramp.load(Ordering::SeqCst))
    }

    /// Brings `FULL` in line with the count, whatever other threads do meanwhile.
    fn settle_full(&self) {
        loop {
            let full = self.active() >= self.limit();
            self.change(
                if full { flag::FULL } else { 0 },
                if full { 0 } else { flag::FULL },
            );
            if full == (self.active() >= self.limit()) {
                return;
            }
        }
    }

    /// Sets and clears flags, and shows the change to every pool's available set.
    pub(crate) fn change(&self, set: u32, clear: u32) {
        let before = self.flags();
        if set != 0 {
            self.flags.fetch_or(set, Ordering::SeqCst);
        }
        if clear != 0 {
            self.flags.fetch_and(!clear, Ordering::SeqCst);
        }
        if before != self.flags() || before & set != set || before & clear != 0 {
            self.show();
        }
    }

    fn show(&self) {
        for (board, place) in self.boards.read().iter() {
            if let Some(board) = board.upgrade() {
                board.show(*place, || self.flags() & flag::BLOCKING == 0);
            }
        }
    }

    pub(crate) fn count_failure(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers that `model` was asked for.
    pub(crate) fn note_model(&self, model: &str) {
        self.models.note(model);
    }

    /// Whether no other model than `model` was ever asked of this key.
    pub(crate) fn only_model_is(&self, model: &str) -> bool {
        self.models.is_only(model)
    }

    /// Sets the key aside: its breaker opens.
    pub(crate) fn eject(&self, settings: &BreakerSettings, now: Instant) {
        self.breaker.lock().open(settings, now);
        self.change(flag::EJECTED, flag::HALF_OPEN | flag::ON_TRIAL);
        self.note_due(now + settings.cooldown);
    }

    /// The trial, which is still counted, went well: calls flow again, a few at first.
    pub(crate) fn recover(&self) {
        self.breaker.lock().close();
        self.ramp.store(
            self.active().saturating_sub(1) + RAMP_START,
            Ordering::SeqCst,
        );
        self.change(0, flag::EJECTED | flag::HALF_OPEN | flag::ON_TRIAL);
        self.settle_full();
    }

    /// The trial came to no result (the client left): the next call is the trial.
    pub(crate) fn trial_undecided(&self) {
        self.change(0, flag::ON_TRIAL);
    }

    /// One more success on the ramp after a recovery.
    pub(crate) fn climb(&self) {
        let ramp = self.ramp.load(Ordering::SeqCst);
        if ramp == u32::MAX {
            return;
        }
        let next = if ramp >= RAMP_END { u32::MAX } else { ramp + 1 };
        let raised = self
            .ramp
            .compare_exchange(ramp, next, Ordering::SeqCst, Ordering::SeqCst);
        if raised.is_ok() {
            self.settle_full();
        }
    }

    /// Its group has nothing left until then.
    pub(crate) fn exhaust(&self, until: Instant) {
        *self.exhausted_until.lock() = Some(until);
        self.change(flag::EXHAUSTED, 0);
        self.note_due(until);
    }

    /// Its group has something left again.
    pub(crate) fn end_exhaustion(&self) {
        *self.exhausted_until.lock() = None;
        self.change(0, flag::EXHAUSTED);
    }

    /// Ends what has come to its end: exhaustion, an open breaker. Says whether anything did.
    pub(crate) fn wake_if_due(&self, now: Instant) -> bool {
        let mut woke = false;
        let mut until = self.exhausted_until.lock();
        if until.is_some_and(|until| until <= now) {
            *until = None;
            self.change(0, flag::EXHAUSTED);
            woke = true;
        }
        drop(until);
        if self.breaker.lock().half_open_if_due(now) {
            self.change(flag::HALF_OPEN, flag::EJECTED);
            woke = true;
        }
        woke
    }

    /// When the next of its timed flags ends.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.exhausted_until(), self.open_until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Clears everything that rests but the operator's own switch.
    pub(crate) fn clear_rests(&self) {
        self.forbidden.clear();
        self.end_exhaustion();
        self.breaker.lock().close();
        self.ramp.store(u32::MAX, Ordering::SeqCst);
        self.change(
            0,
            flag::INVALID | flag::EJECTED | flag::HALF_OPEN | flag::ON_TRIAL,
        );
        self.settle_full();
    }
}

/// What [`Key::take`] gave.
pub(crate) struct Taken {
    pub(crate) trial: bool,
}

/// How long each class rests where the provider does not say.
pub(crate) fn default_rest(class: Class) -> Duration {
    match class {
        Class::Exhausted => Duration::from_secs(3600),
        Class::Forbidden => Duration::from_secs(600),
        _ => Duration::from_secs(60),
    }
}
