//! A lease: the right to use one key for one attempt. While it lives, the key counts the call as in flight.

use std::sync::Arc;

use super::{Effect, Member, Pool, Selection};
use crate::fault::{Class, Fault};

/// Move-only. Dropped without a result (the client left), it gives the slot back and blames nobody.
#[must_use = "a lease holds a slot of its key"]
pub struct Lease {
    pool: Arc<Pool>,
    index: usize,
    model: Arc<str>,
    probe: bool,
    decided: bool,
    choice: Selection,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, index: usize, model: Arc<str>, probe: bool) -> Self {
        if let Some(ring) = &pool.ring {
            ring.call_began(index);
        }
        Self {
            pool,
            index,
            model,
            probe,
            decided: false,
            choice: Selection::default(),
        }
    }

    pub(super) fn chosen(mut self, choice: Selection) -> Self {
        self.choice = choice;
        self
    }

    /// Why it is this key. Given away once.
    pub fn take_selection(&mut self) -> Selection {
        std::mem::take(&mut self.choice)
    }

    /// The key and what the pool's configuration says of it.
    pub fn member(&self) -> &Member {
        &self.pool.members[self.index]
    }

    /// Its index in the pool, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The model sent upstream.
    pub fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// The call went well; the slot is free again.
    pub fn succeeded(self) {
        self.end(&Fault::of(Class::Success));
    }

    /// The call ended with `fault`; what that means for the key takes effect at once, and the slot is free again.
    pub fn failed(self, fault: &Fault) -> Effect {
        self.end(fault)
    }

    fn end(mut self, fault: &Fault) -> Effect {
        self.decided = true;
        self.pool.apply(self.index, &self.model, fault, self.probe)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let key = &self.pool.members[self.index].key;
        if self.probe && !self.decided {
            key.probe_undecided();
        }
        if let Some(ring) = &self.pool.ring {
            ring.call_ended(self.index);
        }
        key.release();
        if self.pool.availability.anyone_waiting() {
            key.serve_waiting();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}/{})", self.pool.name(), self.member().name)
    }
}
