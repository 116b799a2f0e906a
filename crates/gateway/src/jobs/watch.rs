//! Who waits for a job. However many wait, the store is not asked for each of them.

use std::collections::HashMap;
use std::sync::Arc;

use keypool_core::store::{ChangedJob, JobId};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Those who wait, by job.
#[derive(Default)]
pub(crate) struct Watchers(Arc<Mutex<HashMap<JobId, Watched>>>);

struct Watched {
    newest: watch::Sender<Option<ChangedJob>>,
    number: usize,
}

/// Hears of the changes of a job while it exists.
pub(crate) struct Watch {
    watchers: Arc<Mutex<HashMap<JobId, Watched>>>,
    id: JobId,
    newest: watch::Receiver<Option<ChangedJob>>,
}

impl Watchers {
    /// Begins to watch a job. What changes from now on is heard.
    pub(crate) fn watch(&self, id: &JobId) -> Watch {
        let mut watched = self.0.lock();
        let watched = watched.entry(Arc::clone(id)).or_insert_with(|| Watched {
            newest: watch::Sender::new(None),
            number: 0,
        });
        watched.number += 1;
        Watch {
            watchers: Arc::clone(&self.0),
            id: Arc::clone(id),
            newest: watched.newest.subscribe(),
        }
    }

    /// Tells those who wait for the job of its change.
    pub(crate) fn note(&self, change: &ChangedJob) {
        if let Some(watched) = self.0.lock().get(&change.id) {
            let _ = watched.newest.send_replace(Some(change.clone()));
        }
    }

    /// Whether nobody waits for any job.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Watch {
    /// The next change. Of several since the last one, the newest.
    pub(crate) async fn next(&mut self) -> Option<ChangedJob> {
        self.newest.changed().await.ok()?;
        self.newest.borrow_and_update().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.watchers.lock();
        let is_last = watched.get_mut(&self.id).is_some_and(|watched| {
            watched.number -= 1;
            watched.number == 0
        });
        if is_last {
            watched.remove(&self.id);
        }
    }
}
