//! The jobs that this node has claimed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keypool_core::store::{JobClaim, JobId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// All claims of this node.
#[derive(Default)]
pub(crate) struct Claims {
    held: Arc<Mutex<HashMap<JobId, Held>>>,
    /// A task renews them.
    are_renewed: AtomicBool,
}

struct Held {
    claim: JobClaim,
    pool: Arc<str>,
    stop: CancellationToken,
}

/// A claim of this node, given back when this is dropped.
pub(crate) struct Claim {
    claims: Arc<Mutex<HashMap<JobId, Held>>>,
    claim: JobClaim,
    stop: CancellationToken,
    was_sent: AtomicBool,
}

impl Claims {
    /// Notes a claim.
    pub(crate) fn hold(&self, claim: JobClaim, pool: &Arc<str>) -> Claim {
        let stop = CancellationToken::new();
        let held = Held {
            claim: claim.clone(),
            pool: Arc::clone(pool),
            stop: stop.clone(),
        };
        self.held.lock().insert(Arc::clone(&claim.id), held);
        Claim {
            claims: Arc::clone(&self.held),
            claim,
            stop,
            was_sent: AtomicBool::new(false),
        }
    }

    /// Number of claims in each pool.
    pub(crate) fn by_pool(&self) -> HashMap<Arc<str>, usize> {
        let mut number = HashMap::new();
        for held in self.held.lock().values() {
            *number.entry(Arc::clone(&held.pool)).or_default() += 1;
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
        &self.claim
    }

    /// Resolves when the job is cancelled, or the claim is lost.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the provider may have got a call that must not be made twice.
    pub(crate) fn was_sent(&self) -> bool {
        self.was_sent.load(Ordering::Relaxed)
    }

    /// Notes that the provider may get such a call from now on, which the store knows.
    pub(crate) fn note_sent(&self) {
        self.was_sent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        if held
            .get(&self.claim.id)
            .is_some_and(|held| held.claim == self.claim)
        {
            held.remove(&self.claim.id);
        }
    }
}
