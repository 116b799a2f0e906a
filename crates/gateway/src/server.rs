//! Listening, connections, and the way out: accepting ends first, then what is in flight, then the process.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::context::Gateway;
use crate::proxy::{self, OutBody};
use crate::telemetry;
use crate::turn::Turns;
use crate::write_limit::WriteLimit;

/// A connection on which no request head is complete within this time is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Request heads up to this size are read, to be answered 431 where they are too large.
const READ_BUFFER: usize = 256 * 1024;
/// After an accept failed (no files left, …) the next is tried after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener, not yet serving.
pub struct Server {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    listener: TcpListener,
}

impl Server {
    /// Binds the configured address. Fails where the port is in use.
    pub async fn bind(gw: Arc<Gateway>) -> io::Result<Self> {
        let listener = TcpListener::bind(gw.snapshot().settings.server.listen).await?;
        Ok(Self {
            admin: Arc::new(Admin::new(Arc::clone(&gw))),
            gw,
            listener,
        })
    }

    /// Where it listens; with port 0 configured, the port that was given.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, then lets what is in flight end within `server.shutdown_timeout`.
    /// Says whether all of it did.
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
        } = self;
        let acceptor = Acceptor {
            gw: Arc::clone(&gw),
            admin,
            closed,
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
        drop(closing);
        gw.tasks.close();
        let limit = gw.snapshot().settings.server.shutdown_timeout;
        let all_ended = tokio::time::timeout(limit, gw.tasks.wait()).await.is_ok();
        drop(ending);
        Ok(all_ended)
    }
}

/// Takes connections, on one thread.
#[derive(Clone)]
struct Acceptor {
    gw: Arc<Gateway>,
    admin: Arc<Admin>,
    /// Says when connections are to finish.
    closed: watch::Receiver<()>,
}

impl Acceptor {
    async fn accept_all(self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Self { gw, admin, closed } = self.clone();
                    self.gw
                        .tasks
                        .spawn(Turns::of(connection(gw, admin, stream, peer, closed)));
                }
                Err(error) => {
                    telemetry::accept_failed(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
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
    mut closed: watch::Receiver<()>,
) {
    // Without this, small writes wait for acknowledgements (Nagle against delayed ACK: 40 ms).
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (gw, admin) = (Arc::clone(&gw), Arc::clone(&admin));
        async move { Ok::<_, Infallible>(dispatch(&gw, &admin, peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(READ_BUFFER);
    let mut serving =
        std::pin::pin!(builder.serve_connection(TokioIo::new(WriteLimit::new(stream)), service));
    // Errors here are the client's: it left, or what it sent is no HTTP.
    tokio::select! {
        _ = serving.as_mut() => {}
        _ = closed.changed() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

/// The one fork between the two planes.
async fn dispatch(
    gw: &Arc<Gateway>,
    admin: &Admin,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<OutBody> {
    if Admin::serves(request.uri().path()) {
        return admin.answer(peer, request).await;
    }
    proxy::handle(gw, peer, request).await
}
