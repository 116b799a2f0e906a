//! Passes complete events of a stream on, and holds the beginning of an incomplete one for a moment.
//!
//! If the provider breaks off inside an event that is still held, the event is left out, so that the client can read the
//! error that follows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use keypool_providers::sse::EventScanner;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the beginning of an event is held.
const HOLD: Duration = Duration::from_millis(50);
/// Maximum number of bytes that are held.
const MAX_HELD: usize = 64 * 1024;

/// Where events end, and what is held of an incomplete one.
#[derive(Default)]
pub(super) struct EventBuffer {
    scanner: EventScanner,
    held: VecDeque<Bytes>,
    /// In bytes.
    held_length: usize,
    /// When the held bytes are released. Set while something is held.
    release: Option<Pin<Box<Sleep>>>,
    /// The client has received the beginning of an incomplete event.
    client_is_inside: bool,
}

impl EventBuffer {
    /// Moves complete events to `ready`, and holds the rest.
    pub(super) fn accept(&mut self, piece: Bytes, ready: &mut VecDeque<Bytes>) {
        match self.scanner.feed(&piece) {
            Some(end) => {
                self.release(ready);
                self.client_is_inside = false;
                ready.push_back(piece.slice(..end));
                if end < piece.len() {
                    self.hold(piece.slice(end..));
                }
            }
            None if self.client_is_inside => ready.push_back(piece),
            None => self.hold(piece),
        }
        if self.held_length > MAX_HELD {
            self.release(ready);
        }
    }

    /// Whether the client has received the beginning of an incomplete event.
    pub(super) fn client_is_inside(&self) -> bool {
        self.client_is_inside
    }

    /// Moves everything that is held to `ready`.
    pub(super) fn release(&mut self, ready: &mut VecDeque<Bytes>) {
        if self.held.is_empty() {
            return;
        }
        self.client_is_inside = true;
        ready.append(&mut self.held);
        self.held_length = 0;
        self.release = None;
    }

    /// Moves it if it was held long enough. Otherwise wakes `cx` at that time.
    pub(super) fn release_if_due(&mut self, cx: &mut Context<'_>, ready: &mut VecDeque<Bytes>) {
        let is_due =
            |release: &mut Pin<Box<Sleep>>| matches!(release.as_mut().poll(cx), Poll::Ready(()));
        if self.release.as_mut().is_some_and(is_due) {
            self.release(ready);
        }
    }

    fn hold(&mut self, piece: Bytes) {
        if !self.scanner.mid_event() {
            return;
        }
        self.held_length += piece.len();
        self.held.push_back(piece);
        self.release
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HOLD)));
    }
}
