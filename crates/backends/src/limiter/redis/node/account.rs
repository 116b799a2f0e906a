//! What a node knows of one caller or key: what it wants to ask and to tell Redis, and what it has admitted itself.

use std::collections::VecDeque;
use std::time::Duration;

use keypool_core::limit::{
    Admission, Ask, Changes, Cost, DIMENSIONS, Dimension, Held, Ledger, LimitId, Limits, Refusal,
    Remaining, Settlement, Stored, Tick, Until,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lease::{self, Forecast, Lease};
use super::{FLUSH_AFTER, FLUSH_SOON, Shared};
use crate::limiter::redis::{Correction, Wants};

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
    /// A task waits until the lease has to be renewed.
    pub(super) will_renew: bool,
    /// Number of the last step.
    pub(super) seq: u32,
    /// The limits that hold now.
    pub(super) limits: Limits,
    /// Calls that wait for a decision.
    pub(super) waiting: VecDeque<Waiting>,
    /// Ends of calls that Redis does not know of yet.
    pub(super) settlements: Vec<Ended>,
    /// What this node's calls in flight hold.
    pub(super) held: Held,
    /// A step of which it is not known whether Redis received it.
    pub(super) unconfirmed: Option<Step>,
    /// The last refusal, while it holds.
    pub(super) refused: Option<Refused>,
    /// What Redis said last.
    pub(super) seen: Option<Seen>,
    /// What this node itself has admitted.
    pub(super) own: Ledger,
    /// Of that, what the next step tells Redis: calls on the lease, and those that were admitted without Redis.
    pub(super) unreported: Option<Box<Ledger>>,
    /// What may be admitted without asking. It ends with the next step.
    pub(super) lease: Option<Lease>,
    /// A call that was admitted before anybody made it.
    reserved_ahead: Option<Admission>,
    /// What the caller is expected to need.
    pub(super) forecast: Forecast,
    /// When Redis received the steps of the last window.
    pub(super) received: VecDeque<Received>,
    /// Number of the newest step that Redis has confirmed, and when.
    pub(super) confirmed: (u32, Tick),
}

/// A call that waits for a decision.
pub(super) struct Waiting {
    pub(super) cost: Cost,
    pub(super) answer: Answer,
}

/// The end of a call that Redis knows of.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    stored: Stored,
    at: Tick,
    changes: Changes,
}

/// When Redis received a step, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Received {
    pub(super) seq: u32,
    /// When it was made. The ages in it are counted from then.
    pub(super) made: Tick,
    pub(super) received_ms: u64,
}

/// One step, kept until Redis has confirmed it.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) seq: u32,
    pub(super) made: Tick,
    pub(super) limits: Limits,
    pub(super) held: Held,
    pub(super) wants: Wants,
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
        // What is lent is returned soon, and the settlements with it.
        let is_needed = !inner.is_asking && inner.lease.is_none() && !inner.settlements.is_empty();
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

    pub(super) fn has_lease(&self) -> bool {
        self.inner.lock().lease.is_some()
    }

    /// Admits a call on the lease, or refuses it if it has just been refused. `None`: Redis must be asked.
    pub(super) fn decide_here(
        &self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Option<Result<Admission, Refusal>> {
        let mut inner = self.inner.lock();
        if let Some(admission) = inner.admit_on_lease(shared.window, &ask.limits, &ask.cost, now) {
            return Some(Ok(admission));
        }
        if inner.is_reserved_ahead(&ask.cost) {
            return inner.reserved_ahead.take().map(Ok);
        }
        inner.refusal_here(ask, shared.window, now).map(Err)
    }

    /// What [`Account::decide_here`] would decide.
    pub(super) fn check_here(
        &self,
        shared: &Shared,
        ask: &Ask,
        now: Tick,
    ) -> Option<Result<(), Refusal>> {
        let mut inner = self.inner.lock();
        let (window, limits, cost) = (shared.window, &ask.limits, &ask.cost);
        if inner.fits_on_lease(window, limits, cost, now) || inner.is_reserved_ahead(cost) {
            return Some(Ok(()));
        }
        inner.refusal_here(ask, window, now).map(Err)
    }

    /// Keeps a call that was admitted before anybody made it, and returns the last one if nobody has made that.
    pub(super) fn replace_reserved_ahead(&self, admission: Admission) -> Option<Admission> {
        self.inner.lock().reserved_ahead.replace(admission)
    }

    /// The call that was admitted before anybody made it, if it is this one and nobody has made it.
    pub(super) fn take_reserved_ahead(&self, admission: &Admission) -> Option<Admission> {
        let mut inner = self.inner.lock();
        inner
            .reserved_ahead
            .take_if(|reserved_ahead| reserved_ahead == admission)
    }

    /// Whether Redis may have something of this account, or has to learn of it.
    pub(super) fn has_used_anything(&self) -> bool {
        let inner = self.inner.lock();
        inner.seq > 0 || inner.unreported.is_some()
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
        inner.settle(shared.window, admission, settlement, now);
        // There may be room again.
        inner.refused = None;
        let is_reported_anyway = inner.is_asking || inner.will_flush || inner.lease.is_some();
        if is_reported_anyway || inner.settlements.is_empty() {
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
        let window = shared.window;
        let Some(seen) = inner.seen.filter(|seen| now.since(seen.at) < window) else {
            return inner.own.remaining(now, window, limits);
        };
        let unreported = inner.unreported.as_mut();
        let unreported = unreported.map(|unreported| unreported.remaining(now, window, limits));
        let caps = [limits.requests, limits.input_tokens, limits.output_tokens];
        std::array::from_fn(|dimension| {
            let limit = caps[dimension]?;
            let here = unreported.and_then(|unreported| unreported[dimension]);
            let used_here = here.map_or(0, |here| limit - here.remaining);
            let left = u64::from(limit).saturating_sub(seen.used[dimension] + u64::from(used_here));
            let resets = seen.empty_at[dimension].unwrap_or(now);
            Some(Remaining {
                limit,
                remaining: u32::try_from(left).unwrap_or(limit),
                resets: here.map_or(resets, |here| here.resets.max(resets)),
            })
        })
    }

    /// Whether nothing need be remembered.
    pub(super) fn is_idle(&self, now: Tick, shared: &Shared) -> bool {
        let mut inner = self.inner.lock();
        let is_quiet = !inner.is_asking
            && !inner.will_flush
            && inner.lease.is_none()
            && inner.unconfirmed.is_none();
        // While Redis has the node's record, its numbers of steps go on.
        let has_record = now.since(inner.confirmed.1) <= shared.record_ttl;
        is_quiet && !has_record && inner.held.calls == 0 && inner.own.is_idle(now, shared.window)
    }
}

/// Why a call needs more than its whole limits; `None` if it does not.
pub(super) fn never_fits(ask: &Ask, now: Tick, window: Duration) -> Option<Refusal> {
    let refusal = Ledger::default().refusal(now, window, &ask.limits, &ask.cost);
    refusal.filter(|refusal| refusal.until == Until::Never)
}

impl Inner {
    /// Admits a call on the lease, if that has room. The lease limits what Redis has not been told.
    pub(super) fn admit_on_lease(
        &mut self,
        window: Duration,
        limits: &Limits,
        cost: &Cost,
        now: Tick,
    ) -> Option<Admission> {
        let fits = self.fits_on_lease(window, limits, cost, now);
        fits.then(|| self.admit_unreported(window, limits, cost, now))
    }

    fn fits_on_lease(&mut self, window: Duration, limits: &Limits, cost: &Cost, now: Tick) -> bool {
        let Some(lease) = &self.lease else {
            return false;
        };
        if lease.ends <= now || lease.under != *limits {
            return false;
        }
        let unreported = self.unreported.get_or_insert_default();
        let refusal = unreported.refusal(now, window, &lease.budget, cost);
        refusal.is_none()
    }

    /// Whether a call was admitted before anybody made it that needs at least as much.
    fn is_reserved_ahead(&self, cost: &Cost) -> bool {
        self.reserved_ahead.is_some_and(|reserved_ahead| {
            let reserved_ahead = reserved_ahead.cost();
            reserved_ahead.input_tokens >= cost.input_tokens
                && reserved_ahead.output.alone() >= cost.output.alone()
        })
    }

    /// Why the call is refused, if that is known without Redis.
    fn refusal_here(&mut self, ask: &Ask, window: Duration, now: Tick) -> Option<Refusal> {
        let known = self.known_refusal(ask, now);
        known.or_else(|| never_fits(ask, now, window))
    }

    /// The last refusal, if it holds for this call too.
    fn known_refusal(&mut self, ask: &Ask, now: Tick) -> Option<Refusal> {
        let refused = self.refused?;
        if refused.holds_until <= now || refused.limits != ask.limits {
            self.refused = None;
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

    /// Admits a call that Redis learns of with the next step.
    pub(super) fn admit_unreported(
        &mut self,
        window: Duration,
        limits: &Limits,
        cost: &Cost,
        now: Tick,
    ) -> Admission {
        self.limits = *limits;
        let mut admission = self.admit(window, limits, cost, now);
        let unreported = self.unreported.get_or_insert_default();
        unreported.admit_anyway(admission.at, window, limits, cost);
        admission.stored = Stored::InStep(self.seq + 1);
        admission
    }

    /// Counts a call that was admitted.
    pub(super) fn admit(
        &mut self,
        window: Duration,
        limits: &Limits,
        cost: &Cost,
        now: Tick,
    ) -> Admission {
        self.forecast.add(cost);
        self.held = self.held.with(&cost.output);
        self.own.admit_anyway(now, window, limits, cost)
    }

    /// Ends a call.
    pub(super) fn settle(
        &mut self,
        window: Duration,
        admission: &Admission,
        settlement: &Settlement,
        now: Tick,
    ) {
        self.own.settle(now, window, admission, settlement);
        self.held = self.held.without(&admission.cost().output);
        if let (Stored::InStep(step), Some(unreported)) = (admission.stored, &mut self.unreported)
            && step > self.seq
        {
            unreported.settle(now, window, admission, settlement);
            return;
        }
        let changes = admission.changes(settlement);
        if let Some(lease) = &mut self.lease {
            let [_, input, output] = changes.debt;
            lease.take([input, output]);
        }
        self.settlements.push(Ended {
            stored: admission.stored,
            at: admission.at,
            changes,
        });
    }

    /// Gives back what a call was charged in Redis that nobody made.
    pub(super) fn give_back(&mut self, at_ms: u64, cost: &Cost, limits: &Limits) {
        let counted = |limit: Option<u32>, amount: u32| limit.map_or(0, |_| amount);
        let refund = [
            counted(limits.requests, 1),
            counted(limits.input_tokens, cost.input_tokens),
            0,
        ];
        self.settlements.push(Ended {
            stored: Stored::At(at_ms),
            at: Tick::default(),
            changes: Changes {
                refund,
                ..Changes::default()
            },
        });
    }

    /// What the ends of calls change, in Redis's time.
    pub(super) fn take_settlements(&mut self) -> Vec<Correction> {
        let ended = std::mem::take(&mut self.settlements);
        let correction = |ended: &Ended| Correction {
            at_ms: self.stored_at(ended),
            then: std::array::from_fn(|dimension| {
                i64::from(ended.changes.charge[dimension])
                    - i64::from(ended.changes.refund[dimension])
            }),
            debt: [ended.changes.debt[1], ended.changes.debt[2]],
        };
        ended.iter().map(correction).collect()
    }

    /// When Redis counts a call; 0: it has left the window.
    fn stored_at(&self, ended: &Ended) -> u64 {
        let step = match ended.stored {
            Stored::Nowhere => return 0,
            Stored::At(at_ms) => return at_ms,
            Stored::InStep(step) => step,
        };
        // Later ones told of it again, after a loss.
        let told = self.received.iter().find(|told| told.seq >= step);
        told.map_or(0, |told| {
            let age = lease::age(told.made, ended.at).as_millis();
            // As the script charges it: at the end of its millisecond.
            (told.received_ms + 1).saturating_sub(u64::try_from(age).unwrap_or(u64::MAX))
        })
    }

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
