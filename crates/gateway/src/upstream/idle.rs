//! Connections kept for later requests, by destination: idle HTTP/1.1 connections, the most recently used first, and
//! shared HTTP/2 connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keypool_core::proxy_url::ProxyUrl;
use parking_lot::Mutex;
use thread_local::ThreadLocal;
use tokio::time::{Instant, sleep};

use super::http1::Http1;
use super::http2::{ConnectPermit, Http2, Stream};

/// A connection that was idle for longer is not reused: the provider is likely to close it at any moment.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// How often idle connections are checked: providers close those that they no longer want.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of connections of each kind kept per thread and destination.
const MAX_PER_DESTINATION: usize = 512;

/// Where a connection leads, and through which proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) origin: Arc<str>,
    pub(super) proxy: Option<ProxyUrl>,
}

/// Kept connections per thread, with stealing. A stolen connection stays registered with the runtime of the thread that
/// opened it.
#[derive(Default)]
pub(super) struct IdleConnections {
    by_thread: ThreadLocal<Mutex<ByDestination>>,
    /// A sweep task is running.
    sweep_runs: AtomicBool,
}

type ByDestination = HashMap<Destination, PerDestination>;

#[derive(Default)]
struct PerDestination {
    idle: Vec<Idle>,
    shared: Vec<Http2>,
    /// The provider chose HTTP/1.1 last time, so calls do not wait for a shared connection.
    is_http1: bool,
    /// Held by the call that opens a connection which others may share.
    connect_lock: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

/// What carries a request.
pub(super) enum Carrier {
    /// An exclusive connection.
    Http1(Box<Http1>),
    /// A stream of a shared connection.
    Http2(Stream),
}

impl IdleConnections {
    /// Takes a connection that appears to be open.
    pub(super) fn take(&self, destination: &Destination) -> Option<Carrier> {
        self.find(destination, PerDestination::take)
    }

    /// Opens a stream on a shared connection that has capacity.
    pub(super) fn reserve_stream(&self, destination: &Destination) -> Option<Stream> {
        self.find(destination, PerDestination::reserve_stream)
    }

    /// This thread's connections come first, then another's: reusing an open connection saves round trips.
    fn find<T>(
        &self,
        destination: &Destination,
        find: impl Fn(&mut PerDestination) -> Option<T>,
    ) -> Option<T> {
        std::iter::once(self.by_thread.get_or_default())
            .chain(self.by_thread.iter())
            .find_map(|by_destination| find(by_destination.lock().get_mut(destination)?))
    }

    /// The lock to take before opening a connection; `None` if the provider speaks HTTP/1.1, so that connections cannot be
    /// shared.
    pub(super) fn connect_lock(
        &self,
        destination: &Destination,
    ) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut by_destination = self.by_thread.get_or_default().lock();
        let connections = entry(&mut by_destination, destination.clone());
        (!connections.is_http1).then(|| Arc::clone(&connections.connect_lock))
    }

    /// Records that the provider chose HTTP/1.1.
    pub(super) fn record_http1(&self, destination: &Destination) {
        let mut by_destination = self.by_thread.get_or_default().lock();
        entry(&mut by_destination, destination.clone()).is_http1 = true;
    }

    /// Keeps a connection for later requests if it can carry more.
    pub(super) fn put(self: &Arc<Self>, destination: Destination, mut connection: Box<Http1>) {
        if !connection.is_free() || connection.is_unusable() {
            return;
        }
        let mut by_destination = self.by_thread.get_or_default().lock();
        let idle = &mut entry(&mut by_destination, destination).idle;
        if idle.len() >= MAX_PER_DESTINATION {
            idle.retain_mut(Idle::is_usable);
        }
        if idle.len() < MAX_PER_DESTINATION {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
        drop(by_destination);
        self.sweep();
    }

    /// Starts the task that closes unusable connections until none is left, unless it already runs.
    #[expect(
        clippy::disallowed_methods,
        reason = "cleans up after calls; a shutdown does not wait for it"
    )]
    fn sweep(self: &Arc<Self>) {
        if self.sweep_runs.load(Ordering::Relaxed) || self.sweep_runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(SWEEP_EVERY).await;
                this.sweep_runs.store(false, Ordering::SeqCst);
                if !this.evict_unusable() || this.sweep_runs.swap(true, Ordering::SeqCst) {
                    break;
                }
            }
        });
    }

    /// Closes connections that cannot be reused. Returns whether any are left.
    fn evict_unusable(&self) -> bool {
        let mut is_any_left = false;
        for by_destination in self.by_thread.iter() {
            for connections in by_destination.lock().values_mut() {
                connections.idle.retain_mut(Idle::is_usable);
                connections.evict_shared();
                is_any_left |= !connections.idle.is_empty() || !connections.shared.is_empty();
            }
        }
        is_any_left
    }

    /// Keeps a connection that other requests may share from now on. Those waiting for `permit` come first.
    pub(super) fn share(
        self: &Arc<Self>,
        destination: Destination,
        connection: Http2,
        permit: Option<ConnectPermit>,
    ) {
        let mut by_destination = self.by_thread.get_or_default().lock();
        let connections = entry(&mut by_destination, destination);
        connections.is_http1 = false;
        connections.evict_shared();
        connection.hold_permit(permit);
        if connections.shared.len() < MAX_PER_DESTINATION {
            connections.shared.push(connection);
        }
        drop(by_destination);
        self.sweep();
    }
}

impl Idle {
    fn is_usable(&mut self) -> bool {
        self.since.elapsed() <= MAX_IDLE && !self.connection.is_unusable()
    }
}

fn entry(by_destination: &mut ByDestination, destination: Destination) -> &mut PerDestination {
    if !by_destination.contains_key(&destination) {
        // A new destination: destinations of an earlier configuration may no longer be used.
        by_destination.retain(|_, connections| connections.is_in_use());
    }
    by_destination.entry(destination).or_default()
}

impl PerDestination {
    fn is_in_use(&mut self) -> bool {
        self.evict_shared();
        let last = self.idle.last();
        last.is_some_and(|last| last.since.elapsed() <= MAX_IDLE)
            || !self.shared.is_empty()
            || Arc::strong_count(&self.connect_lock) > 1
    }

    fn take(&mut self) -> Option<Carrier> {
        if let Some(stream) = self.reserve_stream() {
            return Some(Carrier::Http2(stream));
        }
        while let Some(mut newest) = self.idle.pop() {
            if newest.is_usable() {
                return Some(Carrier::Http1(newest.connection));
            }
        }
        None
    }

    /// Opens a stream on the first connection with capacity, so that few connections carry all calls and the others become
    /// idle.
    fn reserve_stream(&mut self) -> Option<Stream> {
        self.evict_shared();
        self.shared
            .iter()
            .find_map(|connection| connection.reserve_stream(true))
    }

    /// Closes shared connections that are retired or were idle for too long.
    fn evict_shared(&mut self) {
        self.shared
            .retain(|connection| !connection.is_retired() && !connection.idle_for(MAX_IDLE));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::either::Either;

    use super::*;

    /// More operations than a task may do before it has to yield.
    const MANY: usize = 300;

    /// Kept connections, and the provider's side of each.
    async fn kept_connections(
        idle: &Arc<IdleConnections>,
        destination: &Destination,
    ) -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut theirs = Vec::new();
        for _ in 0..MANY {
            let ours = TcpStream::connect(listener.local_addr().unwrap());
            let (ours, accepted) = tokio::join!(ours, listener.accept());
            let transport = Either::Left(Either::Left(ours.unwrap()));
            idle.put(destination.clone(), Box::new(Http1::new(transport)));
            theirs.push(accepted.unwrap().0);
        }
        theirs
    }

    /// Loopback delivers within the call that sends: once this has arrived, everything sent before has.
    async fn all_delivered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, accepted) = tokio::join!(ours, listener.accept());
        accepted.unwrap().0.write_all(b".").await.unwrap();
        let mut ours = ours.unwrap();
        ours.read_exact(&mut [0]).await.unwrap();
    }

    /// Runs `act` in a task, which has a coop budget.
    async fn in_a_task<T: Send + 'static>(
        idle: &Arc<IdleConnections>,
        act: impl FnOnce(&IdleConnections) -> T + Send + 'static,
    ) -> T {
        let idle = Arc::clone(idle);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { act(&idle) });
        tasks.join_next().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn closed_connections_and_those_with_unasked_bytes_are_never_taken() {
        for sent in [
            None,
            Some(&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..]),
        ] {
            let idle = Arc::new(IdleConnections::default());
            let destination = Destination {
                origin: "http://provider".into(),
                proxy: None,
            };
            let mut theirs = kept_connections(&idle, &destination).await;
            let same = destination.clone();
            let taken = in_a_task(&idle, move |idle| idle.take(&same)).await;
            assert!(taken.is_some(), "an open connection is taken");
            match sent {
                None => theirs.clear(),
                Some(bytes) => {
                    for stream in &mut theirs {
                        stream.write_all(bytes).await.unwrap();
                    }
                }
            }
            all_delivered().await;
            let none_left = in_a_task(&idle, |idle| !idle.evict_unusable()).await;
            assert!(none_left, "none is left: {sent:?}");

            drop(kept_connections(&idle, &destination).await);
            all_delivered().await;
            let taken = in_a_task(&idle, move |idle| idle.take(&destination)).await;
            assert!(taken.is_none(), "{sent:?}");
        }
    }
}
