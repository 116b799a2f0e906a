//! Connections that wait for their next request, by origin; the one used last comes first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use thread_local::ThreadLocal;
use tokio::time::{Instant, timeout};

use super::Pieces;

/// A connection idle for longer is not used again: the provider is likely to close it at any moment.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// A connection that is not ready for its next request by then is given up.
const READY_WITHIN: Duration = Duration::from_millis(100);
/// So many are kept for one origin.
const MAX_PER_ORIGIN: usize = 512;

/// Each thread keeps its own: a connection is driven by the thread that opened it, and best used there.
#[derive(Default)]
pub(super) struct IdleConnections {
    by_thread: ThreadLocal<Mutex<ByOrigin>>,
}

type ByOrigin = HashMap<Arc<str>, Vec<Idle>>;

struct Idle {
    sender: SendRequest<Pieces>,
    since: Instant,
}

impl IdleConnections {
    /// A connection that is still open and ready.
    pub(super) async fn take(&self, origin: &Arc<str>) -> Option<SendRequest<Pieces>> {
        let mut sender = self.newest_open(origin)?;
        // The answer was read to its end, so this is at most a turn of the connection's task; unless the provider
        // answered before it had read the whole request, which makes the connection useless.
        let ready = timeout(READY_WITHIN, sender.ready()).await;
        matches!(ready, Ok(Ok(()))).then_some(sender)
    }

    /// This thread's own, or else another's: a connection that is open saves the way to the provider and back.
    fn newest_open(&self, origin: &Arc<str>) -> Option<SendRequest<Pieces>> {
        let own = self.by_thread.get_or_default();
        let others = self.by_thread.iter();
        std::iter::once(own)
            .chain(others)
            .find_map(|by_origin| newest_open_of(&mut by_origin.lock(), origin))
    }

    pub(super) fn put(&self, origin: Arc<str>, sender: SendRequest<Pieces>) {
        if sender.is_closed() {
            return;
        }
        let mut by_origin = self.by_thread.get_or_default().lock();
        if !by_origin.contains_key(&origin) {
            // A new origin: those of an earlier configuration may have ended.
            by_origin.retain(|_, idle| {
                idle.last()
                    .is_some_and(|last| last.since.elapsed() <= MAX_IDLE)
            });
        }
        let idle = by_origin.entry(origin).or_default();
        if idle.len() >= MAX_PER_ORIGIN {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() <= MAX_IDLE);
        }
        if idle.len() < MAX_PER_ORIGIN {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

fn newest_open_of(by_origin: &mut ByOrigin, origin: &Arc<str>) -> Option<SendRequest<Pieces>> {
    let idle = by_origin.get_mut(origin)?;
    while let Some(newest) = idle.pop() {
        if newest.since.elapsed() > MAX_IDLE {
            // Those below it have waited longer still.
            by_origin.remove(origin);
            return None;
        }
        if !newest.sender.is_closed() {
            return Some(newest.sender);
        }
    }
    None
}
