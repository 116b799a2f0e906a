//! Asking Redis about one caller: step by step, each with a number, so that one that is sent twice counts once.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::limit::{Admission, Cost, DIMENSIONS, Limits, Refusal, Tick, Until};
use tokio::time::sleep;

use super::Shared;
use super::account::{Account, Answer, Inner, Refused, Seen, Step, Waiting};
use crate::limiter::redis::{
    Charge, Correction, Decision, MAX_DECISIONS, NodeCall, NodeReply, RedisError, RefusedUntil,
    Report,
};

/// How long a refusal is remembered that may end at any time.
const REMEMBERED: Duration = Duration::from_millis(50);

/// Tells Redis what this node uses of one account. Returns whether Redis has confirmed it.
pub(super) async fn restate(shared: &Arc<Shared>, account: &Arc<Account>) -> bool {
    let (before, must_start) = account.begin_restating();
    if must_start {
        run(shared, account).await;
    }
    // Otherwise the task that asks already takes that step too.
    while account.is_asking() && !account.has_confirmed_after(before) {
        sleep(Duration::from_millis(2)).await;
    }
    account.has_confirmed_after(before)
}

/// Sends steps until nothing is left to ask or to settle, or Redis does not respond.
pub(super) async fn run(shared: &Arc<Shared>, account: &Arc<Account>) {
    loop {
        if !confirm(shared, account).await {
            return account.give_up();
        }
        let Some((mut step, answers)) = account.next_step(shared) else {
            return;
        };
        let sent = shared.now();
        match send(shared, account, &mut step).await {
            Ok(reply) => account.apply(shared, &step, answers, &reply, sent),
            Err(_) => {
                account.inner.lock().unconfirmed = Some(step);
                // Each of them decides by itself.
                drop(answers);
                return account.give_up();
            }
        }
    }
}

/// Sends a step again of which it is not known whether Redis received it. Its calls were decided meanwhile without Redis, so
/// what it admits of them is given back.
async fn confirm(shared: &Arc<Shared>, account: &Arc<Account>) -> bool {
    let Some(mut step) = account.inner.lock().unconfirmed.take() else {
        return true;
    };
    let Ok(reply) = send(shared, account, &mut step).await else {
        account.inner.lock().unconfirmed = Some(step);
        return false;
    };
    let mut inner = account.inner.lock();
    for (cost, decision) in step.costs.iter().zip(&reply.decisions) {
        if let Decision::Admitted { at_ms } = decision {
            inner
                .settlements
                .push(Correction::giving_back(*at_ms, cost, &step.limits));
        }
    }
    true
}

/// Sends a step. If Redis has lost what this node told it before, this node tells all of it again.
async fn send(
    shared: &Shared,
    account: &Account,
    step: &mut Step,
) -> Result<NodeReply, RedisError> {
    shared.nodes.ensure_counted(shared).await?;
    let mut reply = send_once(shared, account, step).await?;
    if reply.is_lost {
        account.tell_all(shared, step);
        reply = send_once(shared, account, step).await?;
        shared.nodes.note_loss(shared.now(), reply.now_ms);
    }
    account.inner.lock().confirmed = (step.seq, shared.now());
    Ok(reply)
}

async fn send_once(
    shared: &Shared,
    account: &Account,
    step: &Step,
) -> Result<NodeReply, RedisError> {
    let now = shared.now();
    let charge = |(at, amounts): &(Tick, [u32; DIMENSIONS])| Charge {
        age: now.since(*at),
        amounts: *amounts,
    };
    let charges: Vec<Charge> = step.charges.iter().map(charge).collect();
    // Before that, Redis may have let go of the node's record by itself, and nothing that it had counts any more.
    let may_count = {
        let mut inner = account.inner.lock();
        let is_recent = now.since(inner.confirmed.1) < shared.window;
        is_recent && !inner.own.is_idle(now, shared.window)
    };
    let call = NodeCall {
        id: account.id,
        length: shared.window,
        limits: step.limits,
        node: shared.nodes.own(),
        seq: step.seq,
        record_ttl: shared.record_ttl,
        held: step.held,
        confirmed: if may_count { step.seq - 1 } else { 0 },
        knows: shared.nodes.known(now, shared.window),
        report: Report {
            is_all: step.tells_all,
            charges: &charges,
        },
        settlements: &step.settlements,
        calls: &step.costs,
    };
    shared.script.step(&shared.redis, &call).await
}

impl Account {
    fn is_asking(&self) -> bool {
        self.inner.lock().is_asking
    }

    fn has_confirmed_after(&self, seq: u32) -> bool {
        self.inner.lock().confirmed.0 > seq
    }

    /// Has a step tell all that this node has used, the ends of calls included.
    fn tell_all(&self, shared: &Shared, step: &mut Step) {
        let mut inner = self.inner.lock();
        step.charges = inner.own.charges(shared.now(), shared.window);
        step.tells_all = true;
        step.held = inner.held;
        step.settlements.clear();
        inner.settlements.clear();
        inner.alone = None;
    }

    /// The next step, and who waits for it; `None` if there is nothing to say.
    fn next_step(&self, shared: &Shared) -> Option<(Step, Vec<Answer>)> {
        let mut inner = self.inner.lock();
        // A client that left no longer asks.
        inner.waiting.retain(|waiting| !waiting.answer.is_closed());
        let is_news = std::mem::take(&mut inner.must_restate) || inner.alone.is_some();
        if inner.waiting.is_empty() && inner.settlements.is_empty() && !is_news {
            inner.is_asking = false;
            return None;
        }
        inner.seq += 1;
        let count = inner.waiting.len().min(MAX_DECISIONS);
        let waiting: Vec<Waiting> = inner.waiting.drain(..count).collect();
        let alone = inner.alone.take();
        let charges = alone.map(|mut it| it.ledger.charges(shared.now(), shared.window));
        let step = Step {
            seq: inner.seq,
            limits: inner.limits,
            held: inner.held,
            settlements: std::mem::take(&mut inner.settlements),
            costs: waiting.iter().map(|waiting| waiting.cost).collect(),
            charges: charges.unwrap_or_default(),
            tells_all: false,
        };
        Some((
            step,
            waiting.into_iter().map(|waiting| waiting.answer).collect(),
        ))
    }

    /// Redis does not respond: those who wait decide by themselves.
    fn give_up(&self) {
        let mut inner = self.inner.lock();
        inner.is_asking = false;
        inner.waiting.clear();
    }

    /// Takes over what Redis decided.
    fn apply(
        &self,
        shared: &Shared,
        step: &Step,
        answers: Vec<Answer>,
        reply: &NodeReply,
        sent: Tick,
    ) {
        let mut inner = self.inner.lock();
        // Redis's time was now_ms at some moment after the step was sent. As if it was then, so that nobody comes too early.
        let local = |at_ms: u64| shared.now().max(sent) + ahead(at_ms, reply.now_ms);
        inner.seen = Some(Seen {
            used: [
                reply.used[0],
                reply.used[1],
                reply.used[2] + reply.held_output,
            ],
            empty_at: reply.empty_at_ms.map(|at| at.map(local)),
            at: sent,
        });
        for ((cost, decision), answer) in step.costs.iter().zip(&reply.decisions).zip(answers) {
            let decided = match decision {
                Decision::Admitted { at_ms } => Ok(inner.admit(shared, step, cost, *at_ms)),
                Decision::Refused { dimension, until } => {
                    let until = match until {
                        RefusedUntil::At(at_ms) => Until::At(local(*at_ms)),
                        RefusedUntil::CallEnds(at) => Until::CallEnds(at.map(local)),
                        RefusedUntil::Never => Until::Never,
                    };
                    let refusal = Refusal {
                        dimension: *dimension,
                        limit: step.limits.of(*dimension).unwrap_or_default(),
                        until,
                    };
                    inner.refused = Some(Refused {
                        holds_until: holds_until(&refusal, reply, shared.now()),
                        cost: *cost,
                        limits: step.limits,
                        refusal,
                    });
                    Err(refusal)
                }
            };
            // A client that has just left drops its admission, which must be given back.
            if let Err(Some(Ok(admission))) = answer.send(Some(decided)) {
                inner.take_back(shared, &admission);
            }
        }
    }
}

impl Inner {
    fn admit(&mut self, shared: &Shared, step: &Step, cost: &Cost, at_ms: u64) -> Admission {
        self.held.add(cost);
        let mut admission = self
            .own
            .admit_anyway(shared.now(), shared.window, &step.limits, cost);
        admission.stored_at = Some(at_ms);
        admission
    }

    fn take_back(&mut self, shared: &Shared, admission: &Admission) {
        use keypool_core::limit::Settlement;
        self.own
            .settle(shared.now(), shared.window, admission, &Settlement::NotSent);
        self.held.remove(admission.cost());
        if let Some(at_ms) = admission.stored_at {
            let changes = admission.changes(&Settlement::NotSent);
            self.settlements.push(Correction {
                at_ms,
                then: changes.refund.map(|amount| -i64::from(amount)),
                debt: [0; 2],
            });
        }
    }
}

/// How long a refusal can be remembered. Calls in flight, also those of other nodes, may give something back at any time.
fn holds_until(refusal: &Refusal, reply: &NodeReply, now: Tick) -> Tick {
    let Until::At(until) = refusal.until else {
        return now;
    };
    match reply.calls > 0 {
        true => until.min(now + REMEMBERED),
        false => until,
    }
}

/// How long after `now_ms` a time is.
fn ahead(at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms))
}

impl Correction {
    /// Gives back what a call was charged that nobody made.
    fn giving_back(at_ms: u64, cost: &Cost, limits: &Limits) -> Self {
        let counted =
            |limit: Option<u32>, amount: u32| -> i64 { limit.map_or(0, |_| -i64::from(amount)) };
        Self {
            at_ms,
            then: [
                counted(limits.requests, 1),
                counted(limits.input_tokens, cost.input_tokens),
                0,
            ],
            debt: [0; 2],
        }
    }
}
