//! A lease: the right to use one key for one attempt. While it lives, the key counts the call as in flight.

use std::sync::Arc;

use super::outcome::EndedCall;
use super::{Demand, Effect, KeySet, MemberRef, Pool, Selection};
use crate::fault::Fault;
use crate::key::Slot;
use crate::limit::{Admission, Settlement};

/// The right to use one key for one attempt. Dropped without a result (the client left), it gives the slot back and
/// blames nobody.
#[must_use = "a lease holds a slot of its key"]
pub struct Lease {
    pool: Arc<Pool>,
    member: MemberRef,
    model: Arc<str>,
    endpoint: Arc<str>,
    is_probe: bool,
    /// The call could go to one group only, because of an object that it names.
    is_bound: bool,
    has_result: bool,
    /// What the call uses of the key's own limits; `None`: there are none.
    admission: Option<Box<Admission>>,
    /// How that is settled when the lease is dropped.
    settlement: Settlement,
}

/// A failure that may count against a key's breaker: if the same request then succeeds with a key of another group.
/// Otherwise the request or the provider may be the reason, and one caller could eject keys for all.
pub struct Suspect {
    pool: Arc<Pool>,
    member: MemberRef,
    was_probe: bool,
}

/// A lease, and why its key was selected.
#[derive(Debug)]
#[must_use = "a lease holds a slot of its key"]
pub struct Leased {
    /// The lease.
    pub lease: Lease,
    /// What the key was selected among.
    pub selection: Selection,
}

impl Lease {
    pub(super) fn new(
        pool: Arc<Pool>,
        member: MemberRef,
        model: Arc<str>,
        slot: Slot,
        demand: &Demand,
    ) -> Self {
        if let Some(ring) = &member.keys().ring {
            ring.call_began(member.index());
        }
        Self {
            pool,
            member,
            model,
            is_probe: slot.is_probe,
            endpoint: Arc::clone(&demand.endpoint),
            is_bound: demand.bound_group.is_some(),
            has_result: false,
            admission: slot.admission,
            settlement: Settlement::NotSent,
        }
    }

    /// The key, with what the pool's configuration said about it when the lease began.
    pub fn member(&self) -> &MemberRef {
        &self.member
    }

    /// The key set that the key was selected from. The pool may have another one by now.
    pub fn keys(&self) -> &Arc<KeySet> {
        self.member.keys()
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The model sent upstream.
    pub fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// How the call counts under the key's own limits, if the lease is dropped now. At first: as not sent.
    pub fn settle_when_dropped(&mut self, settlement: Settlement) {
        self.settlement = settlement;
    }

    /// The call ended with this outcome. What that means for the key takes effect at once, and the slot is free.
    pub fn finish(mut self, outcome: &Fault) -> Effect {
        self.has_result = true;
        let call = EndedCall {
            member: &self.member,
            model: &self.model,
            endpoint: &self.endpoint,
            is_probe: self.is_probe,
            is_bound: self.is_bound,
        };
        self.pool.apply(&call, outcome)
    }

    /// What to keep of a failure with [`Class::UpstreamTrouble`](crate::fault::Class); `None` if it is never evidence
    /// against the key.
    pub fn suspect(&self) -> Option<Suspect> {
        (!self.is_bound).then(|| Suspect {
            pool: Arc::clone(&self.pool),
            member: self.member.clone(),
            was_probe: self.is_probe,
        })
    }

    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }
}

impl Suspect {
    /// The key.
    pub fn member(&self) -> &MemberRef {
        &self.member
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The same request succeeded with `lease`. If that is a key of another group of the pool, the failure counts.
    pub fn confirmed_by(&self, lease: &Lease) -> Effect {
        let is_other_group = !Arc::ptr_eq(&self.member.group, &lease.member.group);
        match is_other_group && Arc::ptr_eq(&self.pool, &lease.pool) {
            true => self.confirm(),
            false => Effect::default(),
        }
    }

    pub(super) fn confirm(&self) -> Effect {
        self.pool.count_trouble(&self.member.key, self.was_probe)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let key = &self.member.key;
        if self.is_probe && !self.has_result {
            key.probe_undecided();
        }
        if let Some(ring) = &self.member.keys().ring {
            ring.call_ended(self.member.index());
        }
        if let Some(admission) = &self.admission {
            key.settle(admission, &self.settlement, self.pool.clock.now());
        }
        key.release();
        if self.pool.wait_signal.anyone_anywhere() {
            key.serve_waiting();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}/{})", self.pool.name(), self.member.name)
    }
}
