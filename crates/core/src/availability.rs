//! Keys report their changes here. A change updates the available set of a key set and wakes the requests that wait in
//! its pool.
//!
//! It knows neither keys nor pools.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, futures::Notified};

use crate::balance::AvailableSet;

/// Which keys of a key set are available, and when the next timed change is due.
pub(crate) struct Availability {
    /// The available set.
    pub(crate) available: AvailableSet,
    /// When the next timed flag of a key ends, in nanoseconds since `epoch`; `u64::MAX`: none.
    next_due: AtomicU64,
    epoch: Instant,
    /// Advances with every change of a key's flags or cooldowns. What a look at every key found stays true while
    /// the version is the same.
    version: AtomicU64,
    wait_signal: Arc<WaitSignal>,
}

/// Counts the requests that wait in one pool, wakes them, and offers them what becomes free. It outlives key sets.
#[derive(Default)]
pub(crate) struct WaitSignal {
    /// Number of requests that wait in this pool.
    count: AtomicUsize,
    /// Number of requests that wait in any pool.
    everywhere: Arc<AtomicUsize>,
    /// Notified when a cooldown starts or is cleared, so that waiting requests recompute their next wake-up.
    changed: Notify,
    /// Hands free keys to waiting requests. Set once, by the registry when it makes the pool.
    serve: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Availability {
    /// All keys available. `weights`: one for each key.
    pub(crate) fn new(weights: &[u32], epoch: Instant, wait_signal: Arc<WaitSignal>) -> Self {
        Self {
            available: AvailableSet::new(weights),
            next_due: AtomicU64::new(0),
            epoch,
            version: AtomicU64::new(1),
            wait_signal,
        }
    }

    /// The requests that wait in the pool.
    pub(crate) fn wait_signal(&self) -> &WaitSignal {
        &self.wait_signal
    }

    /// Brings the available set in line with a key's flags.
    pub(crate) fn update(&self, index: usize, is_available: impl Fn() -> bool) {
        self.available.update(index, is_available);
        // Last, so that a reader that saw the old state stores it under the old version.
        self.version.fetch_add(1, SeqCst);
    }

    /// Read it before looking at the keys: what they showed stays true while it is the same. Never 0.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    /// Whether a timed change is due. The caller that gets `true` must look at every key and note what is due next.
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

    /// A cooldown started or was cleared.
    pub(crate) fn notify_changed(&self) {
        self.version.fetch_add(1, SeqCst);
        self.wait_signal.notify_changed();
    }
}

impl WaitSignal {
    /// Nobody waits. `everywhere`: one counter for all pools.
    pub(crate) fn new(everywhere: Arc<AtomicUsize>) -> Self {
        Self {
            everywhere,
            ..Self::default()
        }
    }

    /// Sets how free keys reach waiting requests.
    pub(crate) fn on_free(&self, serve: impl Fn() + Send + Sync + 'static) {
        // Set once for each pool, when it is made.
        let _ = self.serve.set(Box::new(serve));
    }

    /// Offers what became free to the waiting requests.
    pub(crate) fn serve(&self) {
        if let Some(serve) = self.serve.get() {
            serve();
        }
    }

    /// Number of requests that wait in this pool.
    pub(crate) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Whether a request waits in any pool.
    ///
    /// A call reads this after it gave its slot back; a request counts itself before it looks for a slot. So one of
    /// the two sees the other.
    pub(crate) fn anyone_anywhere(&self) -> bool {
        self.everywhere.load(SeqCst) > 0
    }

    pub(crate) fn add(&self) {
        self.count.fetch_add(1, SeqCst);
        self.everywhere.fetch_add(1, SeqCst);
    }

    pub(crate) fn remove(&self, how_many: usize) {
        if how_many == 0 {
            // Every call that ends reads `everywhere`: do not write to it for nothing.
            return;
        }
        self.count.fetch_sub(how_many, SeqCst);
        self.everywhere.fetch_sub(how_many, SeqCst);
    }

    /// Wakes waiting requests, so that they look again when a key can be available.
    pub(crate) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Completes at the next change. Enable it before looking at the pool.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}
