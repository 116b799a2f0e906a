//! One upstream key: its counters, switches, breaker and cooldowns; and the quota group it belongs to.
//!
//! The state of a key is shared by every pool that it is in, and survives a reload. Reading it takes no lock.

pub(crate) mod flag;
mod limits;
mod notify;
mod quota_group;
mod state;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

pub(crate) use limits::NoRoom;
pub use quota_group::QuotaGroup;

use crate::availability::Availability;
use crate::breaker::{Breaker, State};
use crate::clock::Clock;
use crate::cooldowns::Cooldowns;
use crate::fault::Class;
use crate::limit::{Admission, Cost, LimitId, Limiter, Limits, Settlement};
use crate::models_in_use::ModelsInUse;
use crate::secret::{Digest256, Secret};
use crate::settings::{BreakerSettings, KeySettings, PoolSettings};
use limits::KeyLimits;
use state::Saved;

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

impl KeyId {
    /// What identifies a key with these settings in a pool.
    pub fn of(pool: &PoolSettings, settings: &KeySettings) -> Self {
        Self {
            provider: pool.provider,
            origin: Arc::clone(settings.base_url.origin()),
            digest: settings.secret.digest(),
        }
    }

    /// What names it where its limits are counted: the same on every node.
    fn limit_id(&self) -> LimitId {
        let (provider, origin) = (self.provider.as_bytes(), self.origin.as_bytes());
        LimitId::of_upstream_key([provider, origin, self.digest.bytes()])
    }
}

/// The time of an attempt to take a slot.
#[derive(Clone, Copy)]
pub(crate) struct TakeTime<'a> {
    /// Milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
    /// For the monotonic time, which only limited keys need.
    pub(crate) clock: &'a dyn Clock,
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
    /// `rpm`, `input_tpm` and `output_tpm`. Only to be looked at if it is `LIMITED`.
    pub(crate) limits: KeyLimits,
    /// The group of a key for which none is configured.
    pub(crate) own_group: Arc<QuotaGroup>,
    /// When `EXHAUSTED` ends by itself.
    exhausted_until: Mutex<Option<Instant>>,
    /// The key sets that it is in, and its index in each.
    attached: RwLock<Vec<(Weak<Availability>, usize)>>,
    /// What the store knows of it.
    saved: Mutex<Saved>,
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
            limits: KeyLimits::default(),
            last_used_ms: AtomicU64::new(0),
            breaker: Mutex::new(Breaker::default()),
            forbidden: Cooldowns::default(),
            own_group: Arc::new(QuotaGroup::default()),
            exhausted_until: Mutex::new(None),
            models: ModelsInUse::default(),
            attached: RwLock::new(Vec::new()),
            saved: Mutex::default(),
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

    /// Sets the key's own limits.
    pub(crate) fn set_limits(
        &self,
        limits: Limits,
        now: Instant,
        shared: Option<&Arc<dyn Limiter>>,
    ) {
        let shared = shared.map(|limiter| (limiter, self.id.limit_id()));
        if !self.limits.set(limits, now, shared) {
            return;
        }
        match limits.is_unlimited() {
            true => self.change(0, flag::LIMITED),
            false => self.change(flag::LIMITED, 0),
        }
        self.notify_changed();
    }

    /// Why its own limits have no room for a call; `None`: they have.
    pub(crate) fn no_room(&self, cost: &Cost, now: Instant) -> Option<NoRoom> {
        let is_limited = self.flags() & flag::LIMITED != 0;
        is_limited.then(|| self.limits.no_room(cost, now)).flatten()
    }

    /// Has the store asked whether there is room for a call, if it has to be asked. Those who wait for this key are served
    /// after that. Returns whether it is asked now.
    pub(crate) fn reserve_ahead(&self, cost: &Cost, now: Instant) -> bool {
        let no_room = self.no_room(cost, now);
        no_room.is_some_and(|no_room| no_room.is_unknown)
            && self.limits.reserve_ahead(cost, self.serve_later())
    }

    pub(crate) fn set_cap(self: &Arc<Self>, cap: Option<u32>) {
        self.cap.store(cap.unwrap_or(u32::MAX), Ordering::SeqCst);
        self.sync_full_flag();
    }

    /// Takes one slot, and room under the key's own limits, if there is any. `blocked_by`: the flags that forbid it.
    pub(crate) fn take(&self, blocked_by: u32, cost: &Cost, time: TakeTime<'_>) -> Option<Slot> {
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
            self.give_back();
            return None;
        }
        let admission = match self.admit(cost, &time) {
            Ok(admission) => admission,
            Err(no_room) => {
                if no_room.is_unknown {
                    self.limits.reserve_ahead(cost, self.serve_later());
                }
                if is_probe {
                    self.probe_undecided();
                }
                self.give_back();
                return None;
            }
        };
        self.total.fetch_add(1, Ordering::Relaxed);
        self.last_used_ms.store(time.wall_ms, Ordering::Relaxed);
        if active >= limit {
            self.sync_full_flag();
        }
        Some(Slot {
            is_probe,
            // Boxed: few keys have limits, and leases are moved often.
            admission: admission.map(Box::new),
        })
    }

    fn admit(&self, cost: &Cost, time: &TakeTime<'_>) -> Result<Option<Admission>, NoRoom> {
        if self.flags() & flag::LIMITED == 0 {
            return Ok(None);
        }
        let admitted = self.limits.admit(cost, time.clock.now())?;
        if admitted.as_ref().is_some_and(|admitted| admitted.was_last) {
            // What was known of the next available key is no longer true.
            self.notify_changed();
        }
        Ok(admitted.map(|admitted| admitted.admission))
    }

    /// Settles a call under the key's own limits.
    pub(crate) fn settle(&self, admission: &Admission, settlement: &Settlement, now: Instant) {
        self.limits.settle(admission, settlement, now);
        self.notify_changed();
    }

    fn give_back(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        self.sync_full_flag();
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

    /// Maximum number of calls in flight; `None`: no cap.
    pub fn max_concurrent(&self) -> Option<u32> {
        Some(self.cap.load(Ordering::Relaxed)).filter(|cap| *cap != u32::MAX)
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
    /// What it uses of the key's own limits; `None`: there are none.
    pub(crate) admission: Option<Box<Admission>>,
}

/// The cooldown of each class if the provider does not say.
pub(crate) fn default_cooldown(class: Class) -> Duration {
    match class {
        Class::Exhausted => Duration::from_secs(3600),
        Class::Forbidden => Duration::from_secs(600),
        _ => Duration::from_secs(60),
    }
}
