//! The attempts of one request: how many, with which key next, how long to wait for one, what failed so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::fault::Class;
use keypool_core::pool::{Consequence, Demand, Handoff, Lease, Pool};
use tokio::time::sleep_until;

use super::answer::{Answer, Failure, Trouble};
use super::auth::Caller;
use super::call::Call;
use super::story::Story;
use crate::context::Gateway;
use crate::telemetry::FailedAttempt;

pub(super) struct Attempts<'a> {
    gw: &'a Gateway,
    pool: &'a Arc<Pool>,
    caller: &'a Caller,
    demand: Demand,
    made: u32,
    max: u32,
    /// To the first byte of the answer, over all attempts and waits.
    deadline: Instant,
    waited: Duration,
    last: Last,
    must_stop: bool,
}

/// What the attempts came to so far.
#[derive(Default)]
pub(super) struct Last {
    /// The class of the last failure.
    pub(super) class: Option<Class>,
    /// The last answer that a client may be shown.
    pub(super) answer: Option<Answer>,
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
    pub(super) fn new(
        gw: &'a Gateway,
        pool: &'a Arc<Pool>,
        demand: Demand,
        caller: &'a Caller,
    ) -> Self {
        Self {
            gw,
            pool,
            caller,
            demand,
            made: 0,
            max: pool.max_attempts(),
            deadline: gw.clock.now() + pool.settings().timeouts.total,
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

    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.pool
    }

    pub(super) fn demand(&self) -> &Demand {
        &self.demand
    }

    pub(super) fn into_last(self) -> Last {
        self.last
    }

    /// The key for the next attempt: free now, or waited for.
    pub(super) async fn next_key(&mut self) -> Result<Lease, Stop> {
        if self.must_stop {
            return Err(Stop::MustNotRepeat);
        }
        if self.made > 0 && self.made >= self.max {
            return Err(Stop::OutOfAttempts);
        }
        let began = self.gw.clock.now();
        if began >= self.deadline {
            return Err(Stop::Deadline);
        }
        let lease = match self.pool.acquire(&self.demand) {
            Some(lease) => lease,
            None => {
                let queued = Box::pin(self.wait_for_key(began)).await;
                self.waited += self.gw.clock.now().saturating_duration_since(began);
                queued?
            }
        };
        if self.gw.clock.now() >= self.deadline {
            // Handed over too late: the lease goes back, and nobody is blamed.
            return Err(Stop::Deadline);
        }
        self.made += 1;
        Ok(lease)
    }

    async fn wait_for_key(&self, began: Instant) -> Result<Lease, Stop> {
        let queue_ends = began
            + self
                .pool
                .settings()
                .queue
                .timeout
                .saturating_sub(self.waited);
        let give_up = queue_ends.min(self.deadline);
        if !self.pool.outlook(&self.demand).comes_before(give_up) {
            return Err(Stop::NoKey);
        }
        let mut ticket = self
            .pool
            .join(&self.demand, &self.caller.line())
            .map_err(|_| Stop::QueueFull)?;
        loop {
            let changed = self.pool.rests_changed();
            tokio::pin!(changed);
            // Registered before looking, so that no change falls between.
            changed.as_mut().enable();
            let outlook = self.pool.outlook(&self.demand);
            let look_again = outlook.at.map_or(give_up, |at| at.min(give_up));
            tokio::select! {
                biased;
                handoff = &mut ticket.handoff => return match handoff {
                    Ok(Handoff::Lease(lease)) => Ok(lease),
                    Ok(Handoff::Refused) | Err(_) => Err(Stop::QueueFull),
                },
                () = std::future::ready(()), if !outlook.comes_before(give_up) => return Err(Stop::NoKey),
                () = changed => {}
                () = sleep_until(look_again.into()) => match self.gw.clock.now() {
                    now if now < give_up => self.pool.serve_waiting(),
                    _ if give_up == self.deadline => return Err(Stop::Deadline),
                    _ => return Err(Stop::QueueTimeout),
                },
            }
        }
    }

    /// Books a failed attempt: what it means for the key, what the client may be shown, what is done next.
    pub(super) fn failed(
        &mut self,
        lease: Lease,
        failure: Failure,
        call: &Call<'_>,
        story: &mut Story,
    ) {
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
        let backoff = self.pool.settings().retry.backoff;
        self.demand
            .note_failure(lease.place(), self.gw.clock.now() + backoff);
        self.must_stop = fate_unknown && !call.repeatable;
        let event = FailedAttempt {
            request_id: story.request_id(),
            attempt: self.made,
            max_attempts: self.max,
            status: answer.as_ref().map(Answer::status),
            fault: &fault,
            reason,
            number: lease.place() + 1,
            key_name: &lease.member().name.clone(),
            model: &lease.model().clone(),
            pool: self.pool.name(),
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
            self.gw.trouble.look_at(self.pool, self.gw.clock.now());
        }
        self.last.class = Some(fault.class);
        if matches!(fault.class, Class::RateLimited | Class::UpstreamTrouble) {
            self.last.trouble = trouble;
            if self.must_stop {
                // An earlier answer would tell the client that this call was not run.
                self.last.answer = None;
            } else if let Some(answer) = answer {
                self.last.answer = Some(answer);
            }
        }
    }

    fn what_next(&self) -> &'static str {
        if self.must_stop {
            "the call may have been taken on, so it is not repeated"
        } else if self.made >= self.max {
            "no attempts are left"
        } else {
            "the next key is tried"
        }
    }
}
