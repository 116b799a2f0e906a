//! The attempts of one request: how many, with which key next, how long to wait for one, what failed so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::fault::Class;
use keypool_core::pool::{
    Demand, Effect, Handoff, Lease, Leased, MemberRef, NextAvailable, Pool, Ticket,
};
use tokio::time::sleep_until;

use super::affinity;
use super::auth::Caller;
use super::call::Call;
use super::request_log::RequestLog;
use super::response::{Answer, Failure, Trouble};
use super::route::PoolTarget;
use crate::context::Gateway;
use crate::snapshot::PoolEntry;
use crate::telemetry::FailedAttempt;

pub(super) struct Attempts<'a> {
    gw: &'a Arc<Gateway>,
    caller: &'a Caller,
    call: &'a Call<'a>,
    /// The targets; all before the first are done with.
    routes: &'a [PoolTarget],
    at: usize,
    here: TargetState,
    /// Over all targets, as the deadline and what was waited.
    made: u32,
    /// To the first byte of the answer: the first target's `timeouts.total`.
    deadline: Instant,
    waited: Duration,
    last: LastFailure,
    must_stop: bool,
    /// The last failure: the log does not have it until it is known what is done about it.
    pending_failure: Option<Box<FailedAttempt>>,
}

/// The attempts on one target.
struct TargetState {
    demand: Demand,
    made: u32,
    max: u32,
    waited: Duration,
}

impl TargetState {
    fn at(route: &PoolTarget, call: &Call<'_>, caller: &Caller) -> Self {
        let demand = Demand {
            conversation: affinity::conversation(call, route, caller),
            ..route.demand()
        };
        Self {
            made: 0,
            max: route.entry.pool.max_attempts(&demand),
            waited: Duration::ZERO,
            demand,
        }
    }
}

/// What the attempts came to so far.
#[derive(Default)]
pub(super) struct LastFailure {
    /// The class of the last failure.
    pub(super) class: Option<Class>,
    /// The last answer that a client may be shown, and whose it is.
    pub(super) answer: Option<(Answer, PoolEntry, MemberRef)>,
    /// Why the last attempt got no answer.
    pub(super) trouble: Option<Trouble>,
}

/// Why no further attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// As many as a request gets.
    OutOfAttempts,
    /// The provider may have taken the call on, and it may not be repeated.
    MustNotRepeat,
    /// No key, and none that will be back in time.
    NoKey,
    /// Too many wait already.
    QueueFull,
    /// It waited for a slot in vain.
    QueueTimeout,
    /// The time for the whole request is up.
    Deadline,
}

impl Stop {
    /// Another target may do better.
    fn is_of_this_target(self) -> bool {
        match self {
            Self::OutOfAttempts | Self::NoKey | Self::QueueFull | Self::QueueTimeout => true,
            Self::MustNotRepeat | Self::Deadline => false,
        }
    }

    /// For the log: why nothing is done about a failed attempt.
    fn what_next(self) -> &'static str {
        match self {
            Self::OutOfAttempts => "no attempts are left",
            Self::MustNotRepeat => "the call may have been taken on, so it is not repeated",
            Self::NoKey => "no other key is back in time",
            Self::QueueFull => "no other key is free, and too many requests wait",
            Self::QueueTimeout | Self::Deadline => "the time for the request is up",
        }
    }

    /// For the trace: why no key was tried (again).
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::OutOfAttempts => "no attempts are left",
            Self::MustNotRepeat => "the call may not be repeated",
            Self::NoKey => "none is back in time",
            Self::QueueFull => "the queue is full",
            Self::QueueTimeout => "none came free in time",
            Self::Deadline => "the time for the request is up",
        }
    }
}

impl<'a> Attempts<'a> {
    /// `routes`: at least one.
    pub(super) fn new(
        gw: &'a Arc<Gateway>,
        call: &'a Call<'a>,
        routes: &'a [PoolTarget],
        caller: &'a Caller,
    ) -> Self {
        Self {
            gw,
            caller,
            call,
            routes,
            at: 0,
            here: TargetState::at(&routes[0], call, caller),
            made: 0,
            deadline: gw.clock.now() + routes[0].entry.pool.settings().timeouts.total,
            waited: Duration::ZERO,
            last: LastFailure::default(),
            must_stop: false,
            pending_failure: None,
        }
    }

    pub(super) fn gateway(&self) -> &'a Arc<Gateway> {
        self.gw
    }

    pub(super) fn call(&self) -> &'a Call<'a> {
        self.call
    }

    pub(super) fn made(&self) -> u32 {
        self.made
    }

    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The target that is being tried.
    pub(super) fn route(&self) -> &'a PoolTarget {
        &self.routes[self.at]
    }

    /// The targets that were tried.
    pub(super) fn tried(&self) -> &'a [PoolTarget] {
        &self.routes[..=self.at]
    }

    fn pool(&self) -> &'a Arc<Pool> {
        &self.route().entry.pool
    }

    fn is_last_target(&self) -> bool {
        self.at + 1 == self.routes.len()
    }

    /// What is asked of the target that was tried last.
    pub(super) fn demand(&self) -> &Demand {
        &self.here.demand
    }

    pub(super) fn into_last(self) -> LastFailure {
        self.last
    }

    /// The key for the next attempt: free now, or waited for; of the next target where this one has none left.
    pub(super) async fn next_key(&mut self, log: &mut RequestLog) -> Result<Leased, Stop> {
        loop {
            match self.next_key_here(log).await {
                Err(stop) if stop.is_of_this_target() && !self.is_last_target() => {
                    log.no_key(self.pool(), self.demand(), stop.why(), self.waited);
                    self.at += 1;
                    self.here = TargetState::at(self.route(), self.call, self.caller);
                }
                outcome => {
                    let next = match &outcome {
                        Ok(leased) => self.what_next(&leased.lease),
                        Err(stop) => stop.what_next(),
                    };
                    self.tell_failure(log, next);
                    return outcome;
                }
            }
        }
    }

    async fn next_key_here(&mut self, log: &RequestLog) -> Result<Leased, Stop> {
        if self.must_stop {
            return Err(Stop::MustNotRepeat);
        }
        if self.here.made > 0 && self.here.made >= self.here.max {
            return Err(Stop::OutOfAttempts);
        }
        let began = self.gw.clock.now();
        if began >= self.deadline {
            return Err(Stop::Deadline);
        }
        let leased = match self.pool().acquire(&self.here.demand) {
            Some(leased) => leased,
            None => {
                let give_up = self.waits_until(began);
                let ticket = self.join_queue(give_up)?;
                self.tell_failure(log, "a key is waited for");
                let queued = Box::pin(self.wait_for_key(ticket, give_up)).await;
                let waited = self.gw.clock.now().saturating_duration_since(began);
                self.waited += waited;
                self.here.waited += waited;
                queued?
            }
        };
        if self.gw.clock.now() >= self.deadline {
            // Handed over too late: the lease goes back, and nobody is blamed.
            return Err(Stop::Deadline);
        }
        self.made += 1;
        self.here.made += 1;
        Ok(leased)
    }

    /// The end of what is left of the queue's time and of the request's.
    fn waits_until(&self, began: Instant) -> Instant {
        let may_wait = self.pool().settings().queue.timeout;
        let queue_ends = began + may_wait.saturating_sub(self.here.waited);
        queue_ends.min(self.deadline)
    }

    fn join_queue(&self, give_up: Instant) -> Result<Ticket, Stop> {
        let (pool, demand) = (self.pool(), &self.here.demand);
        if !self.is_worth_waiting(pool.next_available(demand), give_up) {
            return Err(Stop::NoKey);
        }
        pool.join(demand, &self.caller.line())
            .map_err(|_| Stop::QueueFull)
    }

    async fn wait_for_key(&self, mut ticket: Ticket, give_up: Instant) -> Result<Leased, Stop> {
        let (pool, demand) = (self.pool(), &self.here.demand);
        loop {
            let changed = pool.cooldowns_changed();
            tokio::pin!(changed);
            // Registered before looking, so that no change falls between.
            changed.as_mut().enable();
            let next_available = pool.next_available(demand);
            let after_success = next_available
                .cooldown_ends
                .map_or(give_up, |at| at.min(give_up));
            tokio::select! {
                biased;
                handoff = &mut ticket.handoff => return match handoff {
                    Ok(Handoff::Lease(leased)) => Ok(leased),
                    Ok(Handoff::Refused) | Err(_) => Err(Stop::QueueFull),
                },
                () = std::future::ready(()), if !self.is_worth_waiting(next_available, give_up) => return Err(Stop::NoKey),
                () = changed => {}
                () = sleep_until(after_success.into()) => match self.gw.clock.now() {
                    now if now < give_up => pool.serve_waiting(),
                    _ if give_up == self.deadline => return Err(Stop::Deadline),
                    _ => return Err(Stop::QueueTimeout),
                },
            }
        }
    }

    /// A key in use is waited for. One that rests is not where another target follows: this one has no key left.
    fn is_worth_waiting(&self, next_available: NextAvailable, give_up: Instant) -> bool {
        next_available.slot_may_free
            || (self.is_last_target() && next_available.comes_before(give_up))
    }

    /// Books a failed attempt: what it means for the key, and what the client may be shown.
    pub(super) fn failed(&mut self, lease: Lease, failure: Failure, log: &mut RequestLog) {
        let Failure {
            fault,
            answer,
            trouble,
            reason,
            may_have_run,
            cut_short,
        } = failure;
        // Closed before the slot is given back, so that the provider does not count both.
        let answer = answer.map(Answer::kept);
        let pool = self.pool();
        let backoff = pool.settings().retry.backoff;
        self.here
            .demand
            .note_failure(lease.member(), self.gw.clock.now() + backoff);
        self.must_stop = may_have_run && !self.call.repeatable;
        let (key, class) = (lease.member_ref().clone(), fault.class);
        let status = answer.as_ref().map(Answer::status);
        let model = Arc::clone(lease.model());
        // A key that got only what others had left of the request's time is not to blame for not answering in it.
        let effect = if cut_short {
            Effect::default()
        } else {
            lease.finish(&fault)
        };
        log.attempt_failed(class, status, &effect);
        self.pending_failure = Some(Box::new(FailedAttempt {
            pool: Arc::clone(pool),
            key: key.clone(),
            attempt: self.here.made,
            max_attempts: self.here.max,
            status,
            fault,
            effect,
            reason,
            model,
        }));
        self.last.class = Some(class);
        if matches!(class, Class::RateLimited | Class::UpstreamTrouble) {
            self.last.trouble = trouble;
            if self.must_stop {
                // An earlier answer would finish the client that this call was not run.
                self.last.answer = None;
            } else if let Some(answer) = answer {
                self.last.answer = Some((answer, self.route().entry.clone(), key));
            }
        }
    }

    /// What is done about the last failure: an attempt with `lease`.
    fn what_next(&self, lease: &Lease) -> &'static str {
        let failed = self.pending_failure.as_ref();
        if self.here.made == 1 {
            "the route's next target is tried"
        } else if failed.is_some_and(|failed| failed.key.name == lease.member().name) {
            "the same key is tried again"
        } else {
            "the next key is tried"
        }
    }

    /// Logs the last failure, now that it is known what is done about it.
    fn tell_failure(&mut self, log: &RequestLog, next: &str) {
        let Some(failed) = self.pending_failure.take() else {
            return;
        };
        failed.log(log.request_id(), next);
        if failed.effect.cooldown.is_some() || failed.fault.class == Class::Rejected {
            self.gw
                .pool_health
                .after_failure(&failed.pool, self.gw.clock.now());
        }
    }
}
