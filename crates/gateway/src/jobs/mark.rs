//! How far a job's call has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use keypool_core::store::JobClaim;

/// Nothing was sent.
const WAITING: u8 = 0;
/// It may have been sent; it may be sent again.
const SENT: u8 = 1;
/// It may have been sent, must not be sent twice, and the store knows.
const SENT_ONCE: u8 = 2;

/// One call of a claimed job.
pub(crate) struct CallMark {
    claim: JobClaim,
    /// The batch and the line whose call it is.
    line: Option<(Arc<str>, u64)>,
    state: AtomicU8,
}

impl CallMark {
    /// The call of this job.
    pub(crate) fn of_job(claim: &JobClaim) -> Self {
        Self {
            claim: claim.clone(),
            line: None,
            state: AtomicU8::new(WAITING),
        }
    }

    /// The call of a line of a batch, which this claim has.
    pub(crate) fn of_line(claim: &JobClaim, batch: &Arc<str>, line: u64) -> Self {
        Self {
            line: Some((Arc::clone(batch), line)),
            ..Self::of_job(claim)
        }
    }

    pub(crate) fn claim(&self) -> &JobClaim {
        &self.claim
    }

    /// The batch and the line whose call it is.
    pub(crate) fn line(&self) -> Option<(&str, u64)> {
        self.line.as_ref().map(|(batch, line)| (&**batch, *line))
    }

    /// Notes that the call is sent, and may be sent again.
    pub(crate) fn note_sent(&self) {
        self.state.fetch_max(SENT, Ordering::Relaxed);
    }

    /// Notes that the call is sent, and must not be sent twice.
    pub(crate) fn note_sent_once(&self) {
        self.state.store(SENT_ONCE, Ordering::Relaxed);
    }

    /// Whether the provider may have got it.
    pub(crate) fn was_sent(&self) -> bool {
        self.state.load(Ordering::Relaxed) != WAITING
    }

    /// Whether the provider may have got it, and must not get it twice.
    pub(crate) fn was_sent_once(&self) -> bool {
        self.state.load(Ordering::Relaxed) == SENT_ONCE
    }
}
