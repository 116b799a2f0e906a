//! The jobs that this node has claimed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keypool_core::store::{ClaimedJob, JobClaim, JobId, JobKind};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// All claims of this node.
#[derive(Default)]
pub(crate) struct Claims {
    held: Arc<Mutex<HashMap<JobId, Held>>>,
    /// A task renews them.
    are_renewed: AtomicBool,
}

#[derive(Clone)]
struct Held {
    claim: JobClaim,
    pool: Arc<str>,
    /// The batch of which it is a part.
    batch: Option<Arc<str>>,
    /// Number of calls that are still to be made.
    weight: Arc<AtomicUsize>,
    stop: CancellationToken,
    wind_down: CancellationToken,
}

/// A claim of this node, given back when this is dropped.
pub(crate) struct Claim {
    claims: Arc<Mutex<HashMap<JobId, Held>>>,
    held: Held,
}

impl Claims {
    /// Notes the claim of a job.
    pub(crate) fn hold(&self, job: &ClaimedJob) -> Claim {
        let held = Held {
            claim: JobClaim {
                id: Arc::clone(&job.id),
                attempt: job.attempt,
            },
            pool: Arc::clone(&job.pool),
            batch: match &job.kind {
                JobKind::BatchPart(batch) => Some(Arc::clone(batch)),
                _ => None,
            },
            weight: Arc::new(AtomicUsize::new(usize::try_from(job.weight).unwrap_or(1))),
            stop: CancellationToken::new(),
            wind_down: CancellationToken::new(),
        };
        self.held.lock().insert(Arc::clone(&job.id), held.clone());
        Claim {
            claims: Arc::clone(&self.held),
            held,
        }
    }

    /// Number of calls that are to be made for claims of each pool.
    pub(crate) fn by_pool(&self) -> HashMap<Arc<str>, usize> {
        let mut number = HashMap::new();
        for held in self.held.lock().values() {
            let weight = held.weight.load(Ordering::Relaxed).max(1);
            *number.entry(Arc::clone(&held.pool)).or_default() += weight;
        }
        number
    }

    /// Whether nobody renews the claims; from now on the caller does.
    pub(crate) fn begin_renewing(&self) -> bool {
        !self.are_renewed.swap(true, Ordering::SeqCst)
    }

    /// The caller does not renew the claims any more. False if there is one again, so that it must go on.
    pub(crate) fn end_renewing(&self) -> bool {
        self.are_renewed.store(false, Ordering::SeqCst);
        // What adds one after this finds nobody renewing.
        self.held.lock().is_empty() || !self.begin_renewing()
    }

    /// Stops what runs for this job.
    pub(crate) fn stop(&self, id: &str) {
        if let Some(held) = self.held.lock().get(id) {
            held.stop.cancel();
        }
    }

    /// Lets the parts of this batch make no further calls.
    pub(crate) fn wind_down(&self, batch: &str) {
        let held = self.held.lock();
        let parts = held
            .values()
            .filter(|held| held.batch.as_deref() == Some(batch));
        parts.for_each(|held| held.wind_down.cancel());
    }

    /// Those held now, to be compared with what the store has.
    pub(crate) fn all(&self) -> Vec<JobClaim> {
        let held = self.held.lock();
        held.values().map(|held| held.claim.clone()).collect()
    }

    /// Stops what runs for these claims, which are lost.
    pub(crate) fn stop_lost(&self, lost: &[JobClaim]) {
        let held = self.held.lock();
        for claim in lost {
            if let Some(held) = held.get(&claim.id).filter(|held| held.claim == *claim) {
                held.stop.cancel();
            }
        }
    }
}

impl Claim {
    /// Which job, and which attempt.
    pub(crate) fn claim(&self) -> &JobClaim {
        &self.held.claim
    }

    /// Resolves when the job is cancelled, or the claim is lost.
    pub(crate) async fn stopped(&self) {
        self.held.stop.cancelled().await;
    }

    /// Cancelled when no further calls are to be made; those in flight may end.
    pub(crate) fn wind_down(&self) -> &CancellationToken {
        &self.held.wind_down
    }

    /// Notes that one call fewer is to be made.
    pub(crate) fn note_call_made(&self) {
        let fewer = |weight: usize| weight.checked_sub(1);
        // Fails at 0.
        let _ = self
            .held
            .weight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        let claim = &self.held.claim;
        if held.get(&claim.id).is_some_and(|held| held.claim == *claim) {
            held.remove(&claim.id);
        }
    }
}
