//! Listening, connections, and the way out: accepting ends first, then what is in flight, then the process.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admin::Admin;
use crate::context::Gateway;
use crate::proxy::{self, OutBody};
use crate::task_poll::CountPolls;
use crate::telemetry::{self, LogThrottle};
use crate::write_limit::{self, WriteLimit};

/// A connection on which no request head is complete within this time is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Request heads up to this size are read, to be answered 431 where they are too large.
const READ_BUFFER: usize = 256 * 1024;
/// When the time of a shutdown is up, answers that break off have so long to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After an accept failed (no files left, …) the next is tried after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener, not yet serving.
pub struct Server {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Server {
    /// Binds the configured address. Fails where the port is in use.
    pub async fn bind(gw: Arc<Gateway>) -> io::Result<Self> {
        let listener = TcpListener::bind(gw.snapshot().settings.server.listen).await?;
        Ok(Self {
            admin: Arc::new(Admin::new(Arc::clone(&gw))),
            gw,
            listener,
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        })
    }

    /// Serves so many connections at once at most; more wait until one ends. Each may need another connection to a
    /// provider, so that half of the files that may be open is a good measure.
    #[must_use]
    pub fn with_room_for(self, connections: usize) -> Self {
        let room = Semaphore::new(connections.min(Semaphore::MAX_PERMITS));
        Self {
            room: Arc::new(room),
            ..self
        }
    }

    /// Where it listens; with port 0 configured, the port that was given.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, then lets what is in flight end within `server.shutdown_timeout`.
    /// Says whether all of it did; what did not is broken off, and streams say so to their clients.
    ///
    /// `threads` beyond the first are started here, each with a single-threaded runtime of its own; they take
    /// connections from the same listener, so whoever is free takes the next. A connection stays where it is.
    pub async fn serve(self, threads: usize, stop: impl Future<Output = ()>) -> io::Result<bool> {
        telemetry::started(self.addr()?, &self.gw.snapshot());
        let (closing, closed) = watch::channel(());
        let (ending, ended) = watch::channel(());
        let Self {
            gw,
            admin,
            listener,
            room,
        } = self;
        let acceptor = Acceptor {
            gw: Arc::clone(&gw),
            admin,
            closed,
            room,
            trouble: Arc::default(),
        };
        let listener = listener.into_std()?;
        for number in 2..=threads {
            acceptor
                .clone()
                .start_thread(number, listener.try_clone()?, ended.clone())?;
        }
        tokio::select! {
            never = acceptor.accept_all(listener) => never?,
            () = stop => {}
        }
        // The listener is closed by now; connections finish their request and go.
        let _ = closing.send(());
        gw.tasks.close();
        let limit = gw.snapshot().settings.server.shutdown_timeout;
        let all_ended = tokio::time::timeout(limit, gw.tasks.wait()).await.is_ok();
        if !all_ended {
            gw.begin_ending();
            // Wakes every connection, and so the answer that it relays.
            let _ = closing.send(());
            let _ = tokio::time::timeout(LAST_WORDS, gw.tasks.wait()).await;
        }
        drop(ending);
        Ok(all_ended)
    }
}

/// Takes connections, on one thread.
#[derive(Clone)]
struct Acceptor {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    /// Says when connections are to finish, and again when their time is up.
    closed: watch::Receiver<()>,
    /// One permit for each connection that is served.
    room: Arc<Semaphore>,
    /// Troubles of accepting come many times a second, and are told once.
    trouble: Arc<LogThrottle>,
}

impl Acceptor {
    async fn accept_all(self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let place = self.place().await;
                    let Self {
                        gw, admin, closed, ..
                    } = self.clone();
                    let serving = connection(gw, admin, stream, peer, closed);
                    self.gw.tasks.spawn(CountPolls::of(async move {
                        serving.await;
                        drop(place);
                    }));
                }
                Err(error) => {
                    if self.trouble.is_due() {
                        telemetry::accept_failed(&error);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The place of a connection that has come. `None` never happens: nobody closes the semaphore.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(place);
        }
        if self.trouble.is_due() {
            telemetry::no_room();
        }
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Starts a thread that serves until `ended`, and takes connections until the gateway closes.
    fn start_thread(
        self,
        number: usize,
        listener: std::net::TcpListener,
        mut ended: watch::Receiver<()>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut closed = self.closed.clone();
        let serve = async move {
            tokio::select! {
                failed = self.accept_all(listener) => drop(failed.inspect_err(telemetry::accept_failed)),
                _ = closed.changed() => {}
            }
            let _ = ended.changed().await;
        };
        std::thread::Builder::new()
            .name(format!("keypool-{number}"))
            .spawn(move || {
                runtime.block_on(serve);
                // A name look-up that hangs must not keep the process.
                runtime.shutdown_background();
            })?;
        Ok(())
    }
}

/// Serves one connection to its end.
async fn connection(
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    stream: TcpStream,
    peer: SocketAddr,
    closed: watch::Receiver<()>,
) {
    // Without this, small writes wait for acknowledgements (Nagle against delayed ACK: 40 ms).
    let _ = stream.set_nodelay(true);
    let ended = serve_http(gw, admin, WriteLimit::new(stream), peer, closed).await;
    // Other errors are the client's: it left, or what it sent is no HTTP.
    if let Err(error) = ended
        && write_limit::is_too_slow(&error)
    {
        telemetry::client_too_slow(peer);
    }
}

/// A request on its way to the head of its answer.
type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<OutBody>, Infallible>> + Send>>;

/// Answers the requests that come over a stream, one after the other.
async fn serve_http<S>(
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    stream: S,
    peer: SocketAddr,
    mut closed: watch::Receiver<()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        // Boxed, so that its memory is free again while the answer is relayed: hyper keeps room for it as long as the
        // connection is open.
        dispatch(&gw, &admin, peer, request)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(READ_BUFFER);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        // The second time, to be woken is all: the answer that is being relayed looks for itself.
        tokio::select! {
            ended = serving.as_mut() => return ended,
            told = closed.changed() => {
                serving.as_mut().graceful_shutdown();
                if told.is_err() {
                    return serving.await;
                }
            }
        }
    }
}

/// The one fork between the two planes.
fn dispatch(
    gw: &Arc<Gateway>,
    admin: &Arc<Admin>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> BoxFuture {
    if Admin::serves(request.uri().path()) {
        let admin = Arc::clone(admin);
        return Box::pin(async move { Ok(admin.answer(peer, request).await) });
    }
    Box::pin(proxy::handle(Arc::clone(gw), peer, request))
}

#[cfg(test)]
mod tests;
