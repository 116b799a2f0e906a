//! One upstream key: its counters, switches, breaker and cooldowns; and the quota group it belongs to.
//!
//! The state of a key is shared by every pool that it is in, and survives a reload. Reading it takes no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::availability::Availability;
use crate::breaker::{Breaker, State};
use crate::cooldowns::Cooldowns;
use crate::fault::Class;
use crate::models_in_use::ModelsInUse;
use crate::secret::{Digest256, Secret};
use crate::settings::BreakerSettings;

/// What identifies a key: two configured keys are one if they have the same secret at the same provider and host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId {
    /// The provider's name.
    pub provider: &'static str,
    /// Scheme, host and port.
    pub origin: Arc<str>,
    /// SHA-256 of the secret.
    pub digest: Digest256,
}

/// The state of a key as bits of one word, and the sets of them that decisions ask for.
pub(crate) mod flag {
    /// An operator switched it off.
    pub(crate) const DISABLED: u32 = 1;
    /// The provider does not accept it.
    pub(crate) const INVALID: u32 = 1 << 1;
    /// Its quota group has no quota or balance left.
    pub(crate) const EXHAUSTED: u32 = 1 << 2;
    /// Its breaker is open.
    pub(crate) const EJECTED: u32 = 1 << 3;
    /// Its breaker is half-open, and the probe is in flight.
    pub(crate) const PROBING: u32 = 1 << 4;
    /// It has as many calls in flight as it may have.
    pub(crate) const FULL: u32 = 1 << 5;
    /// Its breaker is half-open: the next call is the probe. Does not keep it from serving.
    pub(crate) const HALF_OPEN: u32 = 1 << 6;
    /// The provider has accepted it: a call went well. Says nothing about the calls to come.
    pub(crate) const HAS_SERVED: u32 = 1 << 7;

    /// It cannot serve, even if no other key can.
    pub(crate) const UNUSABLE: u32 = DISABLED | INVALID | EXHAUSTED;
    /// Its breaker keeps it from the usual load.
    pub(crate) const EJECTED_OR_PROBING: u32 = EJECTED | PROBING;
    /// Its breaker is open or half-open.
    pub(crate) const BREAKER_NOT_CLOSED: u32 = EJECTED | PROBING | HALF_OPEN;
    /// The flags that keep a key out of the available set. A key with none of them is available.
    pub(crate) const BLOCKING: u32 = UNUSABLE | EJECTED_OR_PROBING | FULL;
}

/// Number of calls that a recovered key may have in flight at first; each success allows one more.
const SLOW_START_FROM: u32 = 2;
/// Number of calls in flight at which the slow start ends. From there on only the key's own cap holds.
const SLOW_START_UNTIL: u32 = 64;

/// One upstream key.
// Memory layout. Among ten thousand keys each cache line (64 bytes) that a call touches is a wait for memory, so
// what it touches stands together:
// - Choosing a key reads the first line of its `Member`, then the first line of its `Key`: flags, counts, and the
//   number of cooldowns, which `Cooldowns` keeps first and which is nearly always zero. Under `affinity` it reads a
//   `RingGroup` before, which fits on half a line together with its first key.
// - A call that ends also locks the breaker. Of that it needs the first 48 bytes: the lock (8), the state (16) and
//   the counts of the current part of the window (24); `Breaker` keeps the older parts behind them.
// So the first 128 bytes, two lines that processors fetch as a pair, hold all that a usual call touches. What few
// calls need begins behind them, which the assertion below checks.
#[repr(C, align(64))]
pub struct Key {
    flags: AtomicU32,
    active: AtomicU32,
    /// The configured cap; `u32::MAX`: none.
    cap: AtomicU32,
    /// Number of calls that the slow start after a recovery allows; `u32::MAX`: it is over.
    slow_start: AtomicU32,
    total: AtomicU64,
    /// Milliseconds since the Unix epoch; 0: never.
    last_used_ms: AtomicU64,
    models: ModelsInUse,
    /// (key, model) pairs that the provider forbids.
    pub(crate) forbidden: Cooldowns,
    pub(crate) breaker: Mutex<Breaker>,
    failed: AtomicU64,
    /// The group of a key for which none is configured.
    pub(crate) own_group: Arc<QuotaGroup>,
    /// When `EXHAUSTED` ends by itself.
    exhausted_until: Mutex<Option<Instant>>,
    /// The key sets that it is in, and its index in each.
    attached: RwLock<Vec<(Weak<Availability>, usize)>>,
    /// What identifies it.
    pub id: KeyId,
    /// The credential sent upstream.
    pub secret: Secret,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Key, breaker) + 48 <= 128 && offset_of!(Key, failed) >= 128);
};

/// A quota group: keys of one organisation, project or account, which share limits and balance.
#[derive(Debug, Default)]
pub struct QuotaGroup {
    /// Models that are rate-limited for all keys of the group.
    pub(crate) cooldowns: Cooldowns,
    keys: Mutex<Vec<Weak<Key>>>,
}

impl QuotaGroup {
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
            slow_start: AtomicU32::new(u32::MAX),
            total: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::default()),
            forbidden: Cooldowns::default(),
            own_group: Arc::new(QuotaGroup::default()),
            exhausted_until: Mutex::new(None),
            models: ModelsInUse::default(),
            attached: RwLock::new(Vec::new()),
        })
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

    /// When `EXHAUSTED` ends by itself.
    pub(crate) fn exhausted_until(&self) -> Option<Instant> {
        *self.exhausted_until.lock()
    }

    /// When the open breaker lets a probe through.
    pub(crate) fn open_until(&self) -> Option<Instant> {
        match self.breaker.lock().state() {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn set_cap(self: &Arc<Self>, cap: Option<u32>) {
        self.cap.store(cap.unwrap_or(u32::MAX), Ordering::SeqCst);
        self.sync_full_flag();
    }

    /// Reports changes of this key to `availability`, as those of the key at `index`, from now on.
    pub(crate) fn attach(&self, availability: &Arc<Availability>, index: usize) {
        let mut attached = self.attached.write();
        attached.retain(|(old, _)| old.strong_count() > 0);
        attached.push((Arc::downgrade(availability), index));
        drop(attached);
        self.update();
    }

    /// Reports nothing to `availability` any more.
    pub(crate) fn detach(&self, availability: &Arc<Availability>) {
        let mut attached = self.attached.write();
        attached.retain(|(old, _)| old.as_ptr() != Arc::as_ptr(availability));
    }

    fn attached(&self) -> Vec<Arc<Availability>> {
        self.attached
            .read()
            .iter()
            .filter_map(|(availability, _)| availability.upgrade())
            .collect()
    }

    /// Takes one slot, if there is one. `blocked_by`: the flags that forbid it.
    pub(crate) fn take(&self, blocked_by: u32, now_ms: u64) -> Option<Slot> {
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
        let is_probe = self.flags() & flag::HALF_OPEN != 0 && self.begin_probe();
        if !is_probe && self.flags() & blocked_by & flag::PROBING != 0 {
            self.active.fetch_sub(1, Ordering::SeqCst);
            self.sync_full_flag();
            return None;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        self.last_used_ms.store(now_ms, Ordering::Relaxed);
        if active >= limit {
            self.sync_full_flag();
        }
        Some(Slot { is_probe })
    }

    /// Whether this request is the probe. Two requests never are: the first sets the flag.
    fn begin_probe(&self) -> bool {
        let before = self.flags.fetch_or(flag::PROBING, Ordering::SeqCst);
        if before & flag::PROBING != 0 {
            return false;
        }
        // An earlier probe may have ended since the caller saw the breaker half open.
        let is_half_open = before & flag::HALF_OPEN != 0;
        if !is_half_open {
            self.flags.fetch_and(!flag::PROBING, Ordering::SeqCst);
        }
        self.update();
        is_half_open
    }

    /// Gives the slot back. Call [`Key::serve_waiting`] afterwards if requests wait.
    pub(crate) fn release(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        if self.limit() != u32::MAX {
            self.sync_full_flag();
        }
    }

    /// Offers what has become free to the requests that wait in any pool of this key.
    pub(crate) fn serve_waiting(&self) {
        // Collected first, because handing a lease over takes the same lock again.
        let with_waiting: Vec<Arc<Availability>> = {
            let attached = self.attached.read();
            let live = attached
                .iter()
                .filter_map(|(availability, _)| availability.upgrade());
            live.filter(|availability| availability.wait_signal().count() > 0)
                .collect()
        };
        for availability in with_waiting {
            availability.wait_signal().serve();
        }
    }

    /// Wakes requests that wait for a key: a cooldown started or was cleared.
    pub(crate) fn notify_changed(&self) {
        for availability in self.attached() {
            availability.notify_changed();
        }
    }

    fn note_due(&self, due: Instant) {
        for availability in self.attached() {
            availability.note_due(due);
            availability.notify_changed();
        }
    }

    fn limit(&self) -> u32 {
        self.cap
            .load(Ordering::SeqCst)
            .min(self.slow_start.load(Ordering::SeqCst))
    }

    /// Brings `FULL` in line with the count. Repeats it if other threads changed the count meanwhile.
    fn sync_full_flag(&self) {
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

    /// Sets and clears flags, and reports the change to every pool.
    pub(crate) fn change(&self, set: u32, clear: u32) {
        let before = self.flags();
        if set != 0 {
            self.flags.fetch_or(set, Ordering::SeqCst);
        }
        if clear != 0 {
            self.flags.fetch_and(!clear, Ordering::SeqCst);
        }
        if before != self.flags() || before & set != set || before & clear != 0 {
            self.update();
        }
    }

    fn update(&self) {
        for (availability, index) in self.attached.read().iter() {
            if let Some(availability) = availability.upgrade() {
                availability.update(*index, || self.flags() & flag::BLOCKING == 0);
            }
        }
    }

    /// The provider does not accept it.
    pub(crate) fn invalidate(&self) {
        self.change(flag::INVALID, 0);
        self.notify_changed();
    }

    /// Notes that a call went well.
    pub(crate) fn note_served(&self) {
        if self.flags() & flag::HAS_SERVED == 0 {
            self.flags.fetch_or(flag::HAS_SERVED, Ordering::SeqCst);
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

    /// Opens the breaker.
    pub(crate) fn eject(&self, settings: &BreakerSettings, now: Instant) {
        self.breaker.lock().open(settings, now);
        self.change(flag::EJECTED, flag::HALF_OPEN | flag::PROBING);
        self.note_due(now + settings.cooldown);
    }

    /// Closes the breaker after a successful probe, which still counts as in flight. The slow start begins.
    pub(crate) fn recover(&self) {
        self.breaker.lock().close();
        self.slow_start.store(
            self.active().saturating_sub(1) + SLOW_START_FROM,
            Ordering::SeqCst,
        );
        self.change(0, flag::BREAKER_NOT_CLOSED);
        self.sync_full_flag();
    }

    /// The probe proved nothing: the client left, or the failure may not be the key's. The next call is the probe.
    pub(crate) fn probe_undecided(&self) {
        self.change(0, flag::PROBING);
    }

    /// Counts a success. During the slow start it allows one more call.
    pub(crate) fn raise_slow_start(&self) {
        let slow_start = self.slow_start.load(Ordering::SeqCst);
        if slow_start == u32::MAX {
            return;
        }
        let next = if slow_start >= SLOW_START_UNTIL {
            u32::MAX
        } else {
            slow_start + 1
        };
        let raised =
            self.slow_start
                .compare_exchange(slow_start, next, Ordering::SeqCst, Ordering::SeqCst);
        if raised.is_ok() {
            self.sync_full_flag();
        }
    }

    /// Its group has no quota or balance left until then. A later end known before is kept.
    ///
    /// The flag changes under the lock, so that it and the time always agree.
    pub(crate) fn exhaust(&self, until: Instant) {
        let mut exhausted_until = self.exhausted_until.lock();
        let until = exhausted_until.map_or(until, |known| known.max(until));
        *exhausted_until = Some(until);
        self.change(flag::EXHAUSTED, 0);
        drop(exhausted_until);
        self.note_due(until);
    }

    /// Its group has quota or balance again.
    pub(crate) fn end_exhaustion(&self) {
        let mut exhausted_until = self.exhausted_until.lock();
        *exhausted_until = None;
        self.change(0, flag::EXHAUSTED);
    }

    /// Ends the timed flags whose time has passed: exhaustion, an open breaker.
    pub(crate) fn clear_expired(&self, now: Instant) {
        let mut until = self.exhausted_until.lock();
        if until.is_some_and(|until| until <= now) {
            *until = None;
            self.change(0, flag::EXHAUSTED);
        }
        drop(until);
        if self.breaker.lock().half_open_if_due(now) {
            self.change(flag::HALF_OPEN, flag::EJECTED);
        }
    }

    /// When its next timed flag ends.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.exhausted_until(), self.open_until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Clears everything that keeps it from serving, except that an operator switched it off.
    pub(crate) fn reset(&self) {
        self.forbidden.clear();
        self.end_exhaustion();
        self.breaker.lock().close();
        self.slow_start.store(u32::MAX, Ordering::SeqCst);
        self.change(0, flag::INVALID | flag::BREAKER_NOT_CLOSED);
        self.sync_full_flag();
    }
}

/// A slot of a key, taken for one call.
pub(crate) struct Slot {
    /// The call is the breaker's probe.
    pub(crate) is_probe: bool,
}

/// The cooldown of each class if the provider does not say.
pub(crate) fn default_cooldown(class: Class) -> Duration {
    match class {
        Class::Exhausted => Duration::from_secs(3600),
        Class::Forbidden => Duration::from_secs(600),
        _ => Duration::from_secs(60),
    }
}
