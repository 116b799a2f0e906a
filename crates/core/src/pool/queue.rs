//! The waiting queue of a pool: bounded, fair between callers, first come first served within one.
//!
//! A key that becomes free is handed to the waiting request itself: there is nothing to race for, and no polling.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{futures::Notified, oneshot};

use super::{Demand, Lease, Pool};

/// Who waits: requests of one caller stand in one line.
pub type Caller = Arc<str>;

/// The id of a ticket that was served before it stood in a line.
const NOT_IN_LINE: u64 = u64::MAX;

/// What a waiting request gets.
#[derive(Debug)]
pub enum Handoff {
    /// A key.
    Lease(Lease),
    /// Its index was given up: the queue is full, and its caller had the most waiting.
    Refused,
}

/// The queue is full, and this caller has the most waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// The lines of all callers.
#[derive(Default)]
pub(super) struct Lines {
    /// Callers in the order of their turns.
    turns: VecDeque<Caller>,
    by_caller: HashMap<Caller, VecDeque<Waiter>>,
    next_id: u64,
}

struct Waiter {
    id: u64,
    demand: Demand,
    handoff: oneshot::Sender<Handoff>,
}

/// A index in the queue; dropped, it is given up.
pub struct Ticket {
    pool: Arc<Pool>,
    caller: Caller,
    id: u64,
    /// Yields the key, or the refusal. Await it by `&mut`.
    pub handoff: oneshot::Receiver<Handoff>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut lines = self.pool.lines.lock();
        if lines.remove(&self.caller, self.id).is_some() {
            self.pool.availability.remove_waiting(1);
        }
    }
}

impl Pool {
    /// How many requests wait for a key.
    pub fn waiting(&self) -> usize {
        self.availability.waiting()
    }

    /// Ends when a rest of one of the keys is set or cleared. Enable it before looking at the pool.
    pub fn cooldowns_changed(&self) -> Notified<'_> {
        self.availability.changed()
    }

    /// Joins the queue. The ticket may hold a key at once, if one is free and nobody before it can use it.
    pub fn join(self: &Arc<Self>, demand: &Demand, caller: &Caller) -> Result<Ticket, QueueFull> {
        let (sender, handoff) = oneshot::channel();
        let ticket = |id| Ticket {
            pool: Arc::clone(self),
            caller: Arc::clone(caller),
            id,
            handoff,
        };
        let mut returned = Vec::new();
        let mut lines = self.lines.lock();
        let mut refused = None;
        if self.waiting() >= self.settings.queue.max_waiting {
            // Those who wait for other models must not keep this one from a key that is free for it.
            self.serve_lines(&mut lines, &mut returned);
            if let Some(lease) = self.pick(demand, self.clock.now()) {
                drop(lines);
                // The receiver is in the ticket, so this reaches it.
                let _ = sender.send(Handoff::Lease(lease));
                return Ok(ticket(NOT_IN_LINE));
            }
            if self.waiting() >= self.settings.queue.max_waiting {
                refused = Some(lines.give_up_for(caller).ok_or(QueueFull)?);
                self.availability.remove_waiting(1);
            }
        }
        let id = lines.push(caller, demand.clone(), sender);
        self.availability.add_waiting();
        drop(lines);
        drop(returned);
        if let Some(waiter) = refused {
            // Gone already, if it fails.
            let _ = waiter.handoff.send(Handoff::Refused);
        }
        let ticket = ticket(id);
        self.serve_waiting();
        Ok(ticket)
    }

    /// Hands every key that is free to the requests that wait, in fair order.
    pub fn serve_waiting(self: &Arc<Self>) {
        // Keys whose taker left in this very moment; given back outside the lock.
        let mut returned = Vec::new();
        let mut lines = self.lines.lock();
        self.serve_lines(&mut lines, &mut returned);
        drop(lines);
        drop(returned);
    }

    fn serve_lines(self: &Arc<Self>, lines: &mut Lines, returned: &mut Vec<Handoff>) {
        let now = self.clock.now();
        let served = lines.serve(|demand| self.pick(demand, now), returned);
        self.availability.remove_waiting(served);
    }
}

impl Lines {
    fn push(&mut self, caller: &Caller, demand: Demand, handoff: oneshot::Sender<Handoff>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let line = self.by_caller.entry(Arc::clone(caller)).or_default();
        if line.is_empty() {
            self.turns.push_back(Arc::clone(caller));
        }
        line.push_back(Waiter {
            id,
            demand,
            handoff,
        });
        id
    }

    fn remove(&mut self, caller: &Caller, id: u64) -> Option<Waiter> {
        let line = self.by_caller.get_mut(caller)?;
        let at = line.iter().position(|waiter| waiter.id == id)?;
        let waiter = line.remove(at);
        self.forget_if_empty(caller);
        waiter
    }

    fn forget_if_empty(&mut self, caller: &Caller) {
        if self.by_caller.get(caller).is_some_and(VecDeque::is_empty) {
            self.by_caller.remove(caller);
            self.turns.retain(|turn| turn != caller);
        }
    }

    /// Makes room for one more of `caller`: the newest of the caller with most waiting goes.
    /// `None` if that is the newcomer itself.
    fn give_up_for(&mut self, caller: &Caller) -> Option<Waiter> {
        let own = self.by_caller.get(caller).map_or(0, VecDeque::len) + 1;
        let longest = self
            .by_caller
            .iter()
            .max_by_key(|(_, line)| line.len())
            .filter(|(_, line)| line.len() > own);
        let longest = Arc::clone(longest?.0);
        let waiter = self.by_caller.get_mut(&longest)?.pop_back();
        self.forget_if_empty(&longest);
        waiter
    }

    /// Goes round the callers, one key a turn, until nobody can be served; says how many waiters left the queue.
    fn serve(
        &mut self,
        mut pick: impl FnMut(&Demand) -> Option<Lease>,
        returned: &mut Vec<Handoff>,
    ) -> usize {
        let mut gone = 0;
        // Demands without tried keys, for any group, differ in the model only: what failed once need not be looked for again.
        let mut in_vain: HashSet<Arc<str>> = HashSet::new();
        let mut turn = 0;
        while turn < self.turns.len() {
            let caller = Arc::clone(&self.turns[turn]);
            let Some(line) = self.by_caller.get_mut(&caller) else {
                break;
            };
            let before = line.len();
            line.retain(|waiter| !waiter.handoff.is_closed());
            gone += before - line.len();
            let served = line.iter().position(|waiter| {
                let simple = waiter.demand.is_plain();
                if simple && in_vain.contains(&waiter.demand.model) {
                    return false;
                }
                match pick(&waiter.demand) {
                    Some(lease) => {
                        returned.push(Handoff::Lease(lease));
                        true
                    }
                    None => {
                        if simple {
                            in_vain.insert(Arc::clone(&waiter.demand.model));
                        }
                        false
                    }
                }
            });
            match served.and_then(|at| line.remove(at)) {
                Some(waiter) => {
                    gone += 1;
                    hand_over(waiter, returned);
                    self.turns.remove(turn);
                    self.turns.push_back(Arc::clone(&caller));
                }
                None => turn += 1,
            }
            let turns = self.turns.len();
            self.forget_if_empty(&caller);
            if served.is_none() && self.turns.len() < turns {
                turn -= 1;
            }
        }
        gone
    }
}

/// Sends the last of `returned` to the waiter; it stays there if the waiter left in this moment.
fn hand_over(waiter: Waiter, returned: &mut Vec<Handoff>) {
    if let Some(handoff) = returned.pop()
        && let Err(back) = waiter.handoff.send(handoff)
    {
        returned.push(back);
    }
}
