//! The threads that serve, so that work which no connection brings can be spread over them.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The runtimes of all threads that serve.
#[derive(Default)]
pub(crate) struct Threads {
    runtimes: Mutex<Vec<Handle>>,
    next: AtomicUsize,
}

impl Threads {
    /// Notes the runtime of a thread.
    pub(crate) fn add(&self, runtime: Handle) {
        self.runtimes.lock().push(runtime);
    }

    /// Runs a task on one of the threads, each in turn, and tracks it.
    pub(crate) fn spawn(
        &self,
        tasks: &TaskTracker,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let runtime = {
            let runtimes = self.runtimes.lock();
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            runtimes.get(turn % runtimes.len().max(1)).cloned()
        };
        match runtime {
            Some(runtime) => _ = tasks.spawn_on(task, &runtime),
            None => _ = tasks.spawn(task),
        }
    }
}
