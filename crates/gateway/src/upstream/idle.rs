//! Connections that wait for their next request, by where they lead: those of HTTP/1.1, of which the one used last
//! comes first, and those of HTTP/2, which are shared.

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

/// A connection idle for longer is not used again: the provider is likely to close it at any moment.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// How often those that wait are looked at: a provider closes what it no longer wants.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// So many are kept for one destination.
const MAX_PER_DESTINATION: usize = 512;

/// Where a connection leads, and by which way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) origin: Arc<str>,
    pub(super) proxy: Option<ProxyUrl>,
}

/// Each thread keeps those that its calls used last, and takes another's where it has none. The runtime of the thread
/// that opened a connection goes on to see what happens on it.
#[derive(Default)]
pub(super) struct IdleConnections {
    by_thread: ThreadLocal<Mutex<ByDestination>>,
    /// A task looks at those that wait.
    is_swept: AtomicBool,
}

type ByDestination = HashMap<Destination, Kept>;

#[derive(Default)]
struct Kept {
    idle: Vec<Idle>,
    shared: Vec<Http2>,
    /// The provider chose HTTP/1.1 last time: nobody waits for another's connection.
    chose_http1: bool,
    opening: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

/// What can carry a request.
pub(super) enum Carrier {
    /// A connection of its own.
    Http1(Box<Http1>),
    /// A stream of a shared one.
    Http2(Stream),
}

impl IdleConnections {
    /// A connection that is still open, as far as one can see.
    pub(super) fn take(&self, destination: &Destination) -> Option<Carrier> {
        let own = self.by_thread.get_or_default();
        let others = self.by_thread.iter();
        // This thread's own, or else another's: a connection that is open saves the way to the provider and back.
        std::iter::once(own)
            .chain(others)
            .find_map(|by_destination| by_destination.lock().get_mut(destination)?.newest())
    }

    /// A stream of a shared connection.
    pub(super) fn stream(&self, destination: &Destination) -> Option<Stream> {
        let others = self.by_thread.iter();
        std::iter::once(self.by_thread.get_or_default())
            .chain(others)
            .find_map(|by_destination| by_destination.lock().get_mut(destination)?.stream())
    }

    /// What to wait for before a connection is opened; `None` where each request needs one of its own.
    pub(super) fn opening(&self, destination: &Destination) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut by_destination = self.by_thread.get_or_default().lock();
        let kept = entry(&mut by_destination, destination.clone());
        (!kept.chose_http1).then(|| Arc::clone(&kept.opening))
    }

    /// The provider chose HTTP/1.1.
    pub(super) fn note_http1(&self, destination: &Destination) {
        let mut by_destination = self.by_thread.get_or_default().lock();
        entry(&mut by_destination, destination.clone()).chose_http1 = true;
    }

    /// Keeps a connection for the next request, if it takes one.
    pub(super) fn put(self: &Arc<Self>, destination: Destination, mut connection: Box<Http1>) {
        if !connection.is_free() || connection.is_over() {
            return;
        }
        let mut by_destination = self.by_thread.get_or_default().lock();
        let idle = &mut entry(&mut by_destination, destination).idle;
        if idle.len() >= MAX_PER_DESTINATION {
            idle.retain_mut(Idle::is_useful);
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

    /// Starts a task that closes what is of no more use, until nothing is left; unless there is one.
    #[expect(
        clippy::disallowed_methods,
        reason = "tidies up behind the calls; a shutdown does not wait for it"
    )]
    fn sweep(self: &Arc<Self>) {
        if self.is_swept.load(Ordering::Relaxed) || self.is_swept.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(SWEEP_EVERY).await;
                this.is_swept.store(false, Ordering::SeqCst);
                if !this.forget_useless() || this.is_swept.swap(true, Ordering::SeqCst) {
                    break;
                }
            }
        });
    }

    /// Closes what waits in vain; says whether anything still waits.
    fn forget_useless(&self) -> bool {
        let mut is_any_left = false;
        for by_destination in self.by_thread.iter() {
            for kept in by_destination.lock().values_mut() {
                kept.idle.retain_mut(Idle::is_useful);
                kept.forget_useless();
                is_any_left |= !kept.idle.is_empty() || !kept.shared.is_empty();
            }
        }
        is_any_left
    }

    /// Keeps a connection that other requests may share from now on; those that wait for `permit` first of all.
    pub(super) fn share(
        self: &Arc<Self>,
        destination: Destination,
        connection: Http2,
        permit: Option<ConnectPermit>,
    ) {
        let mut by_destination = self.by_thread.get_or_default().lock();
        let kept = entry(&mut by_destination, destination);
        kept.chose_http1 = false;
        kept.forget_useless();
        connection.keep_permit(permit);
        if kept.shared.len() < MAX_PER_DESTINATION {
            kept.shared.push(connection);
        }
        drop(by_destination);
        self.sweep();
    }
}

impl Idle {
    fn is_useful(&mut self) -> bool {
        self.since.elapsed() <= MAX_IDLE && !self.connection.is_over()
    }
}

fn entry(by_destination: &mut ByDestination, destination: Destination) -> &mut Kept {
    if !by_destination.contains_key(&destination) {
        // A new destination: those of an earlier configuration may have ended.
        by_destination.retain(|_, kept| kept.is_in_use());
    }
    by_destination.entry(destination).or_default()
}

impl Kept {
    fn is_in_use(&mut self) -> bool {
        self.forget_useless();
        let last = self.idle.last();
        last.is_some_and(|last| last.since.elapsed() <= MAX_IDLE)
            || !self.shared.is_empty()
            || Arc::strong_count(&self.opening) > 1
    }

    fn newest(&mut self) -> Option<Carrier> {
        if let Some(stream) = self.stream() {
            return Some(Carrier::Http2(stream));
        }
        while let Some(mut newest) = self.idle.pop() {
            if newest.is_useful() {
                return Some(Carrier::Http1(newest.connection));
            }
        }
        None
    }

    /// A stream of the first connection with room, so that few carry all and the others grow idle.
    fn stream(&mut self) -> Option<Stream> {
        self.forget_useless();
        self.shared
            .iter()
            .find_map(|connection| connection.stream(true))
    }

    fn forget_useless(&mut self) {
        self.shared
            .retain(|connection| !connection.is_over() && !connection.idle_for(MAX_IDLE));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::either::Either;

    use super::*;

    /// More than a task may do before others have their permit.
    const MANY: usize = 300;

    /// Kept connections, and the provider's side of each.
    async fn kept(idle: &Arc<IdleConnections>, destination: &Destination) -> Vec<TcpStream> {
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

    /// Loopback delivers within the call that sends: what was sent before has come when this has.
    async fn all_delivered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, accepted) = tokio::join!(ours, listener.accept());
        accepted.unwrap().0.write_all(b".").await.unwrap();
        let mut ours = ours.unwrap();
        ours.read_exact(&mut [0]).await.unwrap();
    }

    /// In a task, which has a budget of what it may do at once.
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
    async fn of_many_connections_none_is_taken_that_is_closed_or_says_something_unasked() {
        for says in [
            None,
            Some(&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..]),
        ] {
            let idle = Arc::new(IdleConnections::default());
            let destination = Destination {
                origin: "http://provider".into(),
                proxy: None,
            };
            let mut theirs = kept(&idle, &destination).await;
            let here = destination.clone();
            let taken = in_a_task(&idle, move |idle| idle.take(&here)).await;
            assert!(taken.is_some(), "an open one");
            match says {
                None => theirs.clear(),
                Some(says) => {
                    for stream in &mut theirs {
                        stream.write_all(says).await.unwrap();
                    }
                }
            }
            all_delivered().await;
            let swept = in_a_task(&idle, |idle| !idle.forget_useless()).await;
            assert!(swept, "one is left: {says:?}");

            drop(kept(&idle, &destination).await);
            all_delivered().await;
            let taken = in_a_task(&idle, move |idle| idle.take(&destination)).await;
            assert!(taken.is_none(), "{says:?}");
        }
    }
}
