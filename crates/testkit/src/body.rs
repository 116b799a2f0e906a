//! A response body: timed pieces, an ending, and the guard that counts the request as active until the last byte.
//!
//! This module must never know what the bytes mean.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::script::Visit;
use crate::shape::{Ending, Piece, Shaped};

/// Tells the socket's wrapper to break the connection, once everything before is written.
#[derive(Debug, Default)]
pub(crate) struct BreakSignal(AtomicU8);

impl BreakSignal {
    const CLOSE: u8 = 1;
    const RESET: u8 = 2;

    /// Closes the connection after the bytes so far.
    pub(crate) fn close(&self) {
        self.0.store(Self::CLOSE, Ordering::Relaxed);
    }

    /// Resets the connection.
    pub(crate) fn reset(&self) {
        self.0.store(Self::RESET, Ordering::Relaxed);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::RESET
    }
}

/// A response body that sends each piece at its time.
#[derive(Debug)]
pub(crate) struct PacedBody {
    pieces: std::vec::IntoIter<Piece>,
    ending: Ending,
    length: Option<u64>,
    flush_each: bool,
    /// Whether the last piece has been written to the socket.
    written: bool,
    /// Set while waiting for the next piece.
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// When the last piece was due. Pauses count from there, so that a slow reader does not lengthen them.
    due: Option<Instant>,
    visit: Option<Visit>,
    break_signal: Option<Arc<BreakSignal>>,
}

impl PacedBody {
    /// A body that finishes `visit` at its end.
    pub(crate) fn new(
        shaped: Shaped,
        mut visit: Option<Visit>,
        break_signal: Option<Arc<BreakSignal>>,
    ) -> Self {
        let Shaped {
            pieces,
            ending,
            length,
            flush_each,
        } = shaped;
        if pieces.is_empty() && ending == Ending::Complete {
            visit.iter_mut().for_each(Visit::finish);
        }
        let pieces = pieces.into_iter();
        PacedBody {
            pieces,
            ending,
            length,
            flush_each,
            written: true,
            sleep: None,
            waiting: false,
            due: None,
            visit,
            break_signal,
        }
    }

    fn poll_pause(&mut self, pause: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if pause.is_zero() {
            return Poll::Ready(());
        }
        if !self.waiting {
            let due = self.due.unwrap_or_else(Instant::now) + pause;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(due),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(due))),
            }
            self.due = Some(due);
            self.waiting = true;
        }
        if let Some(sleep) = &mut self.sleep {
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        self.waiting = false;
        Poll::Ready(())
    }

    fn finish(&mut self) {
        if let Some(visit) = &mut self.visit {
            visit.finish();
        }
    }

    fn poll_end(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ending == Ending::Complete {
            return Poll::Ready(None);
        }
        if self.ending != Ending::Stall {
            self.finish();
        }
        if let Some(break_signal) = &self.break_signal {
            match self.ending {
                Ending::Close => break_signal.close(),
                Ending::Reset => break_signal.reset(),
                Ending::Complete | Ending::Stall => {}
            }
        }
        Poll::Pending
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(next) = this.pieces.as_slice().first() else {
            return this.poll_end();
        };
        let pause = next.pause;
        std::task::ready!(this.poll_pause(pause, cx));
        if this.flush_each && !std::mem::replace(&mut this.written, true) {
            // If a body has nothing ready, hyper flushes its buffer and polls again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(piece) = this.pieces.next() else {
            return this.poll_end();
        };
        this.written = false;
        if this.is_end_stream() {
            this.finish();
        }
        Poll::Ready(Some(Ok(Frame::data(piece.bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.as_slice().is_empty() && self.ending == Ending::Complete
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}
