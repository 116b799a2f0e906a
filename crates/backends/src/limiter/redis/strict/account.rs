//! What a node knows of one caller or key: what it wants to ask and to tell Redis, and what it has admitted itself.

use std::collections::VecDeque;
use std::time::Duration;

use keypool_core::limit::{
    Admission, Ask, Cost, DIMENSIONS, Dimension, Ledger, LimitId, Limits, Refusal, Remaining,
    Settlement, Tick, Until,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{FLUSH_AFTER, FLUSH_SOON, OnFailure, Shared};
use crate::limiter::redis::{Correction, HeldByNode};

/// Calls that were admitted without Redis, which does not know of them yet.
pub(super) struct Alone {
    /// When the first of them was admitted.
    since: Tick,
    /// All of them.
    pub(super) ledger: Ledger,
}

/// How a waiting call learns of its decision; `None`: Redis did not respond.
pub(super) type Answer = oneshot::Sender<Option<Result<Admission, Refusal>>>;

/// One caller or key.
pub(super) struct Account {
    pub(super) id: LimitId,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    /// A task asks Redis about this account.
    pub(super) is_asking: bool,
    /// The next step is needed even if nothing is asked.
    pub(super) must_restate: bool,
    /// A task will, in a moment.
    will_flush: bool,
    /// Number of the last step.
    pub(super) seq: u32,
    /// The limits that hold now.
    pub(super) limits: Limits,
    /// Calls that wait for a decision.
    pub(super) waiting: VecDeque<Waiting>,
    /// Ends of calls that Redis does not know of yet.
    pub(super) settlements: Vec<Correction>,
    /// What this node's calls in flight hold.
    pub(super) held: HeldByNode,
    /// A step of which it is not known whether Redis received it.
    pub(super) unconfirmed: Option<Step>,
    /// The last refusal, while it holds.
    pub(super) refused: Option<Refused>,
    /// What Redis said last.
    pub(super) seen: Option<Seen>,
    /// What this node itself has admitted.
    pub(super) own: Ledger,
    /// Of that, what Redis does not know of.
    pub(super) alone: Option<Box<Alone>>,
    /// Number of the newest step that Redis has confirmed, and when.
    pub(super) confirmed: (u32, Tick),
}

/// A call that waits for a decision.
pub(super) struct Waiting {
    pub(super) cost: Cost,
    pub(super) answer: Answer,
}

/// One step, kept until Redis has confirmed it.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) seq: u32,
    pub(super) limits: Limits,
    pub(super) held: HeldByNode,
    pub(super) settlements: Vec<Correction>,
    pub(super) costs: Vec<Cost>,
    /// Charges that Redis does not have.
    pub(super) charges: Vec<(Tick, [u32; DIMENSIONS])>,
    /// Whether they are all that this node has used.
    pub(super) tells_all: bool,
}

/// A refusal, for which calls it holds, and how long.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    /// Other nodes cannot make room before.
    pub(super) holds_until: Tick,
    pub(super) cost: Cost,
    pub(super) limits: Limits,
    pub(super) refusal: Refusal,
}

/// What is used, of all nodes, as Redis said last.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) used: [u64; DIMENSIONS],
    pub(super) empty_at: [Option<Tick>; DIMENSIONS],
    pub(super) at: Tick,
}

impl Account {
    pub(super) fn new(id: LimitId) -> Self {
        Self {
            id,
            inner: Mutex::default(),
        }
    }

    /// Adds a call that waits for a decision. Returns whether a task must be started that asks.
    pub(super) fn enqueue(&self, ask: &Ask, answer: Answer) -> bool {
        let mut inner = self.inner.lock();
        inner.limits = ask.limits;
        inner.waiting.push_back(Waiting {
            cost: ask.cost,
            answer,
        });
        !std::mem::replace(&mut inner.is_asking, true)
    }

    /// Whether settlements wait, and nobody asks already.
    pub(super) fn begin_flush(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.will_flush = false;
        let is_needed = !inner.is_asking && !inner.settlements.is_empty();
        inner.is_asking |= is_needed;
        is_needed
    }

    /// Has one more step taken. Returns the number of the last one before it, and whether a task must be started, since
    /// none asks already.
    pub(super) fn begin_restating(&self) -> (u32, bool) {
        let mut inner = self.inner.lock();
        inner.must_restate = true;
        let is_asking = std::mem::replace(&mut inner.is_asking, true);
        (inner.seq, !is_asking)
    }

    pub(super) fn has_calls_in_flight(&self) -> bool {
        self.inner.lock().held.calls > 0
    }

    /// The last refusal, if it holds for this call too.
    pub(super) fn known_refusal(&self, ask: &Ask, now: Tick) -> Option<Refusal> {
        let mut inner = self.inner.lock();
        let refused = inner.refused?;
        if refused.holds_until <= now || refused.limits != ask.limits {
            inner.refused = None;
            return None;
        }
        let (cost, known) = (&ask.cost, &refused.cost);
        let needs_as_much = match refused.refusal.dimension {
            Dimension::Requests | Dimension::Concurrency => true,
            Dimension::InputTokens => cost.input_tokens >= known.input_tokens,
            Dimension::OutputTokens => cost.output.alone() >= known.output.alone(),
        };
        needs_as_much.then_some(refused.refusal)
    }

    /// Decides without Redis.
    pub(super) fn decide_alone(
        &self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Result<Admission, Refusal> {
        let mut inner = self.inner.lock();
        match shared.on_failure {
            OnFailure::Allow => Ok(inner.admit_alone(shared, ask, now)),
            OnFailure::Reject => Err(Refusal {
                dimension: Dimension::Requests,
                limit: ask.limits.requests.unwrap_or(0),
                until: Until::StoreReturns,
            }),
            OnFailure::Degrade => {
                let share = ask.limits.share(shared.nodes.count());
                let window = shared.window;
                match inner.own.refusal(now, window, &share, &ask.cost) {
                    // It does not fit into a share, but into the limit.
                    Some(refusal) if refusal.until == Until::Never && fits(ask, now, window) => {
                        Err(Refusal {
                            until: Until::StoreReturns,
                            ..refusal
                        })
                    }
                    Some(refusal) => Err(refusal),
                    None => Ok(inner.admit_alone(shared, ask, now)),
                }
            }
        }
    }

    /// Ends a call. Returns after what time a task must tell Redis; `None` if one will anyway.
    pub(super) fn settle(
        &self,
        shared: &Shared,
        admission: &Admission,
        settlement: &Settlement,
        now: Tick,
    ) -> Option<Duration> {
        let mut inner = self.inner.lock();
        inner.own.settle(now, shared.window, admission, settlement);
        inner.held.remove(admission.cost());
        let changes = admission.changes(settlement);
        let correction = match admission.stored_at {
            Some(at_ms) => Correction {
                at_ms,
                then: std::array::from_fn(|dimension| {
                    i64::from(changes.charge[dimension]) - i64::from(changes.refund[dimension])
                }),
                debt: [changes.debt[1], changes.debt[2]],
            },
            None => match &mut inner.alone {
                Some(alone) if admission.at >= alone.since => {
                    let ledger = &mut alone.ledger;
                    ledger.settle(now, shared.window, admission, settlement);
                    return None;
                }
                // Redis has learned of it meanwhile, but not of its end. Nobody knows under which time it counts there.
                _ => Correction {
                    debt: [changes.debt[1], changes.charge[2] + changes.debt[2]],
                    ..Correction::default()
                },
            },
        };
        inner.settlements.push(correction);
        // There may be room again.
        inner.refused = None;
        if inner.is_asking || inner.will_flush {
            return None;
        }
        inner.will_flush = true;
        Some(match inner.is_tight() {
            true => FLUSH_SOON,
            false => FLUSH_AFTER,
        })
    }

    /// What is left, as Redis said last.
    pub(super) fn remaining(
        &self,
        shared: &Shared,
        limits: &Limits,
        now: Tick,
    ) -> [Option<Remaining>; DIMENSIONS] {
        let mut inner = self.inner.lock();
        let Some(seen) = inner.seen.filter(|seen| now.since(seen.at) < shared.window) else {
            return inner.own.remaining(now, shared.window, limits);
        };
        let caps = [limits.requests, limits.input_tokens, limits.output_tokens];
        std::array::from_fn(|dimension| {
            let limit = caps[dimension]?;
            let left = u64::from(limit).saturating_sub(seen.used[dimension]);
            Some(Remaining {
                limit,
                remaining: u32::try_from(left).unwrap_or(limit),
                resets: seen.empty_at[dimension].unwrap_or(now),
            })
        })
    }

    /// Whether nothing need be remembered.
    pub(super) fn is_idle(&self, now: Tick, shared: &Shared) -> bool {
        let mut inner = self.inner.lock();
        let is_quiet = !inner.is_asking && !inner.will_flush && inner.unconfirmed.is_none();
        // While Redis has the node's record, its numbers of steps go on.
        let has_record = now.since(inner.confirmed.1) <= shared.record_ttl;
        is_quiet && !has_record && inner.held.calls == 0 && inner.own.is_idle(now, shared.window)
    }
}

/// Whether a call fits into its limits if nothing else is used.
fn fits(ask: &Ask, now: Tick, window: Duration) -> bool {
    let refusal = Ledger::default().refusal(now, window, &ask.limits, &ask.cost);
    refusal.is_none()
}

impl Inner {
    /// Admits a call that Redis learns of later.
    fn admit_alone(&mut self, shared: &Shared, ask: &Ask, now: Tick) -> Admission {
        let (limits, cost) = (&ask.limits, &ask.cost);
        let admission = self.own.admit_anyway(now, shared.window, limits, cost);
        let since = admission.at;
        let alone = self.alone.get_or_insert_with(|| {
            Box::new(Alone {
                since,
                ledger: Ledger::default(),
            })
        });
        alone
            .ledger
            .admit_anyway(since, shared.window, limits, cost);
        self.held.add(cost);
        admission
    }
}

impl Inner {
    /// Whether little was left when Redis was asked last, so that what is given back may matter to another node.
    fn is_tight(&self) -> bool {
        let used = self.seen.map_or([0; DIMENSIONS], |seen| seen.used);
        let caps = [
            self.limits.requests,
            self.limits.input_tokens,
            self.limits.output_tokens,
        ];
        let is_tight = |(cap, used): (Option<u32>, u64)| {
            cap.is_some_and(|cap| used.saturating_mul(4) > u64::from(cap).saturating_mul(3))
        };
        self.limits.concurrent.is_some() || caps.into_iter().zip(used).any(is_tight)
    }
}

impl HeldByNode {
    pub(super) fn add(&mut self, cost: &Cost) {
        self.calls += 1;
        self.mean += cost.output.mean;
        self.variance += cost.output.variance;
        self.max += u64::from(cost.output.max);
    }

    pub(super) fn remove(&mut self, cost: &Cost) {
        // Rounding errors end with the last call.
        if self.calls <= 1 {
            *self = Self::default();
            return;
        }
        self.calls -= 1;
        self.mean = (self.mean - cost.output.mean).max(0.0);
        self.variance = (self.variance - cost.output.variance).max(0.0);
        self.max = self.max.saturating_sub(u64::from(cost.output.max));
    }
}
