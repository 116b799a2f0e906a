//! HTTP/2 to a provider: one connection carries many calls, each a stream of it.
//!
//! hyper queues without a bound what is more than the provider takes at once, behind calls that may last minutes.
//! So streams are counted here, and none is begun beyond what the provider allows.

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

/// So many calls share a connection at most, whatever the provider allows: when it breaks, all of them do.
const MAX_STREAMS: usize = 100;
/// What the provider may send of one answer before it is read: enough for 10 MB/s over 100 ms.
const STREAM_WINDOW: u32 = 1 << 20;
/// And of all answers on a connection: slow readers must not hold up the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A connection with open streams that was silent for so long is asked whether it is there …
const PING_AFTER: Duration = Duration::from_secs(20);
/// … and given up without an answer in this time.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Stands for the number of streams before the provider has told it. No provider tells this.
const SETTINGS_NOT_RECEIVED: usize = 0x6b65_7970;

/// The right to open a connection where one may be enough for many: others wait for what comes of it.
pub(super) type ConnectPermit = tokio::sync::OwnedMutexGuard<()>;

/// An open connection.
pub(super) struct Http2 {
    sender: SendRequest<RequestBody>,
    authority: Authority,
    state: Arc<State>,
}

/// Room for one call on a connection. Dropped, it gives the room back.
pub(super) struct Stream {
    sender: SendRequest<RequestBody>,
    authority: Authority,
    state: Arc<State>,
    /// The connection was kept, and carried no other call when this one began.
    found_idle: bool,
}

struct State {
    /// Streams begun and not ended.
    open: AtomicUsize,
    /// How many there may be. One, until the provider's settings came.
    most: AtomicUsize,
    told: AtomicBool,
    /// No further stream is begun on it.
    retired: AtomicBool,
    /// hyper's own task has done something: the settings may have come.
    progress: Notify,
    last_used: Mutex<Instant>,
    /// Held while it is not known how many calls the connection takes: others wait for that.
    permit: Mutex<Option<ConnectPermit>>,
}

impl Http2 {
    /// Room for a call, if there is any. `kept`: the connection carried calls before.
    pub(super) fn stream(&self, kept: bool) -> Option<Stream> {
        if self.is_over() {
            return None;
        }
        let most = self.state.most.load(Ordering::SeqCst);
        let open = self
            .state
            .open
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
                (open < most).then_some(open + 1)
            })
            .ok()?;
        Some(Stream {
            sender: self.sender.clone(),
            authority: self.authority.clone(),
            state: Arc::clone(&self.state),
            found_idle: kept && open == 0,
        })
    }

    /// Keeps `permit` until the provider has said how many calls it takes.
    pub(super) fn keep_permit(&self, permit: Option<ConnectPermit>) {
        let mut kept = self.state.permit.lock();
        if !self.state.is_told() && !self.is_over() {
            *kept = permit;
        }
    }

    /// Whether no call will begin on it any more.
    pub(super) fn is_over(&self) -> bool {
        self.sender.is_closed() || self.state.retired.load(Ordering::SeqCst)
    }

    /// Whether it carried nothing for longer than `limit`.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        self.state.open.load(Ordering::SeqCst) == 0 && self.state.last_used.lock().elapsed() > limit
    }
}

impl Stream {
    /// Sends a request and returns its answer's head. Dropped before, it resets the stream.
    pub(super) async fn send(
        &mut self,
        request: UpstreamRequest<'_>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let Some(request) = request.into_http2(&self.authority) else {
            let kind = ErrorKind::NoResponse(ConnectionError::Address);
            return Err(UpstreamError::unsent(kind));
        };
        let mut error = match self.sender.try_send_request(request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let never_left = error.take_message().is_some();
        let source = error.into_error();
        let reason = cause::<h2::Error>(&source);
        let unsent = never_left || reason.is_some_and(surely_unprocessed);
        if unsent || !reason.is_some_and(h2::Error::is_reset) {
            self.state.retire();
        }
        let gone =
            source.is_canceled() || source.is_closed() || cause::<io::Error>(&source).is_some();
        Err(UpstreamError {
            resend: match unsent {
                true => Resend::Always,
                false if self.found_idle && gone => Resend::IfRepeatable,
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
            most: AtomicUsize::new(1),
            told: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            progress: Notify::new(),
            last_used: Mutex::new(Instant::now()),
            permit: Mutex::new(None),
        }
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// Takes over what the provider allows, once it has said so. A provider that allows none has no use.
    fn learn(&self, most: usize) {
        if most == SETTINGS_NOT_RECEIVED {
            return;
        }
        if most == 0 {
            self.retire();
        }
        self.most.store(most.min(MAX_STREAMS), Ordering::SeqCst);
        if !self.told.swap(true, Ordering::SeqCst) {
            self.end_turn();
        }
    }

    fn end_turn(&self) {
        *self.permit.lock() = None;
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }
}

/// Begins HTTP/2 on `stream`.
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

/// Hands requests over to hyper's tasks until the connection ends.
async fn drive<S>(connection: Connection<TokioIo<S>, RequestBody, Tasks>, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = pin!(connection);
    loop {
        let serving = poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            state.learn(connection.current_max_send_streams());
            ended
        });
        tokio::select! {
            biased;
            _ = serving => break,
            () = state.progress.notified() => {}
        }
    }
    state.retire();
    state.end_turn();
}

/// Runs hyper's tasks, and tells when they did something as long as that may bring the provider's settings.
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
                if !state.is_told() {
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
    reason = "a kept connection is no work in flight: a shutdown waits for the calls on it, not for its idle end"
)]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    std::error::Error::source(error)?.downcast_ref()
}

/// RFC 9113 §8.7: the provider says that it has done nothing for this stream.
fn surely_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // Ended by GOAWAY are the streams above its last stream id, and no others.
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
        std::iter::from_fn(|| connection.stream(true)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_goes_before_the_provider_said_how_many_it_takes_and_then_as_many() {
        for (allowed, expect) in [(3, 3), (100, 100), (5000, 100)] {
            let (connection, io) = opened().await;
            let opening = Arc::new(tokio::sync::Mutex::new(()));
            let permit = Arc::clone(&opening).lock_owned().await;
            connection.keep_permit(Some(permit));
            let first = streams(&connection);
            assert_eq!(first.len(), 1);
            assert!(opening.try_lock().is_err(), "others wait");
            let mut provider = provider(io, allowed).await;
            let told = async {
                tokio::select! {
                    _ = provider.accept() => unreachable!("nothing is sent"),
                    _ = opening.lock() => {}
                }
            };
            timeout(Duration::from_secs(60), told).await.unwrap();
            let others = streams(&connection);
            assert_eq!(first.len() + others.len(), expect, "of {allowed}");
            drop(others);
            assert_eq!(streams(&connection).len(), expect - 1, "room is given back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_takes_no_calls_is_left_alone() {
        let (connection, io) = opened().await;
        let mut provider = provider(io, 0).await;
        let left = async {
            tokio::select! {
                _ = provider.accept() => unreachable!("nothing is sent"),
                () = async { while !connection.is_over() { tokio::task::yield_now().await } } => {}
            }
        };
        timeout(Duration::from_secs(60), left).await.unwrap();
        assert!(connection.stream(true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_connection_that_nobody_uses_is_closed_after_a_while() {
        let (connection, io) = opened().await;
        let kept = Arc::new(IdleConnections::default());
        let destination = Destination {
            origin: "https://provider".into(),
            proxy: None,
        };
        kept.share(destination.clone(), connection, None);
        let began = Instant::now();
        let mut provider = provider(io, 100).await;
        let closed = timeout(Duration::from_secs(600), provider.accept()).await;
        assert!(closed.unwrap().is_none(), "nothing is sent");
        let waited = began.elapsed();
        let expect = Duration::from_secs(50)..=Duration::from_secs(60);
        assert!(expect.contains(&waited), "{waited:?}");
        assert!(kept.stream(&destination).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_the_provider_closed_is_closed_here_too() {
        let (connection, io) = opened().await;
        let mut provider = provider(io, 100).await;
        provider.graceful_shutdown();
        // Says goodbye, and waits for the other end to close.
        let closed = timeout(Duration::from_secs(60), provider.accept()).await;
        assert!(!matches!(closed.unwrap(), Some(Ok(_))), "nothing is sent");
        let over = async {
            while !connection.is_over() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), over).await.unwrap();
        assert!(connection.stream(true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_answers_no_ping_is_given_up_with_its_calls() {
        let (connection, io) = opened().await;
        let mut stream = connection.stream(false).unwrap();
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
            // From now on it reads nothing.
            let _kept = (request, provider);
            std::future::pending::<()>().await;
        };
        let broken = tokio::select! {
            sent = sending => sent.err().unwrap(),
            () = silent => unreachable!("it is silent for good"),
        };
        let waited = began.elapsed();
        assert!(waited >= PING_TIMEOUT, "{waited:?}");
        assert!(waited <= PING_AFTER + PING_TIMEOUT * 2, "{waited:?}");
        assert!(broken.may_have_run && broken.resend == Resend::Never);
        assert!(connection.is_over());
    }
}
