//! The limiter of a single process: exact, and nothing to install.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use keypool_core::limit::{
    Admission, Ask, DIMENSIONS, IdHasher, Ledger, LimitId, Limiter, Limits, Refusal, Remaining,
    Reserving, Settlement, Tick,
};
use parking_lot::Mutex;

/// Number of parts of the map, each with a lock of its own. Calls of one caller always meet at the same lock.
const SHARDS: usize = 256;
/// A part with fewer ledgers than this is not searched for idle ones.
const FEW: usize = 64;

/// Keeps the use of callers and keys in this process.
pub struct MemoryLimiter {
    epoch: Instant,
    /// The length of the window.
    window: Duration,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    ledgers: HashMap<LimitId, Ledger, IdHasher>,
    /// Number of ledgers at which idle ones are removed.
    sweep_at: usize,
}

impl MemoryLimiter {
    /// A limiter with a window of this length, whose time begins at `epoch`.
    pub fn new(window: Duration, epoch: Instant) -> Self {
        Self {
            epoch,
            window,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Number of callers and keys whose use is kept.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().ledgers.len())
            .sum()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: LimitId) -> &Mutex<Shard> {
        // The map uses the lower bits.
        let at = (id.0 >> 64) as usize % SHARDS;
        &self.shards[at]
    }

    fn decide(&self, ask: &Ask, now: Instant) -> Result<Admission, Refusal> {
        let now = self.tick(now);
        let mut shard = self.shard(ask.id).lock();
        let ledger = shard.ledger(ask.id, now, self.window);
        ledger.admit(now, self.window, &ask.limits, &ask.cost)
    }

    fn tick(&self, now: Instant) -> Tick {
        Tick::default() + now.saturating_duration_since(self.epoch)
    }
}

impl Shard {
    fn ledger(&mut self, id: LimitId, now: Tick, window: Duration) -> &mut Ledger {
        if self.ledgers.len() >= self.sweep_at.max(FEW) {
            self.sweep(now, window);
            self.sweep_at = 2 * self.ledgers.len();
        }
        self.ledgers.entry(id).or_default()
    }

    fn sweep(&mut self, now: Tick, window: Duration) {
        self.ledgers
            .retain(|_, ledger| !ledger.is_idle(now, window));
        if self.ledgers.capacity() > 4 * self.ledgers.len().max(FEW) {
            self.ledgers.shrink_to_fit();
        }
    }
}

impl Limiter for MemoryLimiter {
    fn try_reserve(&self, ask: &Ask, now: Instant) -> Option<Result<Admission, Refusal>> {
        Some(self.decide(ask, now))
    }

    fn reserve<'a>(&'a self, ask: &'a Ask, now: Instant) -> Reserving<'a> {
        let decided = self.decide(ask, now);
        Box::pin(std::future::ready(decided))
    }

    fn check(&self, ask: &Ask, now: Instant) -> Option<Result<(), Refusal>> {
        let now = self.tick(now);
        let mut shard = self.shard(ask.id).lock();
        let ledger = shard.ledger(ask.id, now, self.window);
        let refusal = ledger.refusal(now, self.window, &ask.limits, &ask.cost);
        Some(refusal.map_or(Ok(()), Err))
    }

    fn settle(&self, id: LimitId, admission: &Admission, settlement: &Settlement, now: Instant) {
        let now = self.tick(now);
        let mut shard = self.shard(id).lock();
        let ledger = shard.ledger(id, now, self.window);
        ledger.settle(now, self.window, admission, settlement);
    }

    fn remaining(
        &self,
        id: LimitId,
        limits: &Limits,
        now: Instant,
    ) -> [Option<Remaining>; DIMENSIONS] {
        let now = self.tick(now);
        let mut shard = self.shard(id).lock();
        let ledger = shard.ledger(id, now, self.window);
        ledger.remaining(now, self.window, limits)
    }

    fn sweep(&self, now: Instant) {
        let now = self.tick(now);
        for shard in &self.shards {
            shard.lock().sweep(now, self.window);
        }
    }

    fn instant(&self, tick: Tick) -> Instant {
        self.epoch + tick.since(Tick::default())
    }
}
