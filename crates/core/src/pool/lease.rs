//! A lease: the right to use one key for one attempt. While it lives, the key counts the call as in flight.

use std::sync::Arc;

use super::{Choice, Consequence, Member, Pool};
use crate::fault::{Class, Fault};

/// Move-only. Dropped without a result (the client left), it gives the slot back and blames nobody.
#[must_use = "a lease holds a slot of its key"]
pub struct Lease {
    pool: Arc<Pool>,
    place: usize,
    model: Arc<str>,
    trial: bool,
    decided: bool,
    choice: Choice,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, place: usize, model: Arc<str>, trial: bool) -> Self {
        if let Some(homes) = &pool.homes {
            homes.call_began(place);
        }
        Self {
            pool,
            place,
            model,
            trial,
            decided: false,
            choice: Choice::default(),
        }
    }

    pub(super) fn chosen(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// Why it is this key. Given away once.
    pub fn take_choice(&mut self) -> Choice {
        std::mem::take(&mut self.choice)
    }

    /// The key and what the pool's configuration says of it.
    pub fn member(&self) -> &Member {
        &self.pool.members[self.place]
    }

    /// Its place in the pool, from 0.
    pub fn place(&self) -> usize {
        self.place
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
    pub fn failed(self, fault: &Fault) -> Consequence {
        self.end(fault)
    }

    fn end(mut self, fault: &Fault) -> Consequence {
        self.decided = true;
        self.pool.apply(self.place, &self.model, fault, self.trial)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let key = &self.pool.members[self.place].key;
        if self.trial && !self.decided {
            key.trial_undecided();
        }
        if let Some(homes) = &self.pool.homes {
            homes.call_ended(self.place);
        }
        key.release();
        if self.pool.board.anyone_waits() {
            key.serve_waiting();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}/{})", self.pool.name(), self.member().name)
    }
}
