//! The limits of callers: what a call reserves before it is sent, and how it is settled.

mod rate_headers;
mod turnstile;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::clock::Clock;
use keypool_core::limit::{
    Admission, Ask, Dimension, Estimates, LimitId, Limiter, Limits, Refusal, Reservation, Until,
};

pub(crate) use rate_headers::{Left, RateHeaders};
use tokio::time::MissedTickBehavior;
use turnstile::Turnstiles;

/// How often callers of which nothing counts any more are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long any call waits rather than being refused. Calls of a model last longer.
const MICRO_WAIT: Duration = Duration::from_millis(250);
/// How often a call that waits for others to end asks again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// When a call may try again if a call in flight must end first, or the store must return, which nobody can foresee.
const SOON: Duration = Duration::from_secs(1);

/// The limits of all callers.
pub(crate) struct CallerLimits {
    /// What calls are expected to use.
    pub(crate) estimates: Estimates,
    limiter: Arc<dyn Limiter>,
    turnstiles: Turnstiles,
    clock: Arc<dyn Clock>,
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// A limit has no room for it.
    Refused(Refused),
    /// As many calls of the caller wait as may.
    LineFull,
}

/// A limit that has no room for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) dimension: Dimension,
    pub(crate) limit: u32,
    /// When the same call will be admitted; `None`: never.
    pub(crate) retry_after: Option<Duration>,
    /// The store that counts does not respond.
    pub(crate) is_store_gone: bool,
}

/// How long a call may wait to be admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    longest: Duration,
    /// It also waits for calls in flight to end, although that may take any time.
    for_calls: bool,
}

/// What a call has reserved.
pub(crate) struct CallReservation {
    // Dropped, and so settled, before those who wait are woken.
    pub(crate) room: Reservation,
    _wakes: Wakes,
}

/// Wakes the calls of a caller that wait for room.
struct Wakes {
    limits: Arc<CallerLimits>,
    id: LimitId,
}

impl Patience {
    /// For callers that are refused rather than kept waiting.
    pub(crate) const LITTLE: Self = Self {
        longest: MICRO_WAIT,
        for_calls: false,
    };

    /// For callers that wait this long.
    pub(crate) fn of(limit_wait: Duration) -> Self {
        Self {
            longest: limit_wait,
            for_calls: true,
        }
    }
}

impl CallerLimits {
    /// Limits that `limiter` counts.
    pub(crate) fn new(limiter: Arc<dyn Limiter>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            estimates: Estimates::default(),
            limiter,
            turnstiles: Turnstiles::default(),
            clock: Arc::clone(clock),
        })
    }

    /// Admits a call if that needs no wait, neither for room nor for a store.
    pub(crate) fn try_reserve(self: &Arc<Self>, ask: &Ask) -> Option<CallReservation> {
        // Nobody overtakes those who wait.
        if !self.turnstiles.is_free(ask.id) {
            return None;
        }
        let decided = self.limiter.try_reserve(ask, self.clock.now())?;
        Some(self.admitted(ask.id, decided.ok()?))
    }

    /// Admits a call, after a wait if that is allowed, or says why not.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        ask: &Ask,
        patience: Patience,
    ) -> Result<CallReservation, NotAdmitted> {
        // Nobody overtakes those who wait.
        if self.turnstiles.is_free(ask.id) {
            let now = self.clock.now();
            match self.decide(ask, now).await {
                Ok(admission) => return Ok(self.admitted(ask.id, admission)),
                Err(refusal)
                    if !self.is_worth_waiting(&refusal, now + patience.longest, patience) =>
                {
                    return Err(self.refused(&refusal, now));
                }
                Err(_) => {}
            }
        }
        // Boxed, like everything rarely needed: it would make every request larger.
        let admission = Box::pin(self.wait(ask, patience)).await?;
        Ok(self.admitted(ask.id, admission))
    }

    /// What the limits leave, for the client.
    pub(crate) fn headers(&self, id: LimitId, limits: &Limits) -> RateHeaders {
        let now = self.clock.now();
        let left = self.limiter.remaining(id, limits, now);
        // The limits often share their reset.
        let mut known = None;
        RateHeaders(left.map(|left| {
            let left = left?;
            let reset = match known {
                Some((resets, reset)) if resets == left.resets => reset,
                _ => self
                    .limiter
                    .instant(left.resets)
                    .saturating_duration_since(now),
            };
            known = Some((left.resets, reset));
            Some(Left {
                limit: left.limit,
                remaining: left.remaining,
                reset,
            })
        }))
    }

    async fn decide(&self, ask: &Ask, now: Instant) -> Result<Admission, Refusal> {
        match self.limiter.try_reserve(ask, now) {
            Some(decided) => decided,
            None => self.limiter.reserve(ask, now).await,
        }
    }

    /// Waits for its turn among the calls of the same caller, and then for room.
    async fn wait(&self, ask: &Ask, patience: Patience) -> Result<Admission, NotAdmitted> {
        let give_up = self.clock.now() + patience.longest;
        if self.turnstiles.is_full(ask.id) {
            return Err(NotAdmitted::LineFull);
        }
        let Some(turn) = self.turnstiles.enter(ask.id, give_up).await else {
            // Its turn did not come in time. One look tells why there is no room.
            let now = self.clock.now();
            let decided = self.decide(ask, now).await;
            return decided.map_err(|refusal| self.refused(&refusal, now));
        };
        loop {
            let mut changed = std::pin::pin!(turn.changed());
            // Registered before looking, so that no change is missed in between.
            changed.as_mut().enable();
            let now = self.clock.now();
            let refusal = match self.decide(ask, now).await {
                Ok(admission) => return Ok(admission),
                Err(refusal) => refusal,
            };
            if now >= give_up || !self.is_worth_waiting(&refusal, give_up, patience) {
                return Err(self.refused(&refusal, now));
            }
            let look_again = match refusal.until {
                Until::At(tick) => self.limiter.instant(tick).min(give_up),
                // The call that ends may be another node's, which nobody hears of.
                Until::CallEnds(_) => give_up.min(now + LOOK_AGAIN),
                Until::Never | Until::StoreReturns => give_up,
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(look_again.into()) => {}
            }
        }
    }

    /// Whether room comes soon enough. A call in flight may end at any time, which is worth a wait only if one is asked for.
    fn is_worth_waiting(&self, refusal: &Refusal, give_up: Instant, patience: Patience) -> bool {
        match refusal.until {
            Until::At(tick) => self.limiter.instant(tick) <= give_up,
            Until::CallEnds(_) => patience.for_calls,
            Until::Never | Until::StoreReturns => false,
        }
    }

    fn refused(&self, refusal: &Refusal, now: Instant) -> NotAdmitted {
        let retry_after = match refusal.until {
            Until::At(tick) | Until::CallEnds(Some(tick)) => {
                Some(self.limiter.instant(tick).saturating_duration_since(now))
            }
            Until::CallEnds(None) | Until::StoreReturns => Some(SOON),
            Until::Never => None,
        };
        NotAdmitted::Refused(Refused {
            dimension: refusal.dimension,
            limit: refusal.limit,
            retry_after,
            is_store_gone: refusal.until == Until::StoreReturns,
        })
    }

    fn admitted(self: &Arc<Self>, id: LimitId, admission: Admission) -> CallReservation {
        let (limiter, clock) = (Arc::clone(&self.limiter), Arc::clone(&self.clock));
        CallReservation {
            room: Reservation::new(limiter, clock, id, admission),
            _wakes: Wakes {
                limits: Arc::clone(self),
                id,
            },
        }
    }
}

/// Forgets, again and again, callers of which nothing counts any more.
pub(crate) async fn sweep_regularly(limits: &CallerLimits) -> Infallible {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        limits.limiter.sweep(limits.clock.now());
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.limits.turnstiles.wake(self.id);
    }
}

#[cfg(test)]
mod tests;

/// A limiter for tests of other things.
#[cfg(test)]
pub(crate) fn unlimited() -> Arc<dyn Limiter> {
    use keypool_backends::limiter::MemoryLimiter;
    let now = tokio::time::Instant::now().into_std();
    Arc::new(MemoryLimiter::new(keypool_core::limit::WINDOW, now))
}
