//! Listening, connections and shutdown: first accepting ends, then what is in flight, then the process.

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
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admin::Admin;
use crate::background;
use crate::context::Gateway;
use crate::proxy::{self, OutBody};
use crate::task_poll::PollScope;
use crate::write_limit::{self, WriteLimit};

/// A connection on which no request head is complete within this time is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Maximum size of a request head that is read, in bytes. It is larger than what is served, so that a 431 can be sent.
const READ_BUFFER: usize = 256 * 1024;
/// How long responses have to send their final error once `shutdown_timeout` has passed.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example when no files are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener, not yet serving.
pub struct Server {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    listener: TcpListener,
    capacity: Arc<Semaphore>,
}

impl Server {
    /// Binds the configured address. Fails where the port is in use.
    pub async fn bind(gw: Arc<Gateway>) -> io::Result<Self> {
        let listener = TcpListener::bind(gw.snapshot().settings.server.listen).await?;
        Ok(Self {
            admin: Arc::new(Admin::new(Arc::clone(&gw))),
            gw,
            listener,
            capacity: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        })
    }

    /// Limits the number of connections served at once; more wait until one ends. Each may need another connection to a
    /// provider, so half of the limit of open files is a good value.
    #[must_use]
    pub fn with_max_connections(self, connections: usize) -> Self {
        let capacity = Semaphore::new(connections.min(Semaphore::MAX_PERMITS));
        Self {
            capacity: Arc::new(capacity),
            ..self
        }
    }

    /// Where it listens. With port 0 configured, this has the port that the system chose.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, then lets requests in flight end within `server.shutdown_timeout`.
    /// Returns whether all of them did. The others are broken off, and their streams end with an error.
    ///
    /// Starts `threads` - 1 further threads, each with a single-threaded runtime of its own. All accept from the same
    /// listener, so a free thread takes the next connection. A connection stays on its thread.
    pub async fn serve(self, threads: usize, stop: impl Future<Output = ()>) -> io::Result<bool> {
        self.gw.telemetry.started(self.addr()?, &self.gw.snapshot());
        let (closing, closed) = watch::channel(());
        let (stop_workers, workers_stop) = watch::channel(());
        let Self {
            gw,
            admin,
            listener,
            capacity,
        } = self;
        let acceptor = Acceptor {
            gw: Arc::clone(&gw),
            admin,
            closed,
            capacity,
        };
        let listener = listener.into_std()?;
        gw.threads.add(Handle::current());
        for number in 2..=threads {
            acceptor
                .clone()
                .start_thread(number, listener.try_clone()?, workers_stop.clone())?;
        }
        tokio::select! {
            never = acceptor.accept_all(listener) => never?,
            never = background::run(&gw) => match never {},
            () = stop => {}
        }
        // The listener is closed by now. Connections finish their request and close.
        let _ = closing.send(());
        gw.tasks.close();
        let limit = gw.snapshot().settings.server.shutdown_timeout;
        let all_ended = tokio::time::timeout(limit, gw.tasks.wait()).await.is_ok();
        if !all_ended {
            gw.begin_abort();
            // Wakes every connection, so that its response ends as aborted.
            let _ = closing.send(());
            let _ = tokio::time::timeout(ABORT_GRACE, gw.tasks.wait()).await;
        }
        drop(stop_workers);
        gw.flush_at_end().await;
        Ok(all_ended)
    }
}

/// Accepts connections, on one thread.
#[derive(Clone)]
struct Acceptor {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    /// Signals when connections should finish, and again when `shutdown_timeout` has passed.
    closed: watch::Receiver<()>,
    /// One permit for each connection that is served.
    capacity: Arc<Semaphore>,
}

impl Acceptor {
    async fn accept_all(self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let permit = self.permit().await;
                    let Self {
                        gw, admin, closed, ..
                    } = self.clone();
                    let serving = connection(gw, admin, stream, peer, closed);
                    self.gw.tasks.spawn(PollScope::of(async move {
                        serving.await;
                        drop(permit);
                    }));
                }
                Err(error) => {
                    self.gw.telemetry.accept_failed(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A permit for a connection that was accepted. `None` never happens: nothing closes the semaphore.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.capacity).try_acquire_owned() {
            return Some(permit);
        }
        self.gw.telemetry.connection_limit_reached();
        Arc::clone(&self.capacity).acquire_owned().await.ok()
    }

    /// Starts a thread that serves until `workers_stop`, and accepts connections until the gateway closes.
    fn start_thread(
        self,
        number: usize,
        listener: std::net::TcpListener,
        mut workers_stop: watch::Receiver<()>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut closed, gw) = (self.closed.clone(), Arc::clone(&self.gw));
        gw.threads.add(runtime.handle().clone());
        let accepting = self.accept_all(listener);
        let serve = async move {
            tokio::select! {
                failed = accepting => drop(failed.inspect_err(|error| gw.telemetry.accept_failed(error))),
                _ = closed.changed() => {}
            }
            let _ = workers_stop.changed().await;
        };
        std::thread::Builder::new()
            .name(format!("keypool-{number}"))
            .spawn(move || {
                runtime.block_on(serve);
                // A name lookup that hangs must not keep the process alive.
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
    // Without this, small writes wait for acknowledgements: Nagle's algorithm and delayed ACKs add 40 ms.
    let _ = stream.set_nodelay(true);
    let telemetry_gw = Arc::clone(&gw);
    let ended = serve_http(gw, admin, WriteLimit::new(stream), peer, closed).await;
    // Other errors are the client's: it left, or it did not send HTTP.
    if let Err(error) = ended
        && write_limit::is_too_slow(&error)
    {
        telemetry_gw.telemetry.client_too_slow(peer);
    }
}

/// Resolves to the head of a response.
type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<OutBody>, Infallible>> + Send>>;

/// Answers the requests on one connection, one after the other.
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
        // Boxed, so that its memory is freed before the body is relayed: hyper reserves memory for it as long as the
        // connection is open. Unboxed, it made up a fifth of an idle stream's footprint.
        dispatch(&gw, &admin, peer, request)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(READ_BUFFER);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        // The second signal only has to wake the task: the relay checks for itself.
        tokio::select! {
            ended = serving.as_mut() => return ended,
            change = closed.changed() => {
                serving.as_mut().graceful_shutdown();
                if change.is_err() {
                    return serving.await;
                }
            }
        }
    }
}

/// Sends a request to the admin plane or the data plane.
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
