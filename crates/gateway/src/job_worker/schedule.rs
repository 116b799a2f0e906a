//! Which jobs this node runs, and when.
//!
//! For each pool, a node claims about twice as many jobs as its keys can serve at once: those that wait for a key do so in the
//! pool's queue, and the next ones are there when a key becomes free, without a look into the store for each.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::pool::Pool;
use keypool_core::store::{ChangedJob, ClaimedJob, JobClaim, JobStatus, StoreError};
use tokio::time::{Instant, sleep, timeout};

use super::work::work;
use crate::context::Gateway;
use crate::stored::Access;
use crate::task_poll::PollScope;

/// Time between two looks for what happens by time alone: claims that ran out, tries that are due, deadlines; and, where the
/// store is shared, for jobs and changes of other nodes.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two renewals of this node's claims, a third of what a claim lasts.
const RENEW: Duration = Duration::from_secs(3);
/// Shortest time between two claims. The time that a claim itself takes is longer, and what becomes free meanwhile is claimed for
/// together.
const PAUSE: Duration = Duration::from_millis(1);
/// Maximum number of jobs claimed at once for each pool.
const MAX_CLAIMED: usize = 128;
/// Number of jobs claimed at once of a pool that is gone, to find out whether another pool serves them.
const OF_GONE_POOL: usize = 8;

/// Runs jobs as long as the gateway serves.
pub(crate) async fn run_regularly(gw: &Arc<Gateway>) -> Infallible {
    let Ok(store) = gw.stored.store() else {
        return std::future::pending().await;
    };
    let is_shared = store.is_shared();
    let mut schedule = Schedule {
        gw,
        is_shared,
        // A process that has a store alone, and starts, is the only one that could have claimed anything.
        is_first: !is_shared,
        followed: None,
    };
    let mut looked = None;
    loop {
        if looked.is_none_or(|at: Instant| at.elapsed() >= LOOK) {
            looked = Some(Instant::now());
            // Errors are noted; the next look is soon.
            let _ = schedule.look().await;
        }
        let _ = schedule.claim().await;
        sleep(PAUSE).await;
        let until = looked.map_or(LOOK, |at| LOOK.saturating_sub(at.elapsed()));
        let _ = timeout(until, gw.jobs.wake.notified()).await;
    }
}

struct Schedule<'a> {
    gw: &'a Arc<Gateway>,
    is_shared: bool,
    is_first: bool,
    /// The newest change of jobs that is followed; `None` until that is known.
    followed: Option<u64>,
}

impl Schedule<'_> {
    /// Does what is due by time, and hears of other nodes.
    async fn look(&mut self) -> Result<(), StoreError> {
        let gw = self.gw;
        let store = gw.stored.store()?;
        let keep = gw.snapshot().settings.jobs.keep;
        // Before the sweep, so that what it changes is followed.
        self.follow().await?;
        let swept = store.sweep_jobs(self.is_first, keep).await;
        let has_changed = gw.note_store(Access::Write, swept)?;
        if self.is_shared || self.is_first || has_changed {
            let due = gw.note_store(Access::Read, store.due_pools().await)?;
            due.iter().for_each(|pool| gw.jobs.note_due(pool));
        }
        self.is_first = false;
        if has_changed {
            self.follow().await?;
        }
        Ok(())
    }

    /// Tells those who wait for jobs of what has changed.
    ///
    /// Those who begin to wait later read their job after they are known here, so every change since the last look is news to
    /// them or was read.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let gw = self.gw;
        let since = self.followed.filter(|_| !gw.jobs.watchers.is_empty());
        let changed = gw.stored.store()?.changed_jobs(since).await;
        let (newest, changes) = gw.note_store(Access::Read, changed)?;
        changes
            .iter()
            .for_each(|change| gw.jobs.watchers.note(change));
        self.followed = Some(newest);
        Ok(())
    }

    /// Claims jobs for which there is room, and begins to work on them.
    async fn claim(&self) -> Result<(), StoreError> {
        let gw = self.gw;
        if gw.is_shutting_down() {
            return Ok(());
        }
        let wanted = self.wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        wanted.iter().for_each(|(pool, _)| gw.jobs.take_due(pool));
        let claimed = gw.stored.store()?.claim_jobs(gw.jobs.node, &wanted).await;
        let claimed = match gw.note_store(Access::Write, claimed) {
            Ok(claimed) => claimed,
            Err(error) => {
                wanted.iter().for_each(|(pool, _)| gw.jobs.note_due(pool));
                return Err(error);
            }
        };
        for (pool, room) in &wanted {
            let got = claimed.iter().filter(|job| job.pool == *pool);
            let calls: u64 = got.map(|job| job.weight).sum();
            if calls >= *room as u64 {
                // There may be more.
                gw.jobs.note_due(pool);
            }
        }
        claimed.into_iter().for_each(|job| self.begin(job));
        Ok(())
    }

    /// How many jobs of each pool to claim.
    fn wanted(&self) -> Vec<(Arc<str>, usize)> {
        let gw = self.gw;
        let due = gw.jobs.due();
        if due.is_empty() {
            return Vec::new();
        }
        let (snapshot, held) = (gw.snapshot(), gw.jobs.claims.by_pool());
        let max_running = snapshot.settings.jobs.max_running;
        let room = |name: &Arc<str>| {
            let most = match snapshot.pool(name) {
                Some(entry) => most_at_once(&entry.pool, max_running),
                None => OF_GONE_POOL,
            };
            most.saturating_sub(held.get(name).copied().unwrap_or_default())
        };
        let wanted = due.into_iter().map(|name| {
            let room = room(&name).min(MAX_CLAIMED);
            (name, room)
        });
        wanted.filter(|(_, room)| *room > 0).collect()
    }

    fn begin(&self, job: ClaimedJob) {
        let gw = self.gw;
        gw.jobs.watchers.note(&ChangedJob {
            id: Arc::clone(&job.id),
            status: JobStatus::Running,
            attempts: job.tries,
        });
        let claim = gw.jobs.claims.hold(&job);
        if self.is_shared && gw.jobs.claims.begin_renewing() {
            gw.tasks.spawn(renew(Arc::clone(gw)));
        }
        let working = work(Arc::clone(gw), job, claim);
        gw.threads.spawn(&gw.tasks, PollScope::of(working));
    }
}

/// Renews this node's claims as long as it has any, also while the gateway shuts down. Stops what runs for claims that it has
/// lost.
async fn renew(gw: Arc<Gateway>) {
    loop {
        sleep(RENEW).await;
        let before = gw.jobs.claims.all();
        if before.is_empty() && gw.jobs.claims.end_renewing() {
            return;
        }
        // Errors are noted; the next renewal may still be in time.
        let _ = renew_once(&gw, before).await;
    }
}

async fn renew_once(gw: &Gateway, before: Vec<JobClaim>) -> Result<(), StoreError> {
    let renewed = gw.stored.store()?.renew_claims(gw.jobs.node).await;
    let held = gw.note_store(Access::Write, renewed)?;
    let held: HashSet<JobClaim> = held.into_iter().collect();
    let lost: Vec<_> = before
        .into_iter()
        .filter(|claim| !held.contains(claim))
        .collect();
    gw.jobs.claims.stop_lost(&lost);
    Ok(())
}

/// How many jobs of a pool a node has at most: twice as many as its keys serve at once.
fn most_at_once(pool: &Pool, max_running: usize) -> usize {
    let keys = pool.current();
    let mut slots = 0_usize;
    for member in keys.members() {
        match member.key.max_concurrent() {
            Some(cap) => slots = slots.saturating_add(cap as usize),
            None => return max_running,
        }
    }
    slots.saturating_mul(2).clamp(1, max_running)
}
