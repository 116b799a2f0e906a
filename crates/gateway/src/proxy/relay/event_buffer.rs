//! Passes complete events of a stream on, and holds the beginning of an incomplete one for a moment.
//!
//! If the provider breaks off inside an event that is still held, the event is left out, so that the client can read the
//! error that follows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use keypool_providers::response::{StreamEnd, StreamOutcome};
use keypool_providers::sse::EventScanner;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the beginning of an event is held.
const HOLD: Duration = Duration::from_millis(50);
/// Maximum number of bytes that are held.
const MAX_HELD: usize = 64 * 1024;

/// Where events end, and what is held of an incomplete one.
pub(super) struct EventBuffer {
    scanner: EventScanner,
    /// Knows whether the stream is complete; `None` if its transfer alone decides.
    end: Option<StreamEnd>,
    held: VecDeque<Bytes>,
    /// In bytes.
    held_length: usize,
    /// When the held bytes are released. Set while something is held.
    release: Option<Pin<Box<Sleep>>>,
    /// The client has received the beginning of an incomplete event.
    client_is_inside: bool,
}

impl EventBuffer {
    pub(super) fn new(end: Option<StreamEnd>) -> Self {
        Self {
            scanner: EventScanner::default(),
            end,
            held: VecDeque::new(),
            held_length: 0,
            release: None,
            client_is_inside: false,
        }
    }

    /// How the stream ended, now that its transfer has; `by_transfer` if only the transfer tells.
    pub(super) fn outcome(&mut self, by_transfer: StreamOutcome) -> StreamOutcome {
        self.end.as_mut().map_or(by_transfer, StreamEnd::outcome)
    }

    /// Moves complete events to `ready`, and holds the rest.
    pub(super) fn accept(&mut self, piece: Bytes, ready: &mut VecDeque<Bytes>) {
        let boundary = match self.end.as_mut() {
            Some(end) if end.needs_lines() => self
                .scanner
                .feed_lines(&piece, |text, is_last| end.read(text, is_last)),
            Some(end) => {
                end.keep(&piece);
                self.scanner.feed(&piece)
            }
            None => self.scanner.feed(&piece),
        };
        match boundary {
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
