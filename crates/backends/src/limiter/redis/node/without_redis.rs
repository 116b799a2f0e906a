//! Decides while Redis does not respond.

use keypool_core::limit::{Admission, Ask, Dimension, Refusal, Tick, Until};

use super::account::{Account, Inner, Refused, never_fits};
use super::step::REMEMBERED;
use super::{OnFailure, Shared};

impl Account {
    /// Decides without Redis, while it does not respond.
    pub(super) fn decide_without_redis(
        &self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Result<Admission, Refusal> {
        let mut inner = self.inner.lock();
        if let Err(refusal) = inner.check_without_redis(shared, ask, now) {
            inner.refused = Some(Refused {
                holds_until: now + REMEMBERED,
                cost: ask.cost,
                limits: ask.limits,
                refusal,
            });
            return Err(refusal);
        }
        Ok(inner.admit_unreported(shared.window, &ask.limits, &ask.cost, now))
    }

    /// What [`Account::decide_without_redis`] would decide.
    pub(super) fn check_without_redis(
        &self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Result<(), Refusal> {
        self.inner.lock().check_without_redis(shared, ask, now)
    }
}

impl Inner {
    fn check_without_redis(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Result<(), Refusal> {
        let window = shared.window;
        let share = match shared.on_failure {
            OnFailure::Allow => return Ok(()),
            OnFailure::Reject => {
                return Err(Refusal {
                    dimension: Dimension::Requests,
                    limit: ask.limits.requests.unwrap_or(0),
                    until: Until::StoreReturns,
                    may_be_sooner: true,
                });
            }
            OnFailure::Degrade => ask.limits.share(shared.nodes.count()),
        };
        match self.own.refusal(now, window, &share, &ask.cost) {
            // It does not fit into a share, but into the limit.
            Some(refusal)
                if refusal.until == Until::Never && never_fits(ask, now, window).is_none() =>
            {
                Err(Refusal {
                    until: Until::StoreReturns,
                    ..refusal
                })
            }
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }
}
