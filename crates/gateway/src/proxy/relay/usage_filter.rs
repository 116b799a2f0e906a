//! Leaves the chunk with the usage out of a stream whose client did not ask for it.
//!
//! Whether an event is that chunk shows once its choices have begun, which is before any text. Until then it is held.

use bytes::{Buf, Bytes, BytesMut};
use keypool_providers::sse::{EventReader, EventScanner, event_data};
use keypool_providers::usage::{is_usage_chunk, may_become_usage_chunk};
use memchr::{memchr2, memrchr2};

/// Maximum number of bytes of an event that are held. A chunk with the usage is much smaller.
const MAX_EXAMINED: usize = 16 * 1024;

/// What has come of the current event.
#[derive(Default)]
pub(super) struct UsageFilter {
    held: BytesMut,
    reader: EventReader,
    /// Finds the end of an event that is not the usage, and so is passed on as it comes.
    passing: Option<EventScanner>,
}

impl UsageFilter {
    /// What `piece` adds to the stream without the usage, and how much of that ends with a whole event or comment.
    pub(super) fn pass(&mut self, piece: &[u8]) -> (Bytes, Option<usize>) {
        let (passed, piece) = piece.split_at(self.passing_part(piece));
        let mut kept = BytesMut::from(passed);
        if self.passing.is_some() {
            return (kept.freeze(), None);
        }
        self.held.extend_from_slice(piece);
        let mut end = 0;
        while let Some(event) = self.reader.next(&self.held) {
            // Comments before the event go on in any case.
            kept.extend_from_slice(&self.held[end..event.start]);
            if !is_usage_chunk(&event_data(&self.held[event.clone()])) {
                kept.extend_from_slice(&self.held[event.clone()]);
            }
            end = event.end;
        }
        self.forget(end);
        let unfinished = self.reader.unfinished(&self.held);
        let may_be_usage = unfinished.map(|event| may_become_usage_chunk(&event_data(event)));
        if may_be_usage.is_none() {
            let lines = memrchr2(b'\n', b'\r', &self.held).map_or(0, |last| last + 1);
            kept.extend_from_slice(&self.held[..lines]);
            self.forget(lines);
        }
        let whole = Some(kept.len()).filter(|length| *length > 0);
        if may_be_usage == Some(false) || self.held.len() > MAX_EXAMINED {
            let mut scanner = EventScanner::default();
            scanner.feed(&self.held);
            self.passing = Some(scanner);
            kept.extend_from_slice(&self.rest());
        }
        (kept.freeze(), whole)
    }

    /// What is held of an incomplete event. It is forgotten here.
    pub(super) fn rest(&mut self) -> Bytes {
        self.reader = EventReader::default();
        self.held.split().freeze()
    }

    /// Number of bytes of `piece` that belong to the event that is passed on as it comes.
    fn passing_part(&mut self, piece: &[u8]) -> usize {
        let Some(scanner) = &mut self.passing else {
            return 0;
        };
        let mut at = 0;
        while let Some(length) = memchr2(b'\n', b'\r', &piece[at..]) {
            let line = &piece[at..=at + length];
            at += line.len();
            if scanner.feed(line).is_some() {
                self.passing = None;
                return at;
            }
        }
        scanner.feed(&piece[at..]);
        piece.len()
    }

    /// Forgets what is held up to here. There is no whole event behind it.
    fn forget(&mut self, end: usize) {
        if end > 0 {
            self.held.advance(end);
            self.reader = EventReader::default();
            self.reader.next(&self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}";
    const USAGE: &str =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}";

    /// What of a stream goes on if it comes in these pieces.
    fn passed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> String {
        let mut filter = UsageFilter::default();
        let mut passed = Vec::new();
        for piece in pieces {
            passed.extend_from_slice(&filter.pass(piece).0);
        }
        passed.extend_from_slice(&filter.rest());
        String::from_utf8(passed).unwrap()
    }

    #[test]
    fn the_chunk_with_the_usage_is_left_out_however_the_stream_is_cut() {
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let (text, usage) = (format!("{TEXT}{end}"), format!("{USAGE}{end}"));
            let rest = format!("data: [DONE]{end}: bye{end}");
            let stream = format!(": hello{end}{text}: here{end}{text}: now\n{usage}{rest}");
            let expect = format!(": hello{end}{text}: here{end}{text}: now\n{rest}");
            for size in 1..=stream.len() {
                // Where CRLF is cut in two, its end may remain.
                let passed = passed(stream.as_bytes().chunks(size));
                let passed = passed.replace(": now\n\n", ": now\n");
                assert_eq!(passed, expect, "{size}");
            }
        }
    }

    #[test]
    fn an_event_goes_on_as_it_comes_once_it_has_a_choice() {
        let mut filter = UsageFilter::default();
        let stream = format!("{TEXT}\n\n");
        let known = stream
            .find('{')
            .and_then(|at| stream[at + 1..].find('{').map(|next| at + next + 2))
            .unwrap();
        for (at, byte) in stream.bytes().enumerate() {
            let (passed, whole) = filter.pass(&[byte]);
            let expect = match at + 1 {
                come if come < known => &b""[..],
                come if come == known => &stream.as_bytes()[..known],
                _ => &[byte],
            };
            assert_eq!(&passed[..], expect, "{at}");
            assert_eq!(whole, (at + 1 == stream.len()).then_some(1), "{at}");
        }
        assert_eq!(
            filter.pass(format!("{USAGE}\n\n").as_bytes()),
            (Bytes::new(), None)
        );
    }

    #[test]
    fn a_long_event_is_passed_on() {
        let mut filter = UsageFilter::default();
        let long = format!("data: {{\"x\":\"{}", "x".repeat(MAX_EXAMINED));
        assert_eq!(filter.pass(long.as_bytes()), (long.into(), None));
        assert_eq!(filter.pass(b"y"), ("y".into(), None));
        assert_eq!(
            filter.pass(b"\n\ndata: b\n\n"),
            ("\n\ndata: b\n\n".into(), Some(11))
        );
    }
}
