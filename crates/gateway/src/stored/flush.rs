//! Stores what is counted and noted while serving: every few seconds, in one transaction.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::clock::Moment;
use keypool_core::pool::MemberRef;
use keypool_core::store::{Batch, StoreError};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::Access;
use crate::context::Gateway;

/// Time between two batches.
const EVERY: Duration = Duration::from_secs(2);
/// Time until a batch after an object was created: losing its owner would make it unreachable.
const SOON: Duration = Duration::from_millis(100);
/// How long the last batch of a process may take.
const LAST: Duration = Duration::from_secs(5);
/// Time between two compactions.
const COMPACT_EVERY: Duration = Duration::from_secs(3600);

/// Sends batches to the store, one after the other.
pub(crate) struct Flusher {
    node: u64,
    state: Mutex<FlushState>,
}

#[derive(Default)]
struct FlushState {
    /// The number of the last batch that was made.
    number: u64,
    /// A batch that may not be stored yet. It is sent again as it is, so that nothing counts twice.
    pending: Option<Pending>,
}

struct Pending {
    batch: Batch,
    /// The keys of the batch's `keys`, in the same order.
    members: Vec<MemberRef>,
}

impl Default for Flusher {
    fn default() -> Self {
        Self {
            // The store keeps signed numbers.
            node: fastrand::u64(1..=i64::MAX as u64),
            state: Mutex::default(),
        }
    }
}

impl Gateway {
    /// Stores what was counted and noted so far.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let store = self.stored.store()?;
        let flusher = &self.stored.flusher;
        let mut state = flusher.state.lock().await;
        if state.pending.is_none() {
            let Some(mut pending) = self.unsaved() else {
                return Ok(());
            };
            state.number += 1;
            pending.batch.node = flusher.node;
            pending.batch.number = state.number;
            state.pending = Some(pending);
        }
        let Some(pending) = &state.pending else {
            return Ok(());
        };
        let recorded = store.record(&pending.batch).await;
        self.note_store(Access::Write, recorded)?;
        let now = self.clock.wall();
        for (member, stored) in pending.members.iter().zip(&pending.batch.keys) {
            member.note_saved(stored);
            self.stored.records.add(stored, now);
        }
        state.pending = None;
        Ok(())
    }

    /// Everything that is not stored yet; `None` if there is nothing.
    fn unsaved(&self) -> Option<Pending> {
        // A store that was never loaded may know more of the keys than this process.
        self.stored.catalog()?;
        let moment = Moment::of(&*self.clock);
        let mut batch = Batch {
            // Read first: what is followed meanwhile may not be noted yet.
            followed: self.stored.followed(),
            rows: self.stored.usage.take_rows(),
            objects: self.objects.take_changes(),
            ..Batch::default()
        };
        let (mut members, mut seen) = (Vec::new(), HashSet::new());
        for entry in &self.snapshot().pools {
            for member in entry.pool.keys().all() {
                if !seen.insert(Arc::as_ptr(&member.key)) {
                    continue;
                }
                if let Some(unsaved) = member.unsaved(&moment) {
                    batch.keys.push(unsaved);
                    members.push(member);
                }
            }
        }
        let is_empty = batch.rows.is_empty() && batch.keys.is_empty() && batch.objects.is_empty();
        (!is_empty).then_some(Pending { batch, members })
    }

    /// Stores what is left at the end of the process, if the store responds in time, and closes the store.
    pub async fn flush_at_end(&self) {
        let Ok(store) = self.stored.store() else {
            return;
        };
        // A batch whose outcome was unknown may be pending before the last one.
        for _ in 0..2 {
            if !matches!(timeout(LAST, self.flush()).await, Ok(Ok(()))) {
                self.telemetry.not_flushed();
                break;
            }
        }
        store.close().await;
    }
}

/// Stores what is counted and noted, every few seconds.
pub(crate) async fn flush_regularly(gw: &Arc<Gateway>) -> Infallible {
    if !gw.stored.is_there() {
        return std::future::pending().await;
    }
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = gw.objects.changed() => sleep(SOON).await,
        }
        // Errors are noted; the batch is sent again.
        let _ = gw.flush().await;
    }
}

/// Adds up old usage, and deletes what is older than is kept.
pub(crate) async fn compact_regularly(gw: &Arc<Gateway>) -> Infallible {
    let Ok(store) = gw.stored.store() else {
        return std::future::pending().await;
    };
    loop {
        let compacted = store.compact(gw.clock.wall()).await;
        let _ = gw.note_store(Access::Write, compacted);
        // At another time on each node.
        sleep(COMPACT_EVERY.mul_f64(0.5 + fastrand::f64())).await;
    }
}
