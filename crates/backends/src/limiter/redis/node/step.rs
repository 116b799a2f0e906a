//! Asking Redis about one caller: step by step, each with a number, so that one that is sent twice counts once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keypool_core::limit::{Admission, DIMENSIONS, Refusal, Settlement, Stored, Tick, Until};
use tokio::time::sleep;

use super::account::{Account, Answer, Inner, Received, Refused, Seen, Step, Waiting};
use super::lease::{self, Lease};
use super::{Mode, Shared};
use crate::limiter::redis::{
    Charge, Decision, MAX_DECISIONS, NodeCall, NodeReply, RedisError, RefusedUntil, Report, Wants,
};

/// How long a refusal is remembered that may end at any time.
pub(super) const REMEMBERED: Duration = Duration::from_millis(50);
/// How long after a step that failed it is sent again if nothing is asked meanwhile.
const RETRY_AFTER: Duration = Duration::from_millis(250);

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
    run_steps(shared, account).await;
    start_renewing(shared, account);
}

async fn run_steps(shared: &Arc<Shared>, account: &Arc<Account>) {
    loop {
        if !confirm(shared, account).await {
            return account.give_up();
        }
        let Some((mut step, answers)) = account.next_step(shared) else {
            return;
        };
        let sent = shared.now();
        match send(shared, account, &mut step).await {
            Ok(reply) => {
                account.apply(shared, &step, answers, &reply, sent);
                if reply.is_recall {
                    shared.nodes.recall(account.id);
                }
            }
            Err(_) => {
                account.inner.lock().unconfirmed = Some(step);
                // Each of them decides by itself.
                drop(answers);
                return account.give_up();
            }
        }
    }
}

/// Starts the task that renews the lease in time, and repeats a step that failed, unless it runs.
#[expect(
    clippy::disallowed_methods,
    reason = "it ends with the lease, or with the limiter"
)]
fn start_renewing(shared: &Arc<Shared>, account: &Arc<Account>) {
    let is_needed = {
        let mut inner = account.inner.lock();
        let is_needed = inner.lease.is_some() || inner.unconfirmed.is_some();
        is_needed && !std::mem::replace(&mut inner.will_renew, true)
    };
    if is_needed {
        tokio::spawn(renew(Arc::downgrade(shared), Arc::clone(account)));
    }
}

async fn renew(shared: Weak<Shared>, account: Arc<Account>) {
    loop {
        let wait = match shared.upgrade() {
            Some(shared) => account.until_renewal(&shared),
            None => return,
        };
        let Some(wait) = wait else { return };
        sleep(wait).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if account.begin_renewal(shared.now()) {
            run_steps(&shared, &account).await;
        }
    }
}

/// Sends a step again of which it is not known whether Redis received it. Its calls were decided meanwhile without Redis, so
/// what it admits of them is given back.
async fn confirm(shared: &Arc<Shared>, account: &Arc<Account>) -> bool {
    let Some(mut step) = account.inner.lock().unconfirmed.take() else {
        return true;
    };
    let sent = shared.now();
    let Ok(reply) = send(shared, account, &mut step).await else {
        account.inner.lock().unconfirmed = Some(step);
        return false;
    };
    let mut inner = account.inner.lock();
    for (cost, decision) in step.costs.iter().zip(&reply.decisions) {
        if let Decision::Admitted { at_ms } = decision {
            inner.give_back(*at_ms, cost, &step.limits);
        }
    }
    inner.take_over_lease(shared, &step, &reply, sent);
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
    let now = shared.now();
    let mut inner = account.inner.lock();
    inner.confirmed = (step.seq, now);
    inner.note_received(step, &reply, now, shared.window);
    drop(inner);
    Ok(reply)
}

async fn send_once(
    shared: &Shared,
    account: &Account,
    step: &Step,
) -> Result<NodeReply, RedisError> {
    // The age that it had when the step was made: if the step is sent again, Redis counts what it tells somewhat too long.
    let charge = |(at, amounts): &(Tick, [u32; DIMENSIONS])| Charge {
        age: lease::age(step.made, *at),
        amounts: *amounts,
    };
    let charges: Vec<Charge> = step.charges.iter().map(charge).collect();
    let now = shared.now();
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
        wants: step.wants,
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

    /// How long until the lease has to be renewed, or a step sent again. `None` if neither; the task that waits for it ends.
    fn until_renewal(&self, shared: &Shared) -> Option<Duration> {
        let mut inner = self.inner.lock();
        // Once Redis returns, this node reports everything anyway.
        let is_retried = inner.unconfirmed.is_some() && !shared.redis.is_down();
        let wait = match inner.lease {
            Some(lease) => Some(lease.renew_at.since(shared.now())),
            None => is_retried.then_some(RETRY_AFTER),
        };
        inner.will_renew = wait.is_some();
        wait
    }

    /// Whether a step is due that renews the lease or is sent again, and nobody asks already.
    fn begin_renewal(&self, now: Tick) -> bool {
        let mut inner = self.inner.lock();
        let is_due = match inner.lease {
            Some(lease) => lease.renew_at <= now,
            None => inner.unconfirmed.is_some(),
        };
        let begins = is_due && !inner.is_asking;
        inner.must_restate |= begins;
        inner.is_asking |= begins;
        begins
    }

    /// Has a step tell all that this node has used, the ends of calls included. It gets the next number, which is that of
    /// what would have been told next.
    fn tell_all(&self, shared: &Shared, step: &mut Step) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        step.seq = inner.seq;
        step.made = shared.now();
        step.charges = inner.own.charges(step.made, shared.window);
        step.tells_all = true;
        step.held = inner.held;
        step.settlements.clear();
        inner.settlements.clear();
        inner.unreported = None;
        inner.received.clear();
    }

    /// The next step, and who waits for it; `None` if there is nothing to say.
    fn next_step(&self, shared: &Shared) -> Option<(Step, Vec<Answer>)> {
        let mut inner = self.inner.lock();
        // A client that left no longer asks.
        inner.waiting.retain(|waiting| !waiting.answer.is_closed());
        let (now, window) = (shared.now(), shared.window);
        inner.serve_on_lease(window, now);
        let must_tell =
            inner.lease.is_none() && (inner.unreported.is_some() || !inner.settlements.is_empty());
        let must_restate = std::mem::take(&mut inner.must_restate);
        if inner.waiting.is_empty() && !must_tell && !must_restate {
            inner.is_asking = false;
            return None;
        }
        inner.seq += 1;
        inner.lease = None;
        let count = inner.waiting.len().min(MAX_DECISIONS);
        let waiting: Vec<Waiting> = inner.waiting.drain(..count).collect();
        let charges = inner
            .unreported
            .take()
            .map(|mut it| it.charges(now, window));
        let wants = match shared.mode {
            Mode::Strict => Wants::default(),
            Mode::Leased => inner.forecast.wants(now, window),
        };
        let step = Step {
            seq: inner.seq,
            made: now,
            limits: inner.limits,
            held: inner.held,
            wants,
            settlements: inner.take_settlements(),
            costs: waiting.iter().map(|waiting| waiting.cost).collect(),
            charges: charges.unwrap_or_default(),
            tells_all: false,
        };
        let answers = waiting.into_iter().map(|waiting| waiting.answer);
        Some((step, answers.collect()))
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
        let now = shared.now().max(sent);
        let local = |at_ms: u64| now + ahead(at_ms, reply.now_ms);
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
                Decision::Admitted { at_ms } => {
                    let mut admission = inner.admit(shared.window, &step.limits, cost, now);
                    admission.stored = Stored::At(*at_ms);
                    Ok(admission)
                }
                Decision::Refused { dimension, until } => {
                    let refusal = Refusal {
                        dimension: *dimension,
                        limit: step.limits.of(*dimension).unwrap_or_default(),
                        until: match until {
                            RefusedUntil::At(at_ms) => Until::At(local(*at_ms)),
                            RefusedUntil::CallEnds(at) => Until::CallEnds(at.map(local)),
                            RefusedUntil::Never => Until::Never,
                        },
                        may_be_sooner: reply.calls > 0,
                    };
                    inner.refused = Some(Refused {
                        holds_until: holds_until(&refusal, now),
                        cost: *cost,
                        limits: step.limits,
                        refusal,
                    });
                    Err(refusal)
                }
            };
            inner.answer(shared.window, answer, decided, now);
        }
        inner.take_over_lease(shared, step, reply, sent);
    }
}

impl Inner {
    /// Notes when Redis received a step, for the ends of the calls that it told of.
    fn note_received(&mut self, step: &Step, reply: &NodeReply, now: Tick, window: Duration) {
        let is_old = |received: &Received| now.since(received.made) > window;
        while self.received.front().is_some_and(is_old) {
            self.received.pop_front();
        }
        if !step.charges.is_empty() {
            self.received.push_back(Received {
                seq: step.seq,
                made: step.made,
                received_ms: reply.received_ms,
            });
        }
    }

    fn take_over_lease(&mut self, shared: &Shared, step: &Step, reply: &NodeReply, sent: Tick) {
        let grant = reply.grant.as_ref();
        self.lease = grant.map(|grant| Lease::new(grant, step.limits, sent, shared.window));
    }

    /// Admits calls that came while Redis was asked, in their order, until the new lease has no room.
    fn serve_on_lease(&mut self, window: Duration, now: Tick) {
        let limits = self.limits;
        while let Some(waiting) = self.waiting.pop_front() {
            match self.admit_on_lease(window, &limits, &waiting.cost, now) {
                Some(admission) => self.answer(window, waiting.answer, Ok(admission), now),
                None => return self.waiting.push_front(waiting),
            }
        }
    }

    /// Tells a call what was decided. A client that has just left drops its admission, which must be given back.
    fn answer(
        &mut self,
        window: Duration,
        answer: Answer,
        decided: Result<Admission, Refusal>,
        now: Tick,
    ) {
        if let Err(Some(Ok(admission))) = answer.send(Some(decided)) {
            self.settle(window, &admission, &Settlement::NotSent, now);
        }
    }
}

/// How long a refusal can be remembered. Calls in flight, also those of other nodes, may give something back at any time.
fn holds_until(refusal: &Refusal, now: Tick) -> Tick {
    match refusal.until {
        Until::At(until) if refusal.may_be_sooner => until.min(now + REMEMBERED),
        Until::At(until) => until,
        Until::CallEnds(_) | Until::Never | Until::StoreReturns => now,
    }
}

/// How long after `now_ms` a time is.
fn ahead(at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms))
}
