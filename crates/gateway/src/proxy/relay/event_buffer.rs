//! Passes complete events of a stream on, and holds the beginning of an incomplete one for a moment. The elements of a
//! stream that is a JSON list are its events.
//!
//! If the provider breaks off inside an event that is still held, the event is left out, so that the client can read the
//! error that follows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use keypool_providers::list_scan::ListScanner;
use keypool_providers::response::{StreamEnd, StreamForm, StreamOutcome};
use keypool_providers::sse::EventScanner;
use keypool_providers::usage::UsageReader;
use tokio::time::{Instant, Sleep, sleep_until};

use super::usage_filter::UsageFilter;

/// How long the beginning of an event is held.
const HOLD: Duration = Duration::from_millis(50);
/// Maximum number of bytes that are held.
const MAX_HELD: usize = 64 * 1024;

/// Where events end, and what is held of an incomplete one.
pub(super) struct EventBuffer {
    scanner: Scanner,
    /// Knows whether the stream is complete; `None` if its transfer alone decides.
    end: Option<StreamEnd>,
    /// Set if the client must not see the chunk with the usage. It holds what may become that chunk.
    filter: Option<UsageFilter>,
    held: VecDeque<Bytes>,
    /// In bytes.
    held_length: usize,
    /// When the held bytes are released. Set while something is held.
    release: Option<Pin<Box<Sleep>>>,
    /// The client has received more than complete events.
    client_is_inside: bool,
    /// It has received a complete event.
    has_passed_on: bool,
}

/// Finds where events end.
enum Scanner {
    Events(EventScanner),
    List(ListScanner),
}

impl EventBuffer {
    /// `withholds`: the chunk with the usage is left out.
    pub(super) fn new(form: StreamForm, end: Option<StreamEnd>, withholds: bool) -> Self {
        Self {
            scanner: match form {
                StreamForm::Events => Scanner::Events(EventScanner::default()),
                StreamForm::List => Scanner::List(ListScanner::default()),
            },
            end,
            filter: withholds.then(UsageFilter::default),
            held: VecDeque::new(),
            held_length: 0,
            release: None,
            client_is_inside: false,
            has_passed_on: false,
        }
    }

    /// Whether the stream has reached its protocol's end.
    pub(super) fn is_whole(&self) -> bool {
        self.end.as_ref().is_some_and(StreamEnd::is_complete)
    }

    /// How the stream ended, now that its transfer has; `by_transfer` if only the transfer tells.
    pub(super) fn outcome(&mut self, by_transfer: StreamOutcome) -> StreamOutcome {
        self.end.as_mut().map_or(by_transfer, StreamEnd::outcome)
    }

    /// Moves complete events to `ready`, and holds the rest.
    pub(super) fn accept(
        &mut self,
        piece: Bytes,
        usage: Option<&mut UsageReader>,
        ready: &mut VecDeque<Bytes>,
    ) {
        let boundary = self.scan(&piece, usage);
        let (piece, boundary) = match &mut self.filter {
            Some(filter) => filter.pass(&piece),
            None => (piece, boundary),
        };
        if piece.is_empty() {
            return;
        }
        match boundary {
            Some(end) => {
                self.release_held(ready);
                self.client_is_inside = false;
                self.has_passed_on = true;
                ready.push_back(piece.slice(..end));
                if end < piece.len() {
                    self.hold(piece.slice(end..));
                }
            }
            None if self.client_is_inside => ready.push_back(piece),
            None => self.hold(piece),
        }
        if self.held_length > MAX_HELD {
            self.release_held(ready);
        }
    }

    /// Where the last event ends within the piece.
    fn scan(&mut self, piece: &[u8], usage: Option<&mut UsageReader>) -> Option<usize> {
        let usage = usage.filter(|usage| !self.is_events() || !usage.may_skip(piece));
        match (&mut self.scanner, self.end.as_mut(), usage) {
            (Scanner::Events(scanner), Some(end), None) => {
                scanner.feed_lines(piece, |text, is_last| end.read(text, is_last))
            }
            (Scanner::Events(scanner), None, None) => scanner.feed(piece),
            (Scanner::Events(scanner), end, Some(usage)) => {
                let mut end = end;
                scanner.feed_lines(piece, |text, is_last| {
                    usage.read_line(text, is_last);
                    if let Some(end) = &mut end {
                        end.read(text, is_last);
                    }
                })
            }
            (Scanner::List(scanner), end, usage) => {
                let (mut end, mut usage) = (end, usage);
                scanner.feed(piece, |text, is_last| {
                    if let Some(usage) = &mut usage {
                        usage.read_element(text, is_last);
                    }
                    if let Some(end) = &mut end {
                        end.read_element(text, is_last);
                    }
                })
            }
        }
    }

    fn is_events(&self) -> bool {
        matches!(self.scanner, Scanner::Events(_))
    }

    /// The last bytes of a stream that broke off: `error` as its last event. `None` if the client can receive no further
    /// event, or `error` is empty.
    pub(super) fn with_error(&self, event: Bytes, object: &[u8]) -> Option<Bytes> {
        if event.is_empty() {
            return None;
        }
        let list = match &self.scanner {
            Scanner::Events(_) if self.client_is_inside => {
                return Some([b"\n\n", &event[..]].concat().into());
            }
            Scanner::Events(_) => return Some(event),
            Scanner::List(list) => list,
        };
        // What is held never reaches the client.
        let (before, after) = match self.client_is_inside {
            true => list.around_last_element()?,
            false if self.has_passed_on => (",", "]"),
            false => ("[", "]"),
        };
        Some(
            [before.as_bytes(), object, after.as_bytes()]
                .concat()
                .into(),
        )
    }

    /// Moves everything that is held to `ready`, since the stream has ended.
    pub(super) fn release(&mut self, ready: &mut VecDeque<Bytes>) {
        self.release_held(ready);
        let rest = self.filter.as_mut().map(UsageFilter::rest);
        ready.extend(rest.filter(|rest| !rest.is_empty()));
    }

    fn release_held(&mut self, ready: &mut VecDeque<Bytes>) {
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
            self.release_held(ready);
        }
    }

    fn hold(&mut self, piece: Bytes) {
        if matches!(&self.scanner, Scanner::Events(scanner) if !scanner.mid_event()) {
            return;
        }
        self.held_length += piece.len();
        self.held.push_back(piece);
        self.release
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HOLD)));
    }
}
