//! What an admitted call holds until it is settled, on every path.

use std::sync::Arc;

use super::{Admission, LimitId, Limiter, Settlement, Usage};
use crate::clock::Clock;

/// The room that a call has reserved. It is settled once: by [`Reservation::settle`], or when it is dropped.
///
/// Dropped before anything was sent, it gives everything back. Dropped later, the provider may have run the call, so nothing
/// is given back.
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

    /// From now on a provider may have the call.
    pub fn note_sent(&mut self) {
        self.if_dropped = Settlement::Ended(Usage::default());
    }

    /// The provider's last word was an error. The tokens come back, and the request does not.
    pub fn note_failed(&mut self) {
        self.if_dropped = Settlement::Failed;
    }

    /// The call ended with this usage.
    pub fn settle(mut self, usage: Usage) {
        self.if_dropped = Settlement::Ended(usage);
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
