//! HTTP/1.1 to a provider: one call at a time on a connection.
//!
//! Whoever has the call reads and writes, there and then: there is no task and no permit of the scheduler between the
//! provider's bytes and the client's. What is there of a stream is read in one go. A connection that waits for its
//! next call is read by nobody, and has no buffer; whether it is still open is seen when it is taken, or by the sweep
//! that looks at those that wait.

mod framing;
mod head;
mod write_queue;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::{ConnectionError, MAX_HEAD, Socket, UpstreamRequest};
use framing::Framing;
use write_queue::WriteQueue as Out;

/// Reads take up to so much at once, …
const ROOM: usize = 64 * 1024;
/// … and at least so much, if it has come.
const LEAST_ROOM: usize = 16 * 1024;
/// What is shorter is copied, so that few bytes never hold a whole buffer.
const SHORT: usize = 4 * 1024;
/// A request body up to this size goes out in one piece with its head.
const JOINED: u64 = 16 * 1024;

thread_local! {
    /// Where a thread's connections read to: none of them needs a buffer while it waits.
    static READ: RefCell<BytesMut> = RefCell::default();
}

/// The bytes to and from a provider.
pub(super) type Transport = Either<Socket, Box<TlsStream<Socket>>>;

/// An open connection.
pub(super) struct Http1<L = Transport> {
    transport: L,
    /// Of the request, what is not written yet.
    out: Out,
    is_flushed: bool,
    /// The request is a HEAD: its answer has no body.
    is_to_head: bool,
    /// Something of the request was written.
    has_begun: bool,
    /// Something of the answer was read.
    is_answered: bool,
    write_error: Option<io::Error>,
    /// What was read and not given out yet.
    input: Bytes,
    /// Of the answer's body, what is still to come.
    framing: Framing,
    /// Nothing was seen yet that keeps another request from following this one on the connection.
    keeps_alive: bool,
}

impl<L: AsyncRead + AsyncWrite + Unpin> Http1<L> {
    pub(super) fn new(transport: L) -> Self {
        Self {
            transport,
            out: Out::default(),
            is_flushed: true,
            is_to_head: false,
            has_begun: false,
            is_answered: false,
            write_error: None,
            input: Bytes::new(),
            framing: Framing::Length(0),
            keeps_alive: true,
        }
    }

    /// Whether it takes another request, now that an answer was read.
    pub(super) fn is_free(&self) -> bool {
        self.keeps_alive
            && self.framing.is_done()
            && self.input.is_empty()
            && self.out.is_empty()
            && self.is_flushed
    }

    /// Whether it is closed, or has something to say unasked, as far as one can see without waiting. From now on it
    /// wakes nobody.
    pub(super) fn is_over(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Without a budget: a task that has spent its own would be told that nothing came.
        let look = pin!(unconstrained(poll_fn(|cx| self.poll_read(cx))));
        look.poll(&mut cx).is_ready()
    }

    /// Takes a request on, which [`Self::answer`] sends.
    pub(super) fn begin(&mut self, request: UpstreamRequest<'_>) {
        let length = request.length().unwrap_or_default();
        self.is_to_head = *request.method() == Method::HEAD;
        self.keeps_alive = true;
        self.is_flushed = false;
        self.has_begun = false;
        self.is_answered = false;
        if length > JOINED {
            self.out.push(head::written(&request, 0).freeze());
            request.into_pieces().for_each(|piece| self.out.push(piece));
            return;
        }
        let room = usize::try_from(length).unwrap_or_default();
        let mut joined = head::written(&request, room);
        request
            .into_pieces()
            .for_each(|piece| joined.extend_from_slice(&piece));
        self.out.push(joined.freeze());
    }

    /// Sends the request and returns the head of its response. After an error or a cancellation, the connection cannot
    /// be used again.
    pub(super) async fn answer(&mut self) -> Result<Response<()>, ConnectionError> {
        let head = self.read_head().await?;
        self.framing = head.framing;
        self.keeps_alive &= head.keeps_alive;
        Ok(head.response)
    }

    /// Whether any byte of the request was written.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether any byte of the response was read.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Whether the answer's body was given out to its end.
    pub(super) fn is_done(&self) -> bool {
        self.framing.is_done()
    }

    /// How much of the body is still to come, in bytes, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            _ => None,
        }
    }

    /// The next bytes of the answer's body; `None` at its end.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ConnectionError>>> {
        // A provider may answer before it has read the whole request. If it reads no more, the answer still counts.
        let _ = self.poll_write(cx);
        loop {
            match self.framing.take(&mut self.input) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(None) if self.framing.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(Some(read)) => self.input = read,
                Ok(None) if self.framing == Framing::UntilClose => {
                    self.framing = Framing::Length(0);
                    self.keeps_alive = false;
                }
                Ok(None) => return Poll::Ready(Some(Err(ConnectionError::Closed))),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    async fn read_head(&mut self) -> Result<head::Head, ConnectionError> {
        let mut read = Bytes::new();
        let mut passed = 0;
        loop {
            let searched = read.len();
            let more = poll_fn(|cx| self.poll_exchange(cx)).await?;
            read = joined(read, more);
            let mut from = searched;
            while head::may_begin(&read)?
                && let Some(end) = head::end(&read, from)
            {
                let this = read.split_to(end);
                if let Some(head) = head::parse(&this, self.is_to_head)? {
                    self.input = read;
                    return Ok(head);
                }
                passed += end;
                from = 0;
            }
            if passed + read.len() > MAX_HEAD {
                return Err(ConnectionError::Malformed("a head of more than 256 KiB"));
            }
        }
    }

    /// Writes what can be, and reads the next bytes of the answer's head.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ConnectionError>> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            if !self.has_begun {
                return Poll::Ready(Err(error.into()));
            }
            // A provider that takes no more of a request may have said why.
            self.write_error = Some(error);
        }
        let read = ready!(self.poll_read(cx));
        Poll::Ready(match (read, self.write_error.take()) {
            (Ok(Some(read)), error) => {
                self.is_answered = true;
                self.write_error = error;
                Ok(read)
            }
            (_, Some(error)) | (Err(error), None) => Err(error.into()),
            (Ok(None), None) => Err(ConnectionError::Closed),
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_error.is_some() {
            return Poll::Ready(Ok(()));
        }
        let written = ready!(self.poll_write_all(cx));
        if written.is_err() {
            // The provider still waits for the rest.
            self.keeps_alive = false;
            self.out = Out::default();
        }
        Poll::Ready(written)
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let transport = Pin::new(&mut self.transport);
            if ready!(poll_write_buf(transport, cx, &mut self.out))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// What came; `None`: the provider closed the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        READ.with_borrow_mut(|room| {
            if room.capacity() == 0 {
                room.reserve(ROOM);
            }
            room.reserve(LEAST_ROOM);
            let length = ready!(poll_read_buf(Pin::new(&mut self.transport), cx, room))?;
            Poll::Ready(Ok(match length {
                0 => None,
                1..SHORT => {
                    let short = Bytes::copy_from_slice(room);
                    room.clear();
                    Some(short)
                }
                _ => Some(room.split().freeze()),
            }))
        })
    }
}

/// What was read, with what came behind it.
fn joined(read: Bytes, more: Bytes) -> Bytes {
    if read.is_empty() {
        return more;
    }
    let mut all = read.try_into_mut().unwrap_or_else(|shared| {
        let mut own = BytesMut::with_capacity(shared.len() + SHORT);
        own.extend_from_slice(&shared);
        own
    });
    all.extend_from_slice(&more);
    all.freeze()
}

#[cfg(test)]
mod tests;
