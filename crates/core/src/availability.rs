//! The availability of a pool: where its keys show what becomes of them. It knows neither keys nor pools.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, futures::Notified};

use crate::balance::AvailableSet;

/// Which indexes are available, when the next timed change is due, and who waits for it.
pub(crate) struct Availability {
    /// The available set.
    pub(crate) available: AvailableSet,
    /// When the next timed flag of a key ends, in nanoseconds since `epoch`; `u64::MAX`: none.
    next_due: AtomicU64,
    epoch: Instant,
    /// Moves on with every change of a key's flags, and when a rest is set or cleared: what was found out by
    /// looking at every key holds as long as this stands still.
    version: AtomicU64,
    /// Requests that wait for a key.
    waiting: AtomicUsize,
    /// Those that wait on any availability on which the same keys may stand.
    waiting_anywhere: Arc<AtomicUsize>,
    /// Told when a rest is set or cleared: those who wait reckon anew when to look again.
    changed: Notify,
    /// Hands free keys to those who wait. Set once, by the pool.
    serve: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Availability {
    /// `waiting_anywhere`: one counter for all attached on which the same keys may stand.
    pub(crate) fn new(weights: &[u32], epoch: Instant, waiting_anywhere: Arc<AtomicUsize>) -> Self {
        Self {
            available: AvailableSet::new(weights),
            next_due: AtomicU64::new(0),
            epoch,
            version: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            waiting_anywhere,
            changed: Notify::new(),
            serve: OnceLock::new(),
        }
    }

    /// Says how free keys reach those who wait.
    pub(crate) fn on_free(&self, serve: impl Fn() + Send + Sync + 'static) {
        // A availability has one pool, which says it once.
        let _ = self.serve.set(Box::new(serve));
    }

    /// Something became free: those who wait come first.
    pub(crate) fn freed(&self) {
        if let Some(serve) = self.serve.get() {
            serve();
        }
    }

    /// Brings the available set in line with a key's flags.
    pub(crate) fn update(&self, index: usize, is_available: impl Fn() -> bool) {
        self.available.update(index, is_available);
        // Last: whoever looked before saw the old state, and keeps it under the old version.
        self.version.fetch_add(1, SeqCst);
    }

    /// Read before looking at the keys; what was seen holds while it is the same. Never 0.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    /// Whether a timed change is due; whoever is told so looks at every key, and notes what is due next.
    pub(crate) fn take_due(&self, now: Instant) -> bool {
        let due = self.since_epoch(now) >= self.next_due.load(SeqCst);
        if due {
            self.next_due.store(u64::MAX, SeqCst);
        }
        due
    }

    /// Remembers that a timed flag of one of the keys ends at `due`.
    pub(crate) fn note_due(&self, due: Instant) {
        self.next_due.fetch_min(self.since_epoch(due), SeqCst);
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.epoch);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether a request waits on this availability, or on any other on which the same keys may stand.
    ///
    /// Asked after a slot was given back, while who joins counts itself before it looks for a slot: so one of the
    /// two sees the other.
    pub(crate) fn anyone_waiting(&self) -> bool {
        self.waiting_anywhere.load(SeqCst) > 0
    }

    pub(crate) fn add_waiting(&self) {
        self.waiting.fetch_add(1, SeqCst);
        self.waiting_anywhere.fetch_add(1, SeqCst);
    }

    pub(crate) fn remove_waiting(&self, how_many: usize) {
        if how_many == 0 {
            // Every release reads the second one.
            return;
        }
        self.waiting.fetch_sub(how_many, SeqCst);
        self.waiting_anywhere.fetch_sub(how_many, SeqCst);
    }

    /// A rest was set or cleared.
    pub(crate) fn notify_changed(&self) {
        self.version.fetch_add(1, SeqCst);
        self.changed.notify_waiters();
    }

    /// Ends when a rest is set or cleared.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}
