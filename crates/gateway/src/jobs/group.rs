//! Group commit: what comes while one transaction is being committed is committed together by the next one. A commit waits
//! for the disk, so a thousand commits a second would wait a thousand times.

use std::collections::VecDeque;
use std::sync::Arc;

use keypool_core::store::{JobOutcome, JobResult, StoreError, StoreErrorKind};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Maximum number of items that wait for a commit.
const MAX_WAITING: usize = 4096;

/// Items of one kind that are committed in groups.
pub(crate) struct Groups<T, R> {
    queue: Arc<Mutex<Queue<T, R>>>,
    max_items: usize,
    max_bytes: usize,
    bytes_of: fn(&T) -> usize,
}

struct Queue<T, R> {
    items: VecDeque<Item<T, R>>,
    /// A task commits what is in the queue.
    is_active: bool,
}

struct Item<T, R> {
    item: T,
    done: oneshot::Sender<Result<R, Arc<StoreError>>>,
}

/// The bytes that a result brings.
pub(super) fn result_bytes(result: &JobResult) -> usize {
    match &result.outcome {
        JobOutcome::Ended {
            response: Some(response),
            ..
        } => response.rest.len(),
        _ => 0,
    }
}

impl<T: Send + 'static, R: Send + 'static> Groups<T, R> {
    /// A group has at most `max_items` items, and bytes up to `max_bytes` unless one item alone has more.
    pub(super) fn new(max_items: usize, max_bytes: usize, bytes_of: fn(&T) -> usize) -> Self {
        let queue = Queue {
            items: VecDeque::new(),
            is_active: false,
        };
        Self {
            queue: Arc::new(Mutex::new(queue)),
            max_items,
            max_bytes,
            bytes_of,
        }
    }

    /// Commits an item, with others that come at the same time, by `commit`, which returns one outcome for each item. It is
    /// committed even if this future is dropped.
    pub(crate) async fn add<F>(
        &self,
        tasks: &TaskTracker,
        item: T,
        commit: impl FnMut(Vec<T>) -> F + Send + 'static,
    ) -> Result<R, Arc<StoreError>>
    where
        F: Future<Output = Result<Vec<R>, StoreError>> + Send,
    {
        let (done, outcome) = oneshot::channel();
        let begins = {
            let mut queue = self.queue.lock();
            if queue.items.len() >= MAX_WAITING {
                return Err(unavailable("the store is slower than what is to be stored"));
            }
            queue.items.push_back(Item { item, done });
            !std::mem::replace(&mut queue.is_active, true)
        };
        if begins {
            tasks.spawn(self.commit_all(commit));
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(unavailable("the store did not respond")))
    }

    /// Commits group after group until nothing is left.
    fn commit_all<F>(
        &self,
        mut commit: impl FnMut(Vec<T>) -> F + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        F: Future<Output = Result<Vec<R>, StoreError>> + Send,
    {
        let queue = Arc::clone(&self.queue);
        let (max_items, max_bytes, bytes_of) = (self.max_items, self.max_bytes, self.bytes_of);
        async move {
            loop {
                let group = {
                    let mut queue = queue.lock();
                    let group = queue.next_group(max_items, max_bytes, bytes_of);
                    queue.is_active = !group.is_empty();
                    group
                };
                if group.is_empty() {
                    return;
                }
                let (items, waiting): (Vec<_>, Vec<_>) =
                    group.into_iter().map(|one| (one.item, one.done)).unzip();
                answer(waiting, commit(items).await);
            }
        }
    }
}

impl<T, R> Queue<T, R> {
    fn next_group(
        &mut self,
        max_items: usize,
        max_bytes: usize,
        bytes_of: fn(&T) -> usize,
    ) -> Vec<Item<T, R>> {
        let (mut number, mut bytes) = (0, 0);
        for one in self.items.iter().take(max_items) {
            bytes += bytes_of(&one.item);
            if number > 0 && bytes > max_bytes {
                break;
            }
            number += 1;
        }
        self.items.drain(..number).collect()
    }
}

fn unavailable(message: &str) -> Arc<StoreError> {
    Arc::new(StoreError::new(StoreErrorKind::Unavailable, message))
}

/// Tells each item's outcome. Those who left do not hear it.
fn answer<R>(
    waiting: Vec<oneshot::Sender<Result<R, Arc<StoreError>>>>,
    committed: Result<Vec<R>, StoreError>,
) {
    match committed {
        Ok(outcomes) => {
            for (done, outcome) in waiting.into_iter().zip(outcomes) {
                let _ = done.send(Ok(outcome));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for done in waiting {
                let _ = done.send(Err(Arc::clone(&error)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_comes_during_a_commit_is_committed_together() {
        let groups: Arc<Groups<usize, usize>> = Arc::new(Groups::new(8, 100, |item| *item));
        let (tasks, commits) = (TaskTracker::new(), Arc::new(AtomicUsize::new(0)));
        let (open, gate) = tokio::sync::watch::channel(false);
        let add = |item: usize| {
            let (groups, tasks, commits) =
                (Arc::clone(&groups), tasks.clone(), Arc::clone(&commits));
            let gate = gate.clone();
            async move {
                let commit = move |items: Vec<usize>| {
                    let number = commits.fetch_add(1, Ordering::Relaxed);
                    let mut gate = gate.clone();
                    async move {
                        gate.wait_for(|open| *open).await.unwrap();
                        match items.contains(&13) {
                            true => Err(StoreError::new(StoreErrorKind::Internal, "13")),
                            false => Ok(items.iter().map(|item| item * 1000 + number).collect()),
                        }
                    }
                };
                groups
                    .add(&tasks, item, commit)
                    .await
                    .map_err(|error| error.kind)
            }
        };
        let mut running = futures_util::stream::FuturesOrdered::new();
        // The first six have 100 bytes. Of the others, one makes the commit fail.
        for item in [1, 2, 3, 4, 60, 30, 60, 13, 5] {
            running.push_back(add(item));
        }
        // All of them are in the queue before the first commit ends.
        let opened = async {
            tokio::task::yield_now().await;
            open.send(true).unwrap();
        };
        let collect = futures_util::StreamExt::collect::<Vec<_>>(running);
        let (outcomes, ()) = tokio::join!(collect, opened);
        let failed = Err(StoreErrorKind::Internal);
        let expected = [
            Ok(1000),
            Ok(2000),
            Ok(3000),
            Ok(4000),
            Ok(60000),
            Ok(30000),
            failed,
            failed,
            failed,
        ];
        assert_eq!(outcomes, expected);
        tasks.close();
        tasks.wait().await;
        assert_eq!(commits.load(Ordering::Relaxed), 2);
    }
}
