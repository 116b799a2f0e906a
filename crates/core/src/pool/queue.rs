//! The waiting queue of a pool: bounded, fair between callers, first come first served within one.
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

/// The queues of all callers.
#[derive(Default)]
pub(super) struct WaitQueues {
    /// Callers in the order in which they are served.
    order: VecDeque<FairnessKey>,
    by_caller: HashMap<FairnessKey, VecDeque<Waiter>>,
    next_id: u64,
}

struct Waiter {
    id: u64,
    demand: Demand,
    handoff: oneshot::Sender<Handoff>,
}

/// A request's place in the queue. Dropping it leaves the queue.
pub struct Ticket {
    pool: Arc<Pool>,
    caller: FairnessKey,
    id: u64,
    /// Yields the key, or the refusal. Await it by `&mut`.
    pub handoff: oneshot::Receiver<Handoff>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.pool.queues.lock();
        if queues.remove(&self.caller, self.id).is_some() {
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
    ) -> Result<Ticket, QueueFull> {
        let (sender, handoff) = oneshot::channel();
        let ticket = |id| Ticket {
            pool: Arc::clone(self),
            caller: Arc::clone(caller),
            id,
            handoff,
        };
        let mut undelivered = Vec::new();
        let mut queues = self.queues.lock();
        let mut refused = None;
        let max_waiting = self.keys.load().settings.queue.max_waiting;
        if self.waiting() >= max_waiting {
            // Requests that wait for other models must not keep this one from a key that is free for it.
            self.serve(&mut queues, &mut undelivered);
            if let Some(leased) = self.pick(&self.keys.load(), demand, self.clock.now()) {
                drop(queues);
                // Cannot fail: the receiver is in the ticket.
                let _ = sender.send(Handoff::Lease(leased));
                return Ok(ticket(NOT_QUEUED));
            }
            match self.waiting().cmp(&max_waiting) {
                Ordering::Less => {}
                Ordering::Equal => {
                    refused = Some(queues.make_room_for(caller).ok_or(QueueFull)?);
                    self.wait_signal.remove(1);
                }
                Ordering::Greater => return Err(QueueFull),
            }
        }
        let id = queues.push(caller, demand.clone(), sender);
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
        // Keys for requests that left in this very moment. They are given back outside the lock.
        let mut undelivered = Vec::new();
        let mut queues = self.queues.lock();
        self.serve(&mut queues, &mut undelivered);
        drop(queues);
        drop(undelivered);
    }

    fn serve(self: &Arc<Self>, queues: &mut WaitQueues, undelivered: &mut Vec<Handoff>) {
        let (keys, now) = (self.keys.load(), self.clock.now());
        let gone = queues.serve(|demand| self.pick(&keys, demand, now), undelivered);
        self.wait_signal.remove(gone);
    }
}

impl WaitQueues {
    fn push(
        &mut self,
        caller: &FairnessKey,
        demand: Demand,
        handoff: oneshot::Sender<Handoff>,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let queue = self.by_caller.entry(Arc::clone(caller)).or_default();
        if queue.is_empty() {
            self.order.push_back(Arc::clone(caller));
        }
        queue.push_back(Waiter {
            id,
            demand,
            handoff,
        });
        id
    }

    fn remove(&mut self, caller: &FairnessKey, id: u64) -> Option<Waiter> {
        let queue = self.by_caller.get_mut(caller)?;
        let at = queue.iter().position(|waiter| waiter.id == id)?;
        let waiter = queue.remove(at);
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
        self.forget_if_empty(&longest);
        waiter
    }

    /// Serves the callers in turn, one key each, until nobody can be served. Returns how many requests left the queue.
    fn serve(
        &mut self,
        mut pick: impl FnMut(&Demand) -> Option<Leased>,
        undelivered: &mut Vec<Handoff>,
    ) -> usize {
        let mut gone = 0;
        // Models for which no key was found. Other demands that depend on the model only need not be tried.
        let mut unservable: HashSet<Arc<str>> = HashSet::new();
        let mut next = 0;
        while next < self.order.len() {
            let caller = Arc::clone(&self.order[next]);
            let Some(queue) = self.by_caller.get_mut(&caller) else {
                break;
            };
            let before = queue.len();
            queue.retain(|waiter| !waiter.handoff.is_closed());
            gone += before - queue.len();
            let served = queue.iter().position(|waiter| {
                let depends_on_model_only = waiter.demand.depends_on_model_only();
                if depends_on_model_only && unservable.contains(&waiter.demand.model) {
                    return false;
                }
                match pick(&waiter.demand) {
                    Some(leased) => {
                        undelivered.push(Handoff::Lease(leased));
                        true
                    }
                    None => {
                        if depends_on_model_only {
                            unservable.insert(Arc::clone(&waiter.demand.model));
                        }
                        false
                    }
                }
            });
            match served.and_then(|at| queue.remove(at)) {
                Some(waiter) => {
                    gone += 1;
                    deliver(waiter, undelivered);
                    self.order.remove(next);
                    self.order.push_back(Arc::clone(&caller));
                }
                None => next += 1,
            }
            let callers = self.order.len();
            self.forget_if_empty(&caller);
            if served.is_none() && self.order.len() < callers {
                next -= 1;
            }
        }
        gone
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
