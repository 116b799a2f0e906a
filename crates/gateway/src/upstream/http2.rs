//! HTTP/2 to a provider: one connection carries many calls, each on a stream of its own.
//!
//! Beyond the provider's limit on concurrent streams, hyper queues requests without a bound, behind calls that may last
//! minutes. So streams are counted here, and none is opened beyond that limit.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Resend;
use super::{ConnectionError, ErrorKind, MAX_HEAD, RequestBody, UpstreamError, UpstreamRequest};

/// Maximum number of calls on one connection, even if the provider allows more: when it breaks, all of them fail.
const MAX_STREAMS: usize = 100;
/// How much of one response the provider may send before it is read, in bytes: enough for 10 MB/s at 100 ms latency.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all responses on a connection together, in bytes: slow readers must not hold up the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A connection with open streams that was silent for this long is pinged.
const PING_AFTER: Duration = Duration::from_secs(20);
/// A connection that does not answer a ping within this time is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Sentinel: SETTINGS_MAX_CONCURRENT_STREAMS not received yet. No peer sends this value.
const SETTINGS_NOT_RECEIVED: usize = 0x6b65_7970;

/// The right to open a connection that other calls may share. They wait until it is dropped.
pub(super) type ConnectPermit = tokio::sync::OwnedMutexGuard<()>;

/// An open connection.
pub(super) struct Http2 {
    sender: SendRequest<RequestBody>,
    authority: Authority,
    state: Arc<State>,
}

/// Capacity for one call on a connection. Dropping it gives the capacity back.
pub(super) struct Stream {
    sender: SendRequest<RequestBody>,
    authority: Authority,
    state: Arc<State>,
    /// The connection was reused, and carried no other call when this one began.
    was_idle: bool,
}

struct State {
    /// Number of streams in flight.
    open: AtomicUsize,
    /// Maximum number of streams in flight. One until the provider's settings arrive.
    max_streams: AtomicUsize,
    settings_received: AtomicBool,
    /// No more streams may be opened.
    retired: AtomicBool,
    /// A task of hyper was polled, so the settings may have arrived.
    progress: Notify,
    last_used: Mutex<Instant>,
    /// Held until the provider's settings say how many calls the connection takes; other calls wait for it.
    permit: Mutex<Option<ConnectPermit>>,
}

impl Http2 {
    /// Reserves capacity for a call, if there is any. `reused`: the connection carried calls before.
    pub(super) fn reserve_stream(&self, reused: bool) -> Option<Stream> {
        if self.is_retired() {
            return None;
        }
        let max = self.state.max_streams.load(Ordering::SeqCst);
        let open = self
            .state
            .open
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
                (open < max).then_some(open + 1)
            })
            .ok()?;
        Some(Stream {
            sender: self.sender.clone(),
            authority: self.authority.clone(),
            state: Arc::clone(&self.state),
            was_idle: reused && open == 0,
        })
    }

    /// Holds `permit` until the provider has said how many calls it takes.
    pub(super) fn hold_permit(&self, permit: Option<ConnectPermit>) {
        let mut held = self.state.permit.lock();
        if !self.state.has_settings() && !self.is_retired() {
            *held = permit;
        }
    }

    /// Whether no more calls may begin on this connection.
    pub(super) fn is_retired(&self) -> bool {
        self.sender.is_closed() || self.state.retired.load(Ordering::SeqCst)
    }

    /// Whether the connection was idle for longer than `limit`.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        self.state.open.load(Ordering::SeqCst) == 0 && self.state.last_used.lock().elapsed() > limit
    }
}

impl Stream {
    /// Sends a request and returns the head of its response. Cancelling the future resets the stream.
    pub(super) async fn send(
        &mut self,
        request: UpstreamRequest<'_>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let Some(request) = request.into_http2(&self.authority) else {
            let kind = ErrorKind::NoResponse(ConnectionError::Address);
            return Err(UpstreamError::unsent(kind));
        };
        let mut error = match self.sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let was_not_sent = error.take_message().is_some();
        let source = error.into_error();
        let reason = source_as::<h2::Error>(&source);
        let unsent = was_not_sent || reason.is_some_and(is_unprocessed);
        if unsent || !reason.is_some_and(h2::Error::is_reset) {
            self.state.retire();
        }
        let is_closed =
            source.is_canceled() || source.is_closed() || source_as::<io::Error>(&source).is_some();
        Err(UpstreamError {
            resend: match unsent {
                true => Resend::Always,
                false if self.was_idle && is_closed => Resend::IfRepeatable,
                false => Resend::Never,
            },
            may_have_run: !unsent,
            kind: ErrorKind::NoResponse(ConnectionError::Http2(source)),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *self.state.last_used.lock() = Instant::now();
        self.state.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    fn new() -> Self {
        Self {
            open: AtomicUsize::new(0),
            max_streams: AtomicUsize::new(1),
            settings_received: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            progress: Notify::new(),
            last_used: Mutex::new(Instant::now()),
            permit: Mutex::new(None),
        }
    }

    fn has_settings(&self) -> bool {
        self.settings_received.load(Ordering::SeqCst)
    }

    /// Applies the provider's stream limit once it has arrived. A connection that allows no streams is useless.
    fn apply_settings(&self, max_streams: usize) {
        if max_streams == SETTINGS_NOT_RECEIVED {
            return;
        }
        if max_streams == 0 {
            self.retire();
        }
        self.max_streams
            .store(max_streams.min(MAX_STREAMS), Ordering::SeqCst);
        if !self.settings_received.swap(true, Ordering::SeqCst) {
            self.release_permit();
        }
    }

    fn release_permit(&self) {
        *self.permit.lock() = None;
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }
}

/// Starts HTTP/2 on `stream`.
pub(super) async fn handshake<S>(stream: S, authority: Authority) -> io::Result<Http2>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(State::new());
    let mut builder = Builder::new(Tasks(Arc::clone(&state)));
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(SETTINGS_NOT_RECEIVED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT);
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    spawn(drive(connection, Arc::clone(&state)));
    Ok(Http2 {
        sender,
        authority,
        state,
    })
}

/// Drives the connection until it ends, and applies the provider's settings.
async fn drive<S>(connection: Connection<TokioIo<S>, RequestBody, Tasks>, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(connection);
    loop {
        let serving = poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            state.apply_settings(connection.current_max_send_streams());
            ended
        });
        tokio::select! {
            biased;
            _ = serving => break,
            () = state.progress.notified() => {}
        }
    }
    state.retire();
    state.release_permit();
}

/// Runs hyper's tasks. Until the provider's settings have arrived, each poll is reported, because it may have read them.
#[derive(Clone)]
struct Tasks(Arc<State>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let state = Arc::clone(&self.0);
        spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let ended = task.as_mut().poll(cx);
                if !state.has_settings() {
                    state.progress.notify_one();
                }
                ended
            })
            .await;
        });
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a shutdown waits for the calls on a connection, not for the connection"
)]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

fn source_as<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the provider guarantees that it has not processed the request (RFC 9113 §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // GOAWAY ends only the streams above its last stream id.
    error.is_remote() && (refused || error.is_go_away())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, Method};
    use tokio::io::DuplexStream;
    use tokio::time::timeout;

    use super::super::idle::{Destination, IdleConnections};
    use super::*;

    async fn opened() -> (Http2, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let authority = Authority::from_static("provider");
        (handshake(ours, authority).await.unwrap(), theirs)
    }

    /// The provider's side, which allows `streams`.
    async fn provider(
        io: DuplexStream,
        streams: u32,
    ) -> h2::server::Connection<DuplexStream, Bytes> {
        let mut builder = h2::server::Builder::new();
        let builder = builder.max_concurrent_streams(streams);
        builder.handshake(io).await.unwrap()
    }

    fn streams(connection: &Http2) -> Vec<Stream> {
        std::iter::from_fn(|| connection.reserve_stream(true)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_is_allowed_until_the_settings_arrive() {
        for (allowed, expect) in [(3, 3), (100, 100), (5000, 100)] {
            let (connection, io) = opened().await;
            let connect_lock = Arc::new(tokio::sync::Mutex::new(()));
            let permit = Arc::clone(&connect_lock).lock_owned().await;
            connection.hold_permit(Some(permit));
            let first = streams(&connection);
            assert_eq!(first.len(), 1);
            assert!(connect_lock.try_lock().is_err(), "others wait");
            let mut provider = provider(io, allowed).await;
            let released = async {
                tokio::select! {
                    _ = provider.accept() => unreachable!("nothing is sent"),
                    _ = connect_lock.lock() => {}
                }
            };
            timeout(Duration::from_secs(60), released).await.unwrap();
            let others = streams(&connection);
            assert_eq!(first.len() + others.len(), expect, "of {allowed}");
            drop(others);
            assert_eq!(
                streams(&connection).len(),
                expect - 1,
                "capacity is given back"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_allows_no_streams_is_retired() {
        let (connection, io) = opened().await;
        let mut provider = provider(io, 0).await;
        let retired = async {
            tokio::select! {
                _ = provider.accept() => unreachable!("nothing is sent"),
                () = async { while !connection.is_retired() { tokio::task::yield_now().await } } => {}
            }
        };
        timeout(Duration::from_secs(60), retired).await.unwrap();
        assert!(connection.reserve_stream(true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_is_closed_after_a_while() {
        let (connection, io) = opened().await;
        let idle = Arc::new(IdleConnections::default());
        let destination = Destination {
            origin: "https://provider".into(),
            proxy: None,
        };
        idle.share(destination.clone(), connection, None);
        let began = Instant::now();
        let mut provider = provider(io, 100).await;
        let closed = timeout(Duration::from_secs(600), provider.accept()).await;
        assert!(closed.unwrap().is_none(), "nothing is sent");
        let waited = began.elapsed();
        let expect = Duration::from_secs(50)..=Duration::from_secs(60);
        assert!(expect.contains(&waited), "{waited:?}");
        assert!(idle.reserve_stream(&destination).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_the_provider_closed_is_closed_here_too() {
        let (connection, io) = opened().await;
        let mut provider = provider(io, 100).await;
        provider.graceful_shutdown();
        // Sends GOAWAY, and waits for the other end to close.
        let closed = timeout(Duration::from_secs(60), provider.accept()).await;
        assert!(!matches!(closed.unwrap(), Some(Ok(_))), "nothing is sent");
        let retired = async {
            while !connection.is_retired() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), retired).await.unwrap();
        assert!(connection.reserve_stream(true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_answers_no_ping_is_closed_with_its_calls() {
        let (connection, io) = opened().await;
        let mut stream = connection.reserve_stream(false).unwrap();
        let began = Instant::now();
        let host = HeaderValue::from_static("provider");
        let request = UpstreamRequest::new(
            &Method::GET,
            "/".into(),
            &host,
            Vec::new(),
            RequestBody::default(),
        );
        let sending = stream.send(request.unwrap());
        let silent = async {
            let mut provider = provider(io, 100).await;
            let request = provider.accept().await.unwrap();
            // From now on the provider reads nothing.
            let _kept = (request, provider);
            std::future::pending::<()>().await;
        };
        let broken = tokio::select! {
            sent = sending => sent.err().unwrap(),
            () = silent => unreachable!("the provider stays silent"),
        };
        let waited = began.elapsed();
        assert!(waited >= PING_TIMEOUT, "{waited:?}");
        assert!(waited <= PING_AFTER + PING_TIMEOUT * 2, "{waited:?}");
        assert!(broken.may_have_run && broken.resend == Resend::Never);
        assert!(connection.is_retired());
    }
}
