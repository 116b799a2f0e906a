//! The limits of one upstream key, counted by this node.

use std::time::Instant;

use parking_lot::Mutex;

use crate::limit::{Admission, Cost, Ledger, Limits, Settlement, Tick, Until, WINDOW};

/// The limits of one key, and what its calls have used of them.
#[derive(Default)]
pub(crate) struct KeyLimits(Mutex<Option<Box<Counted>>>);

struct Counted {
    limits: Limits,
    ledger: Ledger,
    /// Where the ticks begin.
    epoch: Instant,
}

/// A key without room for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// When there will be room; `None`: never.
    pub(crate) until: Option<Instant>,
    /// A call in flight may give enough back before that.
    pub(crate) may_free: bool,
}

impl KeyLimits {
    /// Sets the limits, and returns whether they changed. What calls have used counts under the new ones too.
    pub(crate) fn set(&self, limits: Limits, now: Instant) -> bool {
        let mut counted = self.0.lock();
        let before = counted
            .as_ref()
            .map_or(Limits::default(), |counted| counted.limits);
        match &mut *counted {
            Some(counted) => counted.limits = limits,
            None if limits.is_unlimited() => {}
            none => {
                *none = Some(Box::new(Counted {
                    limits,
                    ledger: Ledger::default(),
                    epoch: now,
                }));
            }
        }
        limits != before
    }

    /// Makes room for a call, if there is any. `Some` holds what must be settled later; `None`: nothing is limited.
    pub(crate) fn admit(&self, cost: &Cost, now: Instant) -> Result<Option<Admitted>, NoRoom> {
        let mut counted = self.0.lock();
        let Some(counted) = &mut *counted else {
            return Ok(None);
        };
        let tick = counted.tick(now);
        let cost = counted.within_limit(cost);
        let limits = counted.limits;
        let admitted = counted.ledger.admit(tick, WINDOW, &limits, &cost);
        match admitted {
            Ok(admission) => Ok(Some(Admitted {
                admission,
                was_last: counted.has_no_request_left(tick),
            })),
            Err(refusal) => Err(counted.no_room(refusal.until)),
        }
    }

    /// Why a call would not be admitted now.
    pub(crate) fn no_room(&self, cost: &Cost, now: Instant) -> Option<NoRoom> {
        let mut counted = self.0.lock();
        let counted = counted.as_mut()?;
        let tick = counted.tick(now);
        let (limits, cost) = (counted.limits, counted.within_limit(cost));
        let refusal = counted.ledger.refusal(tick, WINDOW, &limits, &cost)?;
        Some(counted.no_room(refusal.until))
    }

    /// Ends a call.
    pub(crate) fn settle(&self, admission: &Admission, settlement: &Settlement, now: Instant) {
        if let Some(counted) = &mut *self.0.lock() {
            let tick = counted.tick(now);
            counted.ledger.settle(tick, WINDOW, admission, settlement);
        }
    }
}

/// A call for which there was room.
pub(crate) struct Admitted {
    pub(crate) admission: Admission,
    /// No request is left after it.
    pub(crate) was_last: bool,
}

impl Counted {
    fn tick(&self, now: Instant) -> Tick {
        Tick::default() + now.saturating_duration_since(self.epoch)
    }

    /// No call holds more output than the whole limit, or it could never be admitted.
    fn within_limit(&self, cost: &Cost) -> Cost {
        let limit = self.limits.output_tokens.unwrap_or(u32::MAX);
        Cost {
            output: cost.output.at_most(limit),
            ..*cost
        }
    }

    fn has_no_request_left(&mut self, tick: Tick) -> bool {
        let [requests, _, _] = self.ledger.remaining(tick, WINDOW, &self.limits);
        requests.is_some_and(|requests| requests.remaining == 0)
    }

    fn no_room(&self, until: Until) -> NoRoom {
        let instant = |tick: Tick| self.epoch + tick.since(Tick::default());
        match until {
            Until::At(tick) => NoRoom {
                until: Some(instant(tick)),
                may_free: false,
            },
            Until::CallEnds(tick) => NoRoom {
                until: tick.map(instant),
                may_free: true,
            },
            Until::Never | Until::StoreReturns => NoRoom {
                until: None,
                may_free: false,
            },
        }
    }
}
