//! The trait behind which limits are kept: in this process, or in a store that several nodes share.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::pin::Pin;
use std::time::Instant;

use super::ledger::{Admission, Cost, Refusal, Remaining, Settlement};
use super::{DIMENSIONS, Limits};
use crate::hash;

/// Where the hashes of virtual keys' names begin.
const VIRTUAL_KEY: u64 = 0x7669_7274_7561_6c6b;
/// Where the hashes of upstream keys begin.
const UPSTREAM_KEY: u64 = 0x7570_7374_7265_616d;

/// Names what is limited: a hash of 128 bits. A person who can choose two names with the same one can choose their limits too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitId(pub u128);

impl LimitId {
    /// The id of the virtual key of that name.
    pub fn of_virtual_key(name: &str) -> Self {
        Self::of(VIRTUAL_KEY, name.as_bytes())
    }

    /// The id of an upstream key, given by the name of its provider, its origin and the digest of its secret.
    pub(crate) fn of_upstream_key(parts: [&[u8]; 3]) -> Self {
        Self::of(UPSTREAM_KEY, &parts.join(&0))
    }

    fn of(seed: u64, bytes: &[u8]) -> Self {
        let half = |seed: u64| u128::from(hash::bytes(seed, bytes));
        Self(half(seed) << 64 | half(!seed))
    }
}

impl Hash for LimitId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Any part of a hash is as random as a hash of it.
        state.write_u64(self.0 as u64);
    }
}

/// Hashes [`LimitId`]s and other numbers that are hashes already.
pub type IdHasher = BuildHasherDefault<Passed>;

/// Takes the last number as the hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = crate::hash::bytes(self.0, bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// One call that asks to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Who or what is limited.
    pub id: LimitId,
    /// The limits that hold now.
    pub limits: Limits,
    /// What the call needs.
    pub cost: Cost,
}

/// A decision that may have to wait for a store.
pub type Reserving<'a> = Pin<Box<dyn Future<Output = Result<Admission, Refusal>> + Send + 'a>>;

/// Called when a store has been asked: with `false` if it should be asked again in a moment, and with `true` then.
pub type Ready = Box<dyn Fn(bool) + Send + Sync>;

/// Keeps the use of callers and keys.
pub trait Limiter: Send + Sync {
    /// Decides without waiting; `None` if a store must be asked.
    fn try_reserve(&self, ask: &Ask, now: Instant) -> Option<Result<Admission, Refusal>>;

    /// Decides, after asking a store if need be.
    fn reserve<'a>(&'a self, ask: &'a Ask, now: Instant) -> Reserving<'a>;

    /// What [`Limiter::try_reserve`] would decide.
    fn check(&self, ask: &Ask, now: Instant) -> Option<Result<(), Refusal>>;

    /// Has the store asked, so that [`Limiter::try_reserve`] can decide about such a call for a moment, and calls `ready`
    /// then, within the store's deadlines. Without a store, drops it.
    fn reserve_ahead(&self, _ask: Ask, _ready: Ready) {}

    /// Whether several nodes may count together, so that a store must be asked.
    fn is_shared(&self) -> bool {
        false
    }

    /// Ends a call that was admitted. Must be called exactly once for each admission, which [`Reservation`] sees to.
    ///
    /// [`Reservation`]: super::Reservation
    fn settle(&self, id: LimitId, admission: &Admission, settlement: &Settlement, now: Instant);

    /// What each limit leaves, to this node's knowledge.
    fn remaining(
        &self,
        id: LimitId,
        limits: &Limits,
        now: Instant,
    ) -> [Option<Remaining>; DIMENSIONS];

    /// Forgets callers and keys of which nothing counts any more.
    fn sweep(&self, now: Instant);

    /// Whether the store that counts does not respond, so that limits hold less exactly or refuse calls. False if there is
    /// no store.
    fn is_degraded(&self) -> bool {
        false
    }

    /// The moment that a tick of this limiter stands for.
    fn instant(&self, tick: super::Tick) -> Instant;
}
