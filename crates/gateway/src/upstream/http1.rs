//! HTTP/1.1 to a provider: one call at a time on a connection.
//!
//! Whoever has the call drives the connection, there and then: there is no task of its own, and no turn of the
//! scheduler, between the provider's bytes and the client's. What is there of a stream is read in one go. A
//! connection that waits for its next call is driven by nobody; whether it is still open is seen when it is taken,
//! or by the sweep that looks at those that wait.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{MAX_HEAD, Pieces};

/// The two halves of a connection talk with each other for so many rounds; then other connections have their turn.
const MAX_ROUNDS: usize = 64;

/// An open connection.
pub(super) struct Http1 {
    sender: SendRequest<Pieces>,
    /// Reads and writes whenever it is polled. `None`: it has ended.
    io: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send + Sync>>>,
    wakes: Arc<Wakes>,
}

/// Passes on what wakes the connection, but for what the call does itself: hyper's two halves talk over channels,
/// and each word would cost a turn of the whole client connection.
#[derive(Default)]
struct Wakes {
    /// The call is at it: it sees for itself that there is more to do.
    is_driving: AtomicBool,
    came: AtomicBool,
    call: Mutex<Option<Waker>>,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.came.store(true, Ordering::SeqCst);
        if !self.is_driving.load(Ordering::SeqCst)
            && let Some(call) = &*self.call.lock()
        {
            call.wake_by_ref();
        }
    }
}

impl Wakes {
    /// From now on wakes go to `waker`, unless the call is at it.
    fn begin(&self, waker: &Waker) {
        let mut call = self.call.lock();
        if !call.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *call = Some(waker.clone());
        }
        drop(call);
        self.came.store(false, Ordering::SeqCst);
        self.is_driving.store(true, Ordering::SeqCst);
    }

    /// The call has done what it could. Says whether more came meanwhile, which nobody else was told.
    fn end(&self) -> bool {
        self.is_driving.store(false, Ordering::SeqCst);
        self.came.swap(false, Ordering::SeqCst)
    }
}

impl Http1 {
    pub(super) async fn handshake<S>(stream: S) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let mut builder = Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let mut this = Self {
            sender,
            io: Some(Box::pin(connection)),
            wakes: Arc::default(),
        };
        this.ready().await.map_err(io::Error::other)?;
        Ok(this)
    }

    /// Resolves when it takes a request.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|cx| self.drive(cx, |sender, cx| sender.poll_ready(cx))).await
    }

    /// From now on nobody has a call on it.
    pub(super) fn let_go(&self) {
        *self.wakes.call.lock() = None;
    }

    /// Whether it was seen to end.
    pub(super) fn has_ended(&self) -> bool {
        self.io.is_none() || self.sender.is_closed()
    }

    /// Whether it has ended, as far as one can see without waiting.
    pub(super) fn is_over(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.drive(&mut cx, |_, _| Poll::<()>::Pending);
        self.has_ended()
    }

    /// Sends a request and returns its answer's head.
    pub(super) async fn send(
        &mut self,
        request: Request<Pieces>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Pieces>>> {
        let mut sending = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.drive(cx, |_, cx| sending.as_mut().poll(cx))).await
    }

    /// The next frame of the answer's body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // What was read already needs no driving, and what this asks for is read with the next frame.
        self.wakes.begin(cx.waker());
        let mut unheard = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut *body).poll_frame(&mut unheard);
        self.wakes.end();
        if read.is_ready() {
            return read;
        }
        self.drive(cx, |_, cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Reads and writes what can be, then polls what waits for it; until neither comes further.
    fn drive<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waits: impl FnMut(&mut SendRequest<Pieces>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut inner = Context::from_waker(&waker);
        for _ in 0..MAX_ROUNDS {
            self.wakes.begin(cx.waker());
            if let Some(io) = &mut self.io
                && io.as_mut().poll(&mut inner).is_ready()
            {
                self.io = None;
            }
            let outcome = waits(&mut self.sender, &mut inner);
            let more = self.wakes.end();
            if outcome.is_ready() || !more {
                return outcome;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
