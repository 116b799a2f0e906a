//! Jobs as this node knows them: what is submitted and settled goes to the store in groups, who waits for a job hears of its
//! changes, and what this node runs can be stopped. This module must never call the store or a provider: `sync` and
//! `job_worker` do.

mod batch_calls;
mod claims;
mod group;
mod mark;
mod stored_call;
mod watch;
mod webhooks;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{JobResult, LineResult, NewJob, ResultStored, Submitted};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub(crate) use batch_calls::{FILE_PIECE, StoredPart};
pub(crate) use claims::{Claim, Claims};
pub(crate) use mark::CallMark;
pub(crate) use stored_call::{ResponseHead, StoredCall};
pub(crate) use watch::{Watch, Watchers};

use self::group::Groups;
use self::webhooks::Webhooks;

/// Maximum size of the bodies of one group of submissions, in bytes.
const GROUP_BYTES: usize = 16 << 20;
/// Maximum number of jobs in one group.
const GROUP_JOBS: usize = 256;
/// Maximum number of results of lines in one group.
const GROUP_LINES: usize = 1024;
/// Memory for the requests of jobs that run, in bytes. One larger request is admitted alone.
const MEMORY: u64 = 256 << 20;
/// How long a job waits for that memory. Then it makes room for others, and is tried again.
const MEMORY_WAIT: Duration = Duration::from_secs(30);
/// The unit in which that memory is counted, in bytes.
const MEMORY_UNIT: u64 = 4096;

/// The jobs of this node.
pub(crate) struct Jobs {
    /// A random number that names this process in claims.
    pub(crate) node: u64,
    pub(crate) submissions: Groups<NewJob, Submitted>,
    pub(crate) results: Groups<JobResult, bool>,
    pub(crate) line_results: Groups<LineResult, ResultStored>,
    pub(crate) watchers: Watchers,
    pub(crate) claims: Claims,
    pub(crate) webhooks: Webhooks,
    /// Pools that may have jobs to claim.
    due: Mutex<HashSet<Arc<str>>>,
    /// There may be something to claim, or room for it.
    pub(crate) wake: Notify,
    memory: Arc<Semaphore>,
}

impl Default for Jobs {
    fn default() -> Self {
        let units = usize::try_from(MEMORY / MEMORY_UNIT).unwrap_or(usize::MAX);
        Self {
            node: fastrand::u64(..),
            submissions: Groups::new(GROUP_JOBS, GROUP_BYTES, |job| job.body.len()),
            results: Groups::new(GROUP_JOBS, GROUP_BYTES, group::result_bytes),
            line_results: Groups::new(GROUP_LINES, GROUP_BYTES, |result| result.text.len()),
            watchers: Watchers::default(),
            claims: Claims::default(),
            webhooks: Webhooks::default(),
            due: Mutex::default(),
            wake: Notify::new(),
            memory: Arc::new(Semaphore::new(units)),
        }
    }
}

impl Jobs {
    /// Notes that this pool may have a job to claim.
    pub(crate) fn note_due(&self, pool: &Arc<str>) {
        self.due.lock().insert(Arc::clone(pool));
        self.wake.notify_one();
    }

    /// Takes this pool out, to claim its jobs. What becomes due from now on is noted again, so nothing is missed during the
    /// claim.
    pub(crate) fn take_due(&self, pool: &str) {
        self.due.lock().remove(pool);
    }

    /// The pools that may have jobs to claim.
    pub(crate) fn due(&self) -> Vec<Arc<str>> {
        self.due.lock().iter().cloned().collect()
    }

    /// Memory for a body of this size, to be held while the job runs. `None` if other jobs have held it for too long.
    pub(crate) async fn memory_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(MEMORY).div_ceil(MEMORY_UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let acquiring = Arc::clone(&self.memory).acquire_many_owned(units);
        timeout(MEMORY_WAIT, acquiring).await.ok()?.ok()
    }
}

/// How long the next try of a job waits after this number of tries failed: longer each time, and never the same for all.
pub(crate) fn backoff(tries: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
    let doubled = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(6));
    doubled.min(LONGEST).mul_f64(0.75 + fastrand::f64() / 2.0)
}
