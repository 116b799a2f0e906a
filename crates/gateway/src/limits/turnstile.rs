//! Lines of calls that wait for room under a limit, one for each caller: first come, first served. Without them, a large call
//! would wait forever behind small ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use keypool_core::limit::{LimitId, Refusal};
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

/// Maximum number of calls of one caller that wait.
const MAX_WAITING: usize = 1000;

/// The lines of all callers. A caller without a waiting call has none.
#[derive(Default)]
pub(super) struct Turnstiles {
    lines: Mutex<HashMap<LimitId, Arc<Line>>>,
    /// Number of lines, to be read without the lock.
    count: AtomicUsize,
}

struct Line {
    /// Held by the call that is first.
    first: Arc<Semaphore>,
    /// Number of calls in the line. Changed under the lock of the map.
    waiting: AtomicUsize,
    /// A call of the caller has ended.
    changed: Notify,
    /// Why the first call waits; `None` until that is known.
    refusal: Mutex<Option<Refusal>>,
}

/// Why a call did not become the first in its line.
#[derive(Debug)]
pub(super) enum NotFirst {
    /// As many calls of the caller wait as may.
    Full,
    /// It took too long. The first call waits for this reason, if that is known.
    TooLate(Option<Refusal>),
}

/// A place in a line.
struct Place<'a> {
    turnstiles: &'a Turnstiles,
    id: LimitId,
    line: Arc<Line>,
}

/// The first place in a line.
pub(super) struct Turn<'a> {
    // Dropped first, so that the next call is woken before the line may be forgotten.
    _first: OwnedSemaphorePermit,
    place: Place<'a>,
}

impl Turnstiles {
    /// Whether no call of the caller waits.
    pub(super) fn is_free(&self, id: LimitId) -> bool {
        self.count.load(Ordering::SeqCst) == 0 || !self.lines.lock().contains_key(&id)
    }

    /// Waits until the call is the first in its line. `refusal`: why it waits, if it was asked about.
    pub(super) async fn enter(
        &self,
        id: LimitId,
        refusal: Option<Refusal>,
        give_up: Instant,
    ) -> Result<Turn<'_>, NotFirst> {
        let place = self.join(id, refusal).ok_or(NotFirst::Full)?;
        let first = Arc::clone(&place.line.first).acquire_owned();
        match timeout_at(give_up.into(), first).await {
            Ok(Ok(first)) => Ok(Turn {
                _first: first,
                place,
            }),
            _ => Err(NotFirst::TooLate(*place.line.refusal.lock())),
        }
    }

    /// A call of the caller has ended, so there may be room.
    pub(super) fn wake(&self, id: LimitId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(line) = self.lines.lock().get(&id) {
            line.changed.notify_waiters();
        }
    }

    /// `None` if the line is full.
    fn join(&self, id: LimitId, refusal: Option<Refusal>) -> Option<Place<'_>> {
        let mut lines = self.lines.lock();
        let line = lines.entry(id).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::SeqCst);
            Arc::new(Line {
                first: Arc::new(Semaphore::new(1)),
                waiting: AtomicUsize::new(0),
                changed: Notify::new(),
                refusal: Mutex::new(refusal),
            })
        });
        if line.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            return None;
        }
        line.waiting.fetch_add(1, Ordering::Relaxed);
        let line = Arc::clone(line);
        Some(Place {
            turnstiles: self,
            id,
            line,
        })
    }
}

impl Turn<'_> {
    /// Resolves when a call of the caller has ended.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.place.line.changed.notified()
    }

    /// The call goes on waiting, for this reason.
    pub(super) fn waits_for(&self, refusal: Refusal) {
        *self.place.line.refusal.lock() = Some(refusal);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.turnstiles.lines.lock();
        if self.line.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            lines.remove(&self.id);
            self.turnstiles.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
