//! Stores what is counted and noted while serving: every few seconds, in one transaction.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::clock::Moment;
use keypool_core::store::{Flush, StoreError};
use tokio::time::{sleep, timeout};

use crate::context::Gateway;
use crate::stored::{Access, Pending};

/// Time between two flushes.
const EVERY: Duration = Duration::from_secs(2);
/// Time until a flush after an object was created: losing its owner would make it unreachable.
const SOON: Duration = Duration::from_millis(100);
/// How long the last flush of a process may take.
const LAST: Duration = Duration::from_secs(5);
/// Time between two compactions.
const COMPACT_EVERY: Duration = Duration::from_secs(3600);

impl Gateway {
    /// Stores what was counted and noted so far.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let store = self.stored.store()?;
        let mut flushes = self.stored.flushes.lock().await;
        if flushes.pending.is_none() {
            let Some(unsaved) = self.unsaved() else {
                return Ok(());
            };
            flushes.set_pending(unsaved);
        }
        let Some(pending) = &flushes.pending else {
            return Ok(());
        };
        let recorded = store.record(&pending.flush).await;
        self.note_store(Access::Write, recorded)?;
        let now = self.clock.wall();
        for (member, stored) in pending.members.iter().zip(&pending.flush.keys) {
            member.note_saved(stored);
            self.stored.records.add(stored, now);
        }
        flushes.pending = None;
        Ok(())
    }

    /// Everything that is not stored yet; `None` if there is nothing.
    fn unsaved(&self) -> Option<Pending> {
        // A store that was never loaded may know more of the keys than this process.
        // Asked first: what is followed meanwhile may not be noted yet.
        let followed = self.stored.followed()?;
        let moment = Moment::of(&*self.clock);
        let mut flush = Flush {
            followed,
            rows: self.stored.usage.take_rows(),
            objects: self.objects.take_changes(),
            ..Flush::default()
        };
        let (mut members, mut seen) = (Vec::new(), HashSet::new());
        for entry in &self.snapshot().pools {
            for member in entry.pool.keys().all() {
                if !seen.insert(Arc::as_ptr(&member.key)) {
                    continue;
                }
                if let Some(unsaved) = member.unsaved(&moment) {
                    flush.keys.push(unsaved);
                    members.push(member);
                }
            }
        }
        let is_empty = flush.rows.is_empty() && flush.keys.is_empty() && flush.objects.is_empty();
        (!is_empty).then_some(Pending { flush, members })
    }

    /// Stores what is left at the end of the process, if the store responds in time, and closes the store.
    pub async fn flush_at_end(&self) {
        let Ok(store) = self.stored.store() else {
            return;
        };
        // A flush whose outcome was unknown may be pending before the last one.
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
    if !gw.stored.has_store() {
        return std::future::pending().await;
    }
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = gw.objects.changed() => sleep(SOON).await,
        }
        // Errors are noted; the flush is sent again.
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
