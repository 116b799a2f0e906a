//! The limits of callers: what a call reserves before it is sent, and how it is settled.

mod rate_headers;
mod wait_queue;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::clock::Clock;
use keypool_core::limit::{
    Admission, Ask, Dimension, Estimates, LimitId, Limiter, Limits, Refusal, Reservation, Until,
};

pub(crate) use rate_headers::{Left, RateHeaders};
use tokio::time::MissedTickBehavior;
use wait_queue::{WaitError, WaitQueues};

/// How often callers of which nothing counts any more are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long any call waits rather than being refused. Calls of a model last longer.
const MICRO_WAIT: Duration = Duration::from_millis(250);
/// How often a call that waits for calls in flight to end asks again.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);
/// When a call may try again if a call in flight must end first, or the store must return, which nobody can foresee.
const SOON: Duration = Duration::from_secs(1);
/// Why a call waits if the store has decided about no call of the caller yet.
const UNDECIDED: Refusal = Refusal {
    dimension: Dimension::Requests,
    limit: 0,
    until: Until::StoreReturns,
    may_be_sooner: true,
};

/// The limits of all callers.
pub(crate) struct CallerLimits {
    /// What calls are expected to use.
    pub(crate) estimates: Estimates,
    limiter: Arc<dyn Limiter>,
    wait_queues: WaitQueues,
    clock: Arc<dyn Clock>,
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// A limit has no room for it.
    Refused(Refused),
    /// The maximum number of calls of the caller waits.
    QueueFull,
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
pub(crate) struct WaitPolicy {
    max_wait: Duration,
    /// It also waits for calls in flight to end, although that may take any time.
    for_calls_in_flight: bool,
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

impl WaitPolicy {
    /// For callers that are refused rather than kept waiting.
    pub(crate) const BRIEF: Self = Self {
        max_wait: MICRO_WAIT,
        for_calls_in_flight: false,
    };

    /// For callers that wait this long.
    pub(crate) fn up_to(limit_wait: Duration) -> Self {
        Self {
            max_wait: limit_wait,
            for_calls_in_flight: true,
        }
    }
}

impl CallerLimits {
    /// Limits that `limiter` counts.
    pub(crate) fn new(limiter: Arc<dyn Limiter>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            estimates: Estimates::default(),
            limiter,
            wait_queues: WaitQueues::default(),
            clock: Arc::clone(clock),
        })
    }

    /// Admits a call if that needs no wait, neither for room nor for a store.
    pub(crate) fn try_reserve(self: &Arc<Self>, ask: &Ask) -> Option<CallReservation> {
        // Nobody overtakes those who wait.
        if !self.wait_queues.is_empty(ask.id) {
            return None;
        }
        let decided = self.limiter.try_reserve(ask, self.clock.now())?;
        Some(self.admitted(ask.id, decided.ok()?))
    }

    /// Admits a call, after a wait if that is allowed, or says why not.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        ask: &Ask,
        policy: WaitPolicy,
    ) -> Result<CallReservation, NotAdmitted> {
        let mut known = None;
        // Nobody overtakes those who wait.
        if self.wait_queues.is_empty(ask.id) {
            let refusal = match self.decide(ask, self.clock.now()).await {
                Ok(admission) => return Ok(self.admitted(ask.id, admission)),
                Err(refusal) => refusal,
            };
            // The decision may have taken time, if a store was asked.
            let now = self.clock.now();
            if !self.is_worth_waiting(&refusal, now + policy.max_wait, policy) {
                return Err(self.refused(&refusal, now));
            }
            known = Some(refusal);
        }
        // Boxed, like everything rarely needed: it would make every request larger.
        let admission = Box::pin(self.wait(ask, policy, known)).await?;
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

    /// Whether the store that counts does not respond.
    pub(crate) fn is_degraded(&self) -> bool {
        self.limiter.is_degraded()
    }

    async fn decide(&self, ask: &Ask, now: Instant) -> Result<Admission, Refusal> {
        match self.limiter.try_reserve(ask, now) {
            Some(decided) => decided,
            None => self.limiter.reserve(ask, now).await,
        }
    }

    /// Waits in the queue of its caller, and at its head for room. `known`: why there was none.
    async fn wait(
        &self,
        ask: &Ask,
        policy: WaitPolicy,
        known: Option<Refusal>,
    ) -> Result<Admission, NotAdmitted> {
        let now = self.clock.now();
        let deadline = now + policy.max_wait;
        if let Some(refusal) = never_fits(ask) {
            return Err(self.refused(&refusal, now));
        }
        let head = match self.wait_queues.head(ask.id, known, deadline).await {
            Ok(head) => head,
            Err(WaitError::QueueFull) => return Err(NotAdmitted::QueueFull),
            // There may be room for it, but those before it have waited longer.
            Err(WaitError::DeadlineExceeded(first)) => {
                let refusal = first.or(known).unwrap_or(UNDECIDED);
                return Err(self.refused(&refusal, self.clock.now()));
            }
        };
        loop {
            let mut changed = std::pin::pin!(head.changed());
            // Registered before looking, so that no change is missed in between.
            changed.as_mut().enable();
            let now = self.clock.now();
            let refusal = match self.decide(ask, now).await {
                Ok(admission) => return Ok(admission),
                Err(refusal) => refusal,
            };
            if now >= deadline || !self.is_worth_waiting(&refusal, deadline, policy) {
                return Err(self.refused(&refusal, now));
            }
            head.waits_for(refusal);
            let recheck_at = match refusal.until {
                Until::At(tick) => self.limiter.instant(tick).min(deadline),
                // The call that ends may be another node's, which nobody hears of.
                Until::CallEnds(_) => deadline.min(now + RECHECK_INTERVAL),
                Until::Never | Until::StoreReturns => deadline,
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(recheck_at.into()) => {}
            }
        }
    }

    /// Whether room comes soon enough. A call in flight may end at any time, which is worth a wait only if one is asked for.
    fn is_worth_waiting(&self, refusal: &Refusal, deadline: Instant, policy: WaitPolicy) -> bool {
        match refusal.until {
            Until::At(tick) => self.limiter.instant(tick) <= deadline,
            Until::CallEnds(_) => policy.for_calls_in_flight,
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

/// Why the call needs more than a whole limit, which no wait changes; `None` if it does not.
fn never_fits(ask: &Ask) -> Option<Refusal> {
    let needed = [
        (Dimension::InputTokens, ask.cost.input_tokens),
        (Dimension::OutputTokens, ask.cost.output.alone()),
    ];
    needed.into_iter().find_map(|(dimension, tokens)| {
        let limit = ask.limits.of(dimension).filter(|limit| tokens > *limit)?;
        Some(Refusal {
            dimension,
            limit,
            until: Until::Never,
            may_be_sooner: false,
        })
    })
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
        self.limits.wait_queues.wake(self.id);
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
