//! The waiting queue of a pool: bounded, fair between callers, first come first served within one. Requests that a client
//! waits for come before jobs, except that every tenth free key goes to a job.
//!
//! A key that becomes free is handed to the waiting request itself: there is nothing to race for, and no polling.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{futures::Notified, oneshot};

use super::{Demand, Leased, Pool};

/// What fairness is measured by: requests with the same key share one queue.
pub type FairnessKey = Arc<str>;

/// The id of a ticket that was served before it was queued.
const NOT_QUEUED: u64 = u64::MAX;

/// What a waiting request gets.
#[derive(Debug)]
pub enum Handoff {
    /// A key.
    Lease(Leased),
    /// Nothing: the pool's queue is full, and this request was the newest of the caller with the most waiting.
    Evicted,
}

/// The pool's queue is full, and this caller has the most requests waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Who waits for the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// A client.
    #[default]
    Interactive,
    /// Nobody: it is a job. The bound of the queue is not for jobs, since what runs them has one.
    Job,
}

/// Number of keys that go to clients' requests before one goes to a job, if both wait.
const INTERACTIVE_FIRST: u32 = 9;

/// The queues of both lanes.
#[derive(Default)]
pub(super) struct WaitQueues {
    interactive: CallerQueues,
    jobs: CallerQueues,
    /// Number of keys that went to clients' requests since one went to a job.
    since_job: u32,
    next_id: u64,
}

/// The queues of all callers in one lane.
#[derive(Default)]
struct CallerQueues {
    /// Callers in the order in which they are served.
    order: VecDeque<FairnessKey>,
    by_caller: HashMap<FairnessKey, VecDeque<Waiter>>,
    /// Number of waiting requests.
    length: usize,
}

/// One pass over the waiting requests, in which nothing becomes free.
#[derive(Default)]
struct Pass {
    /// Models for which no key was found. Other demands that depend on the model only need not be tried.
    unservable: HashSet<Arc<str>>,
    undelivered: Vec<Handoff>,
    /// How many requests left the queue.
    gone: usize,
}

struct Waiter {
    id: u64,
    demand: Demand,
    handoff: oneshot::Sender<Handoff>,
}

/// A request's place in the queue. Dropping it leaves the queue.
pub struct Ticket {
    pool: Arc<Pool>,
    lane: Lane,
    caller: FairnessKey,
    id: u64,
    /// Yields the key, or the refusal. Await it by `&mut`.
    pub handoff: oneshot::Receiver<Handoff>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.pool.queues.lock();
        let queue = queues.lane(self.lane);
        if queue.remove(&self.caller, self.id).is_some() {
            self.pool.wait_signal.remove(1);
        }
    }
}

impl Pool {
    /// Number of requests that wait for a key.
    pub fn waiting(&self) -> usize {
        self.wait_signal.count()
    }

    /// Completes when a cooldown of one of the keys starts or is cleared, or when the keys change. Enable it before
    /// looking at the pool.
    pub fn cooldowns_changed(&self) -> Notified<'_> {
        self.wait_signal.changed()
    }

    /// Joins the queue. The ticket may hold a key at once, if one is free that no earlier request can use.
    ///
    /// A full queue makes room by evicting the newest request of the caller with the most waiting. Lowering
    /// `max_waiting` evicts nobody: the queue takes no newcomers until it is short enough.
    pub fn join(
        self: &Arc<Self>,
        demand: &Demand,
        caller: &FairnessKey,
        lane: Lane,
    ) -> Result<Ticket, QueueFull> {
        let (sender, handoff) = oneshot::channel();
        let ticket = |id| Ticket {
            pool: Arc::clone(self),
            lane,
            caller: Arc::clone(caller),
            id,
            handoff,
        };
        // Keys for requests that left in this very moment. They are given back outside the lock.
        let mut undelivered = Vec::new();
        let mut queues = self.queues.lock();
        let mut refused = None;
        let max_waiting = self.keys.load().settings.queue.max_waiting;
        if lane == Lane::Interactive && queues.interactive.length >= max_waiting {
            // Requests that wait for other models must not keep this one from a key that is free for it.
            undelivered = self.serve(&mut queues);
            if let Some(leased) = self.pick(&self.keys.load(), demand, self.clock.now()) {
                drop(queues);
                // Cannot fail: the receiver is in the ticket.
                let _ = sender.send(Handoff::Lease(leased));
                return Ok(ticket(NOT_QUEUED));
            }
            match queues.interactive.length.cmp(&max_waiting) {
                Ordering::Less => {}
                Ordering::Equal => {
                    let evicted = queues.interactive.make_room_for(caller);
                    refused = Some(evicted.ok_or(QueueFull)?);
                    self.wait_signal.remove(1);
                }
                Ordering::Greater => return Err(QueueFull),
            }
        }
        let id = queues.next_id;
        queues.next_id += 1;
        let waiter = Waiter {
            id,
            demand: demand.clone(),
            handoff: sender,
        };
        queues.lane(lane).push(caller, waiter);
        self.wait_signal.add();
        drop(queues);
        drop(undelivered);
        if let Some(waiter) = refused {
            // Fails if that request has just left.
            let _ = waiter.handoff.send(Handoff::Evicted);
        }
        let ticket = ticket(id);
        self.serve_waiting();
        Ok(ticket)
    }

    /// Hands every free key to the waiting requests, in fair order.
    pub fn serve_waiting(self: &Arc<Self>) {
        let mut queues = self.queues.lock();
        let undelivered = self.serve(&mut queues);
        drop(queues);
        drop(undelivered);
    }

    /// Returns keys for requests that left in this very moment, to be dropped outside the lock.
    fn serve(self: &Arc<Self>, queues: &mut WaitQueues) -> Vec<Handoff> {
        let (keys, now) = (self.keys.load(), self.clock.now());
        let pass = queues.serve(|demand| self.pick(&keys, demand, now));
        self.wait_signal.remove(pass.gone);
        pass.undelivered
    }
}

impl WaitQueues {
    fn lane(&mut self, lane: Lane) -> &mut CallerQueues {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Job => &mut self.jobs,
        }
    }

    /// Serves requests until nobody can be served.
    fn serve(&mut self, mut pick: impl FnMut(&Demand) -> Option<Leased>) -> Pass {
        let mut pass = Pass::default();
        // How many callers of each lane had their turn without a key.
        let (mut interactive, mut jobs) = (0, 0);
        loop {
            let is_jobs_turn = self.since_job >= INTERACTIVE_FIRST;
            if is_jobs_turn && self.jobs.serve_one(&mut jobs, &mut pick, &mut pass) {
                self.since_job = 0;
            } else if self
                .interactive
                .serve_one(&mut interactive, &mut pick, &mut pass)
            {
                self.since_job = self.since_job.saturating_add(1);
            } else if self.jobs.serve_one(&mut jobs, &mut pick, &mut pass) {
                self.since_job = 0;
            } else {
                return pass;
            }
        }
    }
}

impl CallerQueues {
    fn push(&mut self, caller: &FairnessKey, waiter: Waiter) {
        let queue = self.by_caller.entry(Arc::clone(caller)).or_default();
        if queue.is_empty() {
            self.order.push_back(Arc::clone(caller));
        }
        queue.push_back(waiter);
        self.length += 1;
    }

    fn remove(&mut self, caller: &FairnessKey, id: u64) -> Option<Waiter> {
        let queue = self.by_caller.get_mut(caller)?;
        let at = queue.iter().position(|waiter| waiter.id == id)?;
        let waiter = queue.remove(at);
        self.length -= 1;
        self.forget_if_empty(caller);
        waiter
    }

    fn forget_if_empty(&mut self, caller: &FairnessKey) {
        if self.by_caller.get(caller).is_some_and(VecDeque::is_empty) {
            self.by_caller.remove(caller);
            self.order.retain(|other| other != caller);
        }
    }

    /// Makes room for one more request of `caller`: takes out the newest request of the caller with the most waiting.
    /// `None` if that is the newcomer itself.
    fn make_room_for(&mut self, caller: &FairnessKey) -> Option<Waiter> {
        let own = self.by_caller.get(caller).map_or(0, VecDeque::len) + 1;
        let longest = self
            .by_caller
            .iter()
            .max_by_key(|(_, queue)| queue.len())
            .filter(|(_, queue)| queue.len() > own);
        let longest = Arc::clone(longest?.0);
        let waiter = self.by_caller.get_mut(&longest)?.pop_back();
        self.length -= 1;
        self.forget_if_empty(&longest);
        waiter
    }

    /// Gives one key to the first caller in turn that can be served; its next turn comes after everybody else's. `next`:
    /// the number of callers that had their turn in this pass without a key.
    fn serve_one(
        &mut self,
        next: &mut usize,
        mut pick: impl FnMut(&Demand) -> Option<Leased>,
        pass: &mut Pass,
    ) -> bool {
        while *next < self.order.len() {
            let caller = Arc::clone(&self.order[*next]);
            let Some(queue) = self.by_caller.get_mut(&caller) else {
                break;
            };
            let before = queue.len();
            queue.retain(|waiter| !waiter.handoff.is_closed());
            let served = queue.iter().position(|waiter| {
                let depends_on_model_only = waiter.demand.depends_on_model_only();
                if depends_on_model_only && pass.unservable.contains(&waiter.demand.model) {
                    return false;
                }
                match pick(&waiter.demand) {
                    Some(leased) => {
                        pass.undelivered.push(Handoff::Lease(leased));
                        true
                    }
                    None => {
                        if depends_on_model_only {
                            pass.unservable.insert(Arc::clone(&waiter.demand.model));
                        }
                        false
                    }
                }
            });
            let waiter = served.and_then(|at| queue.remove(at));
            let gone = before - queue.len();
            pass.gone += gone;
            self.length -= gone;
            let is_served = waiter.is_some();
            if let Some(waiter) = waiter {
                deliver(waiter, &mut pass.undelivered);
                self.order.remove(*next);
                self.order.push_back(Arc::clone(&caller));
            }
            let callers = self.order.len();
            self.forget_if_empty(&caller);
            if is_served {
                return true;
            }
            // Of a caller that is gone, the next one has the place.
            *next += usize::from(self.order.len() == callers);
        }
        false
    }
}

/// Hands the newest lease in `undelivered` to the waiting request. If that request has just left, the lease stays there,
/// to be dropped outside the lock.
fn deliver(waiter: Waiter, undelivered: &mut Vec<Handoff>) {
    if let Some(handoff) = undelivered.pop()
        && let Err(back) = waiter.handoff.send(handoff)
    {
        undelivered.push(back);
    }
}
