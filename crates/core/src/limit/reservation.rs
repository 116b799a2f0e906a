//! What an admitted call holds until it is settled, on every path.

use std::sync::Arc;

use super::{Admission, Cost, LimitId, Limiter, Settlement};
use crate::clock::Clock;

/// The room that a call has reserved. It is settled once, when it is dropped, on whatever path that is: as not sent, unless
/// [`Reservation::settle_when_dropped`] said otherwise.
#[must_use = "dropping a reservation settles it"]
pub struct Reservation {
    limiter: Arc<dyn Limiter>,
    clock: Arc<dyn Clock>,
    id: LimitId,
    admission: Admission,
    /// How it is settled if it is dropped now.
    if_dropped: Settlement,
}

impl Reservation {
    /// The reservation of a call that `limiter` has admitted.
    pub fn new(
        limiter: Arc<dyn Limiter>,
        clock: Arc<dyn Clock>,
        id: LimitId,
        admission: Admission,
    ) -> Self {
        Self {
            limiter,
            clock,
            id,
            admission,
            if_dropped: Settlement::NotSent,
        }
    }

    /// How it is settled if it is dropped now.
    pub fn if_dropped(&self) -> Settlement {
        self.if_dropped
    }

    /// From now on it is settled in this way when it is dropped.
    pub fn settle_when_dropped(&mut self, settlement: Settlement) {
        self.if_dropped = settlement;
    }

    /// What was charged and held.
    pub fn cost(&self) -> &Cost {
        self.admission.cost()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let now = self.clock.now();
        self.limiter
            .settle(self.id, &self.admission, &self.if_dropped, now);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .field("if_dropped", &self.if_dropped)
            .finish_non_exhaustive()
    }
}
