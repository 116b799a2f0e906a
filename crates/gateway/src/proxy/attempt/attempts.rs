//! The attempts of one request: how many, with which key next, how long to wait for one, and what failed so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{
    Demand, Effect, Handoff, Lease, Leased, MemberRef, NextAvailable, Pool, Seeking, Suspect,
    Ticket,
};
use tokio::time::sleep_until;

use super::response::{Failure, UpstreamResponse};
use crate::checks;
use crate::context::Gateway;
use crate::proxy::inbound::{Call, Caller};
use crate::proxy::log::RequestLog;
use crate::proxy::origin::Origin;
use crate::proxy::reservation::CallerReservation;
use crate::proxy::routing::{PoolTarget, conversation};
use crate::snapshot::PoolEntry;
use crate::telemetry::{FailedAttempt, NextStep};
use crate::traces::NoKeyReason;
use crate::upstream::UpstreamError;

/// Tries the targets in order, and the keys of each.
pub(crate) struct Attempts<'a> {
    pub(super) gw: &'a Arc<Gateway>,
    pub(super) caller: &'a Caller,
    origin: Origin<'a>,
    call: &'a Call<'a>,
    targets: &'a [PoolTarget],
    /// The index of the target that is tried now. All before it are used up.
    target: usize,
    pub(super) state: TargetState,
    /// Attempts over all targets.
    attempts: u32,
    pub(crate) time: RequestTime,
    /// Time spent in queues over all targets.
    waited: Duration,
    pub(super) last: LastFailure,
    /// Failures that count against their keys if a later attempt succeeds on another group.
    suspects: Vec<Suspect>,
    /// The opinion that the next attempt is to give.
    pub(super) seeking: Option<Seeking>,
    /// The provider may have run the call, and running it twice could do harm.
    must_stop: bool,
    /// The last failure. It is logged once it is known what follows.
    pub(super) pending_failure: Option<Box<FailedAttempt>>,
}

/// The time of a request over all attempts: `timeouts.total` of the first target.
#[derive(Clone, Copy)]
pub(crate) struct RequestTime {
    pub(crate) total: Duration,
    /// When the first byte of the response must be there.
    pub(crate) deadline: Instant,
}

/// The attempts on one target.
pub(super) struct TargetState {
    pub(super) demand: Demand,
    pub(super) attempts: u32,
    pub(super) max_attempts: u32,
    waited: Duration,
}

impl TargetState {
    fn new(gw: &Gateway, target: &PoolTarget, call: &Call<'_>, caller: &Caller) -> Self {
        let demand = Demand {
            conversation: conversation(call, target, caller),
            cost: target.cost(call, &gw.limits.estimates),
            ..target.demand(call)
        };
        Self {
            attempts: 0,
            max_attempts: target.entry.pool.max_attempts(&demand),
            waited: Duration::ZERO,
            demand,
        }
    }
}

/// The parts of the last failure that the client may see.
#[derive(Default)]
pub(crate) struct LastFailure {
    pub(crate) class: Option<Class>,
    /// The last response that a client may see, and whose it is.
    pub(crate) response: Option<LastResponse>,
    /// Why the last attempt got no response.
    pub(crate) error: Option<LastError>,
    /// What the client gets is settled: whatever a further attempt meets, it is not shown.
    pub(super) is_final: bool,
}

/// An error in place of a response.
pub(crate) struct LastError {
    pub(crate) error: UpstreamError,
    pub(crate) pool: Arc<Pool>,
}

/// A response that is kept for the client.
pub(crate) struct LastResponse {
    pub(crate) response: UpstreamResponse,
    pub(crate) entry: Arc<PoolEntry>,
    pub(crate) key: MemberRef,
}

/// A call that ended, and what that meant for its key.
pub(super) struct Ended {
    key: MemberRef,
    model: Arc<str>,
    fault: Fault,
    pub(super) effect: Effect,
}

/// The attempt whose response is relayed.
pub(crate) struct Answering {
    pub(crate) lease: Lease,
    /// Earlier failures of the same request, which count against their keys once this attempt has succeeded.
    pub(crate) suspects: Vec<Suspect>,
    /// What the call has reserved of its caller's limits.
    pub(crate) reserved: CallerReservation,
}

/// Attempts that came to their end without a response to relay.
pub(crate) struct Concluded<'a> {
    /// The targets that were tried, at least one.
    pub(crate) tried: &'a [PoolTarget],
    pub(crate) attempts: u32,
    pub(crate) waited: Duration,
    /// What ended the attempts on the last target.
    pub(crate) reason: NoKeyReason,
    pub(crate) last: LastFailure,
}

impl<'a> Attempts<'a> {
    /// `targets`: at least one.
    pub(crate) fn new(
        gw: &'a Arc<Gateway>,
        call: &'a Call<'a>,
        targets: &'a [PoolTarget],
        caller: &'a Caller,
        origin: Origin<'a>,
    ) -> Self {
        let total = targets[0].entry.pool.current().settings().timeouts.total;
        Self {
            gw,
            caller,
            origin,
            call,
            targets,
            target: 0,
            state: TargetState::new(gw, &targets[0], call, caller),
            attempts: 0,
            time: RequestTime {
                total,
                deadline: gw.clock.now() + total,
            },
            waited: Duration::ZERO,
            last: LastFailure::default(),
            suspects: Vec::new(),
            seeking: None,
            must_stop: false,
            pending_failure: None,
        }
    }

    /// The target that is tried now.
    pub(crate) fn target(&self) -> &'a PoolTarget {
        &self.targets[self.target]
    }

    pub(super) fn pool(&self) -> &'a Arc<Pool> {
        &self.target().entry.pool
    }

    fn is_last_target(&self) -> bool {
        self.target + 1 == self.targets.len()
    }

    /// The key for the next attempt: free now, or after a wait; of the next target if this one has none left.
    pub(crate) async fn next_key(&mut self, log: &mut RequestLog) -> Result<Lease, NoKeyReason> {
        loop {
            match self.next_key_here(log).await {
                Err(reason) if self.may_try_next_target(reason) => {
                    log.record_no_key(self.pool(), &self.state.demand, reason, self.waited);
                    self.target += 1;
                    self.state = TargetState::new(self.gw, self.target(), self.call, self.caller);
                }
                Err(reason) => {
                    self.log_failure(log, NextStep::End(reason));
                    return Err(reason);
                }
                Ok(mut leased) => {
                    self.log_failure(log, self.step_with(&leased.lease));
                    self.begin_opinion(&mut leased);
                    let entry = &self.target().entry;
                    log.record_attempt(entry, &mut leased, self.attempts, self.waited);
                    return Ok(leased.lease);
                }
            }
        }
    }

    async fn next_key_here(&mut self, log: &RequestLog) -> Result<Leased, NoKeyReason> {
        if self.must_stop {
            return Err(NoKeyReason::NotRepeatable);
        }
        if self.state.attempts > 0 && self.state.attempts >= self.state.max_attempts {
            return Err(NoKeyReason::NoAttemptsLeft);
        }
        let began = self.gw.clock.now();
        if began >= self.time.deadline {
            return Err(NoKeyReason::DeadlineExceeded);
        }
        let leased = match self.pool().acquire(&self.state.demand) {
            Some(leased) => leased,
            // An opinion is worth no waiting.
            None if self.seeking.is_some() => return Err(NoKeyReason::NoKeyInTime),
            None => {
                let give_up = self.waits_until(began);
                let ticket = self.join_queue(give_up)?;
                self.log_failure(log, NextStep::WaitForKey);
                let queued = Box::pin(self.wait_for_key(ticket, give_up)).await;
                let waited = self.gw.clock.now().saturating_duration_since(began);
                self.waited += waited;
                self.state.waited += waited;
                queued?
            }
        };
        if self.gw.clock.now() >= self.time.deadline {
            // The key came too late. Dropping the lease frees its slot and reports no outcome.
            return Err(NoKeyReason::DeadlineExceeded);
        }
        self.attempts += 1;
        self.state.attempts += 1;
        Ok(leased)
    }

    /// The end of the remaining queue timeout, or of the request's time if that is earlier.
    fn waits_until(&self, began: Instant) -> Instant {
        let timeout = self.pool().current().settings().queue.timeout;
        let queue_ends = began + timeout.saturating_sub(self.state.waited);
        queue_ends.min(self.time.deadline)
    }

    fn join_queue(&self, give_up: Instant) -> Result<Ticket, NoKeyReason> {
        let (pool, demand) = (self.pool(), &self.state.demand);
        if !self.is_worth_waiting(pool.next_available(demand), give_up) {
            return Err(NoKeyReason::NoKeyInTime);
        }
        pool.join(demand, &self.caller.fairness_key(), self.origin.lane())
            .map_err(|_| NoKeyReason::QueueFull)
    }

    async fn wait_for_key(
        &self,
        mut ticket: Ticket,
        give_up: Instant,
    ) -> Result<Leased, NoKeyReason> {
        let (pool, demand) = (self.pool(), &self.state.demand);
        loop {
            let changed = pool.cooldowns_changed();
            tokio::pin!(changed);
            // Registered before looking, so that no change is missed in between.
            changed.as_mut().enable();
            let next = pool.next_available(demand);
            let look_again = next.cooldown_ends.map_or(give_up, |ends| ends.min(give_up));
            tokio::select! {
                biased;
                handoff = &mut ticket.handoff => return match handoff {
                    Ok(Handoff::Lease(leased)) => Ok(leased),
                    Ok(Handoff::Evicted) | Err(_) => Err(NoKeyReason::QueueFull),
                },
                () = std::future::ready(()), if !self.is_worth_waiting(next, give_up) => return Err(NoKeyReason::NoKeyInTime),
                () = changed => {}
                () = sleep_until(look_again.into()) => match self.gw.clock.now() {
                    now if now < give_up => pool.serve_waiting(),
                    _ if give_up == self.time.deadline => return Err(NoKeyReason::DeadlineExceeded),
                    _ => return Err(NoKeyReason::QueueTimeout),
                },
            }
        }
    }

    /// Wait for a busy key. Wait for a cooling key only on the last target; earlier targets fail over instead.
    fn is_worth_waiting(&self, next: NextAvailable, give_up: Instant) -> bool {
        next.slot_may_free || (self.is_last_target() && next.comes_before(give_up))
    }

    /// Counts a failed attempt: what it means for the key, and what the client may see of it.
    pub(crate) fn failed(&mut self, lease: Lease, failure: Failure, log: &mut RequestLog) {
        // Another group that fails gives no opinion.
        self.seeking = None;
        let key = lease.member().clone();
        self.note_failure(&key);
        let (fault, status, reason, blames_key) = match failure {
            Failure::Response {
                fault,
                response,
                reason,
            } => {
                // The connection is closed before the slot is freed, so that the provider does not count both calls.
                let response = response.detached();
                let status = response.parts.status.as_u16();
                self.got_response(response, &fault, &key);
                (fault, Some(status), reason, true)
            }
            Failure::NoResponse { error, blames_key } => {
                let (fault, reason) = (Fault::of(Class::UpstreamTrouble), error.to_string());
                self.got_no_response(error);
                (fault, None, reason, blames_key)
            }
        };
        if matches!(
            fault.class,
            Class::TooExpensive | Class::IntermediaryTrouble
        ) {
            // One more attempt tells whether the others can do better.
            self.state.max_attempts = self.state.max_attempts.min(self.state.attempts + 1);
        }
        let ended = self.finish(lease, fault, blames_key);
        if ended.effect.needs_check {
            checks::check(self.gw, &self.target().entry, &key);
        }
        self.record(ended, status, reason, log);
    }

    /// The key is not tried again at once.
    pub(super) fn note_failure(&mut self, key: &MemberRef) {
        let not_before = self.gw.clock.now() + self.pool().current().settings().retry.backoff;
        self.state.demand.note_failure(key, not_before);
    }

    /// Ends the call: what its failure means for the key takes effect.
    pub(super) fn finish(&mut self, lease: Lease, fault: Fault, blames_key: bool) -> Ended {
        let (key, model) = (lease.member().clone(), Arc::clone(lease.model()));
        let effect = match blames_key {
            true => {
                let is_trouble = fault.class == Class::UpstreamTrouble;
                self.suspects.extend(lease.suspect().filter(|_| is_trouble));
                lease.finish(&fault)
            }
            false => Effect::default(),
        };
        Ended {
            key,
            model,
            fault,
            effect,
        }
    }

    /// Records a failed attempt, for the log line that follows once it is known what is next.
    pub(super) fn record(
        &mut self,
        ended: Ended,
        status: Option<u16>,
        reason: String,
        log: &mut RequestLog,
    ) {
        let class = ended.fault.class;
        if !self.last.is_final {
            self.last.class = Some(class);
        }
        log.record_failure(class, status, &ended.effect);
        self.pending_failure = Some(Box::new(FailedAttempt {
            pool: Arc::clone(self.pool()),
            key: ended.key,
            attempt: self.state.attempts,
            max_attempts: self.state.max_attempts,
            status,
            fault: ended.fault,
            effect: ended.effect,
            reason,
            model: ended.model,
        }));
    }

    /// Keeps a response that the client may get if no key serves: a rate limit, trouble of the provider, or a refusal of
    /// this very request. Other errors speak of our keys, which is nothing for the client.
    fn got_response(&mut self, response: UpstreamResponse, fault: &Fault, key: &MemberRef) {
        self.must_stop = false;
        if fault.class == Class::TooExpensive {
            self.state.demand.exclude_group_of(key);
        }
        if matches!(
            fault.class,
            Class::RateLimited | Class::UpstreamTrouble | Class::TooExpensive
        ) {
            self.keep(response, key);
        }
    }

    /// Keeps a response for the client.
    pub(super) fn keep(&mut self, response: UpstreamResponse, key: &MemberRef) {
        if self.last.is_final {
            return;
        }
        self.last.error = None;
        self.last.response = Some(LastResponse {
            response,
            entry: Arc::clone(&self.target().entry),
            key: key.clone(),
        });
    }

    fn got_no_response(&mut self, error: UpstreamError) {
        self.must_stop = error.may_have_run && !self.call.repeatable;
        if self.must_stop {
            // An earlier response would tell the client that this call did not run.
            self.last.response = None;
        }
        self.last.error = Some(LastError {
            error,
            pool: Arc::clone(self.pool()),
        });
    }

    /// The attempt has a response to relay. If that turns out to be a success, earlier failures of the same request with
    /// other groups were their keys' own.
    pub(crate) fn answered(
        &mut self,
        lease: Lease,
        response: &UpstreamResponse,
        reserved: CallerReservation,
    ) -> Answering {
        if response.class == Class::Success
            && let Some(seeking) = self.seeking.take()
        {
            seeking.served();
        }
        Answering {
            lease,
            suspects: std::mem::take(&mut self.suspects),
            reserved,
        }
    }

    /// Whether the next target may serve the request after this one could not.
    fn may_try_next_target(&self, reason: NoKeyReason) -> bool {
        let may_follow = match reason {
            NoKeyReason::NoAttemptsLeft
            | NoKeyReason::NoKeyInTime
            | NoKeyReason::QueueFull
            | NoKeyReason::QueueTimeout => true,
            NoKeyReason::NotRepeatable | NoKeyReason::DeadlineExceeded => false,
        };
        may_follow && !self.last.is_final && !self.is_last_target()
    }

    /// Ends the attempts.
    pub(crate) fn conclude(self, reason: NoKeyReason, log: &mut RequestLog) -> Concluded<'a> {
        log.record_no_key(self.pool(), &self.state.demand, reason, self.waited);
        Concluded {
            tried: &self.targets[..=self.target],
            attempts: self.attempts,
            waited: self.waited,
            reason,
            last: self.last,
        }
    }

    /// What follows the last failure: an attempt with `lease`.
    fn step_with(&self, lease: &Lease) -> NextStep {
        let failed = self.pending_failure.as_ref();
        if self.seeking.is_some() {
            NextStep::SecondOpinion
        } else if self.state.attempts == 1 {
            NextStep::NextTarget
        } else if failed.is_some_and(|failed| failed.key.name == lease.member().name) {
            NextStep::SameKey
        } else {
            NextStep::NextKey
        }
    }

    /// Logs the last failure, now that it is known what follows.
    fn log_failure(&mut self, log: &RequestLog, next: NextStep) {
        let Some(failed) = self.pending_failure.take() else {
            return;
        };
        let telemetry = &self.gw.telemetry;
        telemetry.attempt_failed(log.request_id(), &failed, next);
        if failed.effect.cooldown.is_some() || failed.fault.class == Class::Rejected {
            telemetry
                .health
                .after_failure(&failed.pool, self.gw.clock.now());
        }
    }
}
