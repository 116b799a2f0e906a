//! The limits of one upstream key: counted by this node, or together with all nodes that share a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::limit::{
    Admission, Ask, Cost, Ledger, LimitId, Limiter, Limits, Refusal, Settlement, Tick, Until,
    WINDOW,
};

/// The limits of one key, and what its calls have used of them.
#[derive(Default)]
pub(crate) struct KeyLimits(Mutex<Option<Box<Counted>>>);

struct Counted {
    limits: Limits,
    by: Counter,
}

/// Who counts.
enum Counter {
    /// This node.
    Node {
        ledger: Box<Ledger>,
        /// Where the ticks begin.
        epoch: Instant,
    },
    /// A limiter that several nodes share.
    Shared {
        limiter: Arc<dyn Limiter>,
        id: LimitId,
        asked: Arc<Asked>,
    },
}

/// What the limiter's store is asked about a key.
#[derive(Default)]
struct Asked {
    /// It is being asked.
    now: AtomicBool,
    /// What it has just refused. Until it is asked about that again, a call that needs as much is not asked about; a smaller
    /// one is, which may be another caller's.
    refused: Mutex<Option<Cost>>,
}

/// A key without room for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// When there will be room; `None`: never, or nobody knows.
    pub(crate) until: Option<Instant>,
    /// There may be room before that: when a call in flight ends, or when a store has been asked.
    pub(crate) may_free: bool,
    /// A store has to be asked whether there is room.
    pub(crate) is_unknown: bool,
}

/// A call for which there was room.
pub(crate) struct Admitted {
    pub(crate) admission: Admission,
    /// No request is left after it.
    pub(crate) was_last: bool,
}

impl NoRoom {
    const UNKNOWN: Self = Self {
        until: None,
        may_free: true,
        is_unknown: true,
    };
}

impl KeyLimits {
    /// Sets the limits, and returns whether they changed. What calls have used counts under the new ones too. `shared`: the
    /// limiter that counts for all nodes, and the key's id there.
    pub(crate) fn set(
        &self,
        limits: Limits,
        now: Instant,
        shared: Option<(&Arc<dyn Limiter>, LimitId)>,
    ) -> bool {
        let mut counted = self.0.lock();
        let before = counted
            .as_ref()
            .map_or(Limits::default(), |counted| counted.limits);
        match &mut *counted {
            Some(counted) => counted.limits = limits,
            None if limits.is_unlimited() => {}
            none => {
                let by = Counter::new(now, shared);
                *none = Some(Box::new(Counted { limits, by }));
            }
        }
        limits != before
    }

    /// Makes room for a call, if there is any. `Some` holds what must be settled later; `None`: nothing is limited.
    pub(crate) fn admit(&self, cost: &Cost, now: Instant) -> Result<Option<Admitted>, NoRoom> {
        match &mut *self.0.lock() {
            Some(counted) => counted.admit(cost, now).map(Some),
            None => Ok(None),
        }
    }

    /// Why a call would not be admitted now.
    pub(crate) fn no_room(&self, cost: &Cost, now: Instant) -> Option<NoRoom> {
        self.0.lock().as_mut()?.no_room(cost, now)
    }

    /// Has the store asked whether there is room for such a call, unless it is being asked. `ready` is called after that, and
    /// again when another node may have made room.
    /// Returns whether it is asked now.
    pub(crate) fn reserve_ahead(
        &self,
        cost: &Cost,
        ready: impl Fn() + Send + Sync + 'static,
    ) -> bool {
        let counted = self.0.lock();
        let Some(counted) = &*counted else {
            return false;
        };
        let Counter::Shared { limiter, id, asked } = &counted.by else {
            return false;
        };
        let ask = counted.ask(*id, cost);
        if asked.has_refused(&ask.cost) || asked.now.swap(true, Ordering::Relaxed) {
            return false;
        }
        let asked = Arc::clone(asked);
        let ready = Box::new(move |is_done: bool| {
            *asked.refused.lock() = (!is_done).then_some(ask.cost);
            asked.now.store(false, Ordering::Relaxed);
            ready();
        });
        limiter.reserve_ahead(ask, ready);
        true
    }

    /// Ends a call.
    pub(crate) fn settle(&self, admission: &Admission, settlement: &Settlement, now: Instant) {
        match self.0.lock().as_mut().map(|counted| &mut counted.by) {
            Some(Counter::Node { ledger, epoch }) => {
                ledger.settle(tick(*epoch, now), WINDOW, admission, settlement);
            }
            Some(Counter::Shared { limiter, id, .. }) => {
                limiter.settle(*id, admission, settlement, now);
            }
            None => {}
        }
    }
}

impl Asked {
    /// Whether it has just refused a call that needs no more than this one.
    fn has_refused(&self, cost: &Cost) -> bool {
        self.refused.lock().is_some_and(|refused| {
            cost.input_tokens >= refused.input_tokens
                && cost.output.alone() >= refused.output.alone()
        })
    }
}

impl Counter {
    fn new(now: Instant, shared: Option<(&Arc<dyn Limiter>, LimitId)>) -> Self {
        match shared {
            Some((limiter, id)) => Self::Shared {
                limiter: Arc::clone(limiter),
                id,
                asked: Arc::default(),
            },
            None => Self::Node {
                ledger: Box::default(),
                epoch: now,
            },
        }
    }
}

fn tick(epoch: Instant, now: Instant) -> Tick {
    Tick::default() + now.saturating_duration_since(epoch)
}

impl Counted {
    fn admit(&mut self, cost: &Cost, now: Instant) -> Result<Admitted, NoRoom> {
        let (limits, cost) = (self.limits, self.within_limit(cost));
        match &mut self.by {
            Counter::Node { ledger, epoch } => {
                let (epoch, tick) = (*epoch, tick(*epoch, now));
                let admitted = ledger.admit(tick, WINDOW, &limits, &cost);
                let admission =
                    admitted.map_err(|refusal| no_room(&refusal, |tick| instant(epoch, tick)))?;
                let [requests, _, _] = ledger.remaining(tick, WINDOW, &limits);
                Ok(Admitted {
                    admission,
                    was_last: requests.is_some_and(|requests| requests.remaining == 0),
                })
            }
            Counter::Shared { limiter, id, .. } => {
                let ask = Ask {
                    id: *id,
                    limits,
                    cost,
                };
                match limiter.try_reserve(&ask, now) {
                    Some(Ok(admission)) => Ok(Admitted {
                        admission,
                        was_last: matches!(limiter.check(&ask, now), Some(Err(_))),
                    }),
                    Some(Err(refusal)) => Err(no_room_at_store(&refusal, limiter)),
                    None => Err(NoRoom::UNKNOWN),
                }
            }
        }
    }

    fn no_room(&mut self, cost: &Cost, now: Instant) -> Option<NoRoom> {
        let (limits, cost) = (self.limits, self.within_limit(cost));
        match &mut self.by {
            Counter::Node { ledger, epoch } => {
                let epoch = *epoch;
                let refusal = ledger.refusal(tick(epoch, now), WINDOW, &limits, &cost)?;
                Some(no_room(&refusal, |tick| instant(epoch, tick)))
            }
            Counter::Shared { limiter, id, .. } => {
                let ask = Ask {
                    id: *id,
                    limits,
                    cost,
                };
                match limiter.check(&ask, now) {
                    Some(Ok(())) => None,
                    Some(Err(refusal)) => Some(no_room_at_store(&refusal, limiter)),
                    None => Some(NoRoom::UNKNOWN),
                }
            }
        }
    }

    fn ask(&self, id: LimitId, cost: &Cost) -> Ask {
        Ask {
            id,
            limits: self.limits,
            cost: self.within_limit(cost),
        }
    }

    /// No call holds more output than the whole limit, or it could never be admitted.
    fn within_limit(&self, cost: &Cost) -> Cost {
        let limit = self.limits.output_tokens.unwrap_or(u32::MAX);
        Cost {
            output: cost.output.at_most(limit),
            ..*cost
        }
    }
}

fn instant(epoch: Instant, tick: Tick) -> Instant {
    epoch + tick.since(Tick::default())
}

fn no_room(refusal: &Refusal, instant: impl Fn(Tick) -> Instant) -> NoRoom {
    let (until, may_free) = match refusal.until {
        Until::At(tick) => (Some(instant(tick)), false),
        Until::CallEnds(tick) => (tick.map(instant), true),
        Until::Never | Until::StoreReturns => (None, false),
    };
    NoRoom {
        until,
        may_free,
        is_unknown: false,
    }
}

/// The same if calls of other nodes may make room, of which the store is asked again.
fn no_room_at_store(refusal: &Refusal, limiter: &Arc<dyn Limiter>) -> NoRoom {
    let no_room = no_room(refusal, |tick| limiter.instant(tick));
    let may_free = no_room.may_free || (no_room.until.is_some() && refusal.may_be_sooner);
    NoRoom {
        may_free,
        ..no_room
    }
}
