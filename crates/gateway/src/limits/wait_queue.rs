//! Queues of calls that wait for room under a limit, one for each caller: first in, first out. Without them, a large call
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

/// The queues of all callers. A caller without a waiting call has none.
#[derive(Default)]
pub(super) struct WaitQueues {
    queues: Mutex<HashMap<LimitId, Arc<WaitQueue>>>,
    /// Number of queues, to be read without the lock.
    count: AtomicUsize,
}

struct WaitQueue {
    /// Held by the call at the head. Its waiters are the other calls, in order.
    head: Arc<Semaphore>,
    /// Number of calls in the queue, the head included. Changed under the lock of the map.
    length: AtomicUsize,
    /// A call of the caller has ended.
    changed: Notify,
    /// Why the call at the head waits; `None` until that is known.
    refusal: Mutex<Option<Refusal>>,
}

/// Why a call did not get to the head of its queue.
#[derive(Debug)]
pub(super) enum WaitError {
    /// The maximum number of calls of the caller waits.
    QueueFull,
    /// Its deadline passed. The call at the head waits for this reason, if that is known.
    DeadlineExceeded(Option<Refusal>),
}

/// A call in a queue. Dropped, it leaves the queue.
struct Queued<'a> {
    queues: &'a WaitQueues,
    id: LimitId,
    queue: Arc<WaitQueue>,
}

/// The call at the head of a queue. Dropped, the next one follows.
pub(super) struct Head<'a> {
    // Dropped first, so that the next call is woken before the queue may be forgotten.
    _permit: OwnedSemaphorePermit,
    queued: Queued<'a>,
}

impl WaitQueues {
    /// Whether no call of the caller waits.
    pub(super) fn is_empty(&self, id: LimitId) -> bool {
        self.count.load(Ordering::SeqCst) == 0 || !self.queues.lock().contains_key(&id)
    }

    /// Waits until the call is at the head of its queue. `refusal`: why it waits, if it was asked about.
    pub(super) async fn head(
        &self,
        id: LimitId,
        refusal: Option<Refusal>,
        deadline: Instant,
    ) -> Result<Head<'_>, WaitError> {
        let queued = self.join(id, refusal).ok_or(WaitError::QueueFull)?;
        let permit = Arc::clone(&queued.queue.head).acquire_owned();
        match timeout_at(deadline.into(), permit).await {
            Ok(Ok(permit)) => Ok(Head {
                _permit: permit,
                queued,
            }),
            _ => Err(WaitError::DeadlineExceeded(*queued.queue.refusal.lock())),
        }
    }

    /// A call of the caller has ended, so there may be room.
    pub(super) fn wake(&self, id: LimitId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(queue) = self.queues.lock().get(&id) {
            queue.changed.notify_waiters();
        }
    }

    /// `None` if the queue is full.
    fn join(&self, id: LimitId, refusal: Option<Refusal>) -> Option<Queued<'_>> {
        let mut queues = self.queues.lock();
        let queue = queues.entry(id).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::SeqCst);
            Arc::new(WaitQueue {
                head: Arc::new(Semaphore::new(1)),
                length: AtomicUsize::new(0),
                changed: Notify::new(),
                refusal: Mutex::new(refusal),
            })
        });
        if queue.length.load(Ordering::Relaxed) >= MAX_WAITING {
            return None;
        }
        queue.length.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::clone(queue);
        Some(Queued {
            queues: self,
            id,
            queue,
        })
    }
}

impl Head<'_> {
    /// Resolves when a call of the caller has ended.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.queued.queue.changed.notified()
    }

    /// The call goes on waiting, for this reason.
    pub(super) fn waits_for(&self, refusal: Refusal) {
        *self.queued.queue.refusal.lock() = Some(refusal);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.queues.lock();
        if self.queue.length.fetch_sub(1, Ordering::Relaxed) == 1 {
            queues.remove(&self.id);
            self.queues.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
