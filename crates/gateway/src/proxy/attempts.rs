//! The attempts of one request: how many, with which key next, how long to wait for one, what failed so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::fault::Class;
use keypool_core::pool::{Consequence, Demand, Handoff, Lease, Outlook, Pool};
use tokio::time::sleep_until;

use super::affinity;
use super::answer::{Answer, Failure, Trouble};
use super::auth::Caller;
use super::call::Call;
use super::route::Route;
use super::story::Story;
use crate::context::Gateway;
use crate::snapshot::PoolEntry;
use crate::telemetry::FailedAttempt;

pub(super) struct Attempts<'a> {
    gw: &'a Gateway,
    caller: &'a Caller,
    call: &'a Call<'a>,
    /// The targets; all before the first are done with.
    routes: &'a [Route],
    at: usize,
    here: Here,
    /// Over all targets, as the deadline and what was waited.
    made: u32,
    /// To the first byte of the answer: the first target's `timeouts.total`.
    deadline: Instant,
    waited: Duration,
    last: Last,
    must_stop: bool,
}

/// The attempts on one target.
struct Here {
    demand: Demand,
    made: u32,
    max: u32,
    waited: Duration,
}

impl Here {
    fn at(route: &Route, call: &Call<'_>, caller: &Caller) -> Self {
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
pub(super) struct Last {
    /// The class of the last failure.
    pub(super) class: Option<Class>,
    /// The last answer that a client may be shown, and whose it is.
    pub(super) answer: Option<(Answer, PoolEntry, usize)>,
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
        gw: &'a Gateway,
        call: &'a Call<'a>,
        routes: &'a [Route],
        caller: &'a Caller,
    ) -> Self {
        Self {
            gw,
            caller,
            call,
            routes,
            at: 0,
            here: Here::at(&routes[0], call, caller),
            made: 0,
            deadline: gw.clock.now() + routes[0].entry.pool.settings().timeouts.total,
            waited: Duration::ZERO,
            last: Last::default(),
            must_stop: false,
        }
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
    pub(super) fn route(&self) -> &'a Route {
        &self.routes[self.at]
    }

    /// The targets that were tried.
    pub(super) fn tried(&self) -> &'a [Route] {
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

    pub(super) fn into_last(self) -> Last {
        self.last
    }

    /// The key for the next attempt: free now, or waited for; of the next target where this one has none left.
    pub(super) async fn next_key(&mut self) -> Result<Lease, Stop> {
        loop {
            match self.next_key_here().await {
                Err(stop) if stop.is_of_this_target() && !self.is_last_target() => {
                    self.at += 1;
                    self.here = Here::at(self.route(), self.call, self.caller);
                }
                outcome => return outcome,
            }
        }
    }

    async fn next_key_here(&mut self) -> Result<Lease, Stop> {
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
        let lease = match self.pool().acquire(&self.here.demand) {
            Some(lease) => lease,
            None => {
                let queued = Box::pin(self.wait_for_key(began)).await;
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
        Ok(lease)
    }

    async fn wait_for_key(&self, began: Instant) -> Result<Lease, Stop> {
        let (pool, demand) = (self.pool(), &self.here.demand);
        let may_wait = pool.settings().queue.timeout;
        let queue_ends = began + may_wait.saturating_sub(self.here.waited);
        let give_up = queue_ends.min(self.deadline);
        if !self.is_worth_waiting(pool.outlook(demand), give_up) {
            return Err(Stop::NoKey);
        }
        let mut ticket = pool
            .join(demand, &self.caller.line())
            .map_err(|_| Stop::QueueFull)?;
        loop {
            let changed = pool.rests_changed();
            tokio::pin!(changed);
            // Registered before looking, so that no change falls between.
            changed.as_mut().enable();
            let outlook = pool.outlook(demand);
            let look_again = outlook.at.map_or(give_up, |at| at.min(give_up));
            tokio::select! {
                biased;
                handoff = &mut ticket.handoff => return match handoff {
                    Ok(Handoff::Lease(lease)) => Ok(lease),
                    Ok(Handoff::Refused) | Err(_) => Err(Stop::QueueFull),
                },
                () = std::future::ready(()), if !self.is_worth_waiting(outlook, give_up) => return Err(Stop::NoKey),
                () = changed => {}
                () = sleep_until(look_again.into()) => match self.gw.clock.now() {
                    now if now < give_up => pool.serve_waiting(),
                    _ if give_up == self.deadline => return Err(Stop::Deadline),
                    _ => return Err(Stop::QueueTimeout),
                },
            }
        }
    }

    /// A key in use is waited for. One that rests is not where another target follows: this one has no key left.
    fn is_worth_waiting(&self, outlook: Outlook, give_up: Instant) -> bool {
        outlook.busy || (self.is_last_target() && outlook.comes_before(give_up))
    }

    /// Books a failed attempt: what it means for the key, what the client may be shown, what is done next.
    pub(super) fn failed(&mut self, lease: Lease, failure: Failure, story: &mut Story) {
        let Failure {
            fault,
            answer,
            trouble,
            reason,
            fate_unknown,
            cut_short,
        } = failure;
        // Closed before the slot is given back, so that the provider does not count both.
        let answer = answer.map(Answer::kept);
        let pool = self.pool();
        let backoff = pool.settings().retry.backoff;
        self.here
            .demand
            .note_failure(lease.place(), self.gw.clock.now() + backoff);
        self.must_stop = fate_unknown && !self.call.repeatable;
        let (place, key_name) = (lease.place(), Arc::clone(&lease.member().name));
        let event = FailedAttempt {
            request_id: story.request_id(),
            attempt: self.here.made,
            max_attempts: self.here.max,
            status: answer.as_ref().map(Answer::status),
            fault: &fault,
            reason,
            number: lease.place() + 1,
            key_name: &key_name,
            model: &lease.model().clone(),
            pool: pool.name(),
        };
        // A key that got only what others had left of the request's time is not to blame for not answering in it.
        let consequence = if cut_short {
            Consequence::default()
        } else {
            lease.failed(&fault)
        };
        event.log(&consequence, self.what_next());
        story.attempt_failed(
            fault.class,
            answer.as_ref().map(Answer::status),
            &consequence,
        );
        if consequence.rests_for.is_some() || fault.class == Class::Rejected {
            self.gw.trouble.look_at(pool, self.gw.clock.now());
        }
        self.last.class = Some(fault.class);
        if matches!(fault.class, Class::RateLimited | Class::UpstreamTrouble) {
            self.last.trouble = trouble;
            if self.must_stop {
                // An earlier answer would tell the client that this call was not run.
                self.last.answer = None;
            } else if let Some(answer) = answer {
                self.last.answer = Some((answer, self.route().entry.clone(), place));
            }
        }
    }

    fn what_next(&self) -> &'static str {
        if self.must_stop {
            "the call may have been taken on, so it is not repeated"
        } else if self.here.made < self.here.max {
            "the next key is tried"
        } else if self.is_last_target() {
            "no attempts are left"
        } else {
            "the route's next target is tried"
        }
    }
}
