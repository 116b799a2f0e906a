//! Leaves the chunk with the usage out of a stream whose client did not ask for it.

use bytes::{Buf, Bytes, BytesMut};
use keypool_providers::sse::{EventReader, event_data};
use keypool_providers::usage::is_usage_chunk;

/// Maximum number of bytes of an event that are examined. A chunk with the usage is much smaller.
const MAX_EXAMINED: usize = 64 * 1024;

/// What has come of the current event.
#[derive(Default)]
pub(super) struct UsageFilter {
    held: BytesMut,
    reader: EventReader,
}

impl UsageFilter {
    /// The events that `piece` completes, without the usage.
    pub(super) fn pass(&mut self, piece: &[u8]) -> Bytes {
        self.held.extend_from_slice(piece);
        let (mut kept, mut end) = (BytesMut::new(), 0);
        while let Some(event) = self.reader.next(&self.held) {
            // Comments before the event go on in any case.
            kept.extend_from_slice(&self.held[end..event.start]);
            if !is_usage_chunk(&event_data(&self.held[event.clone()])) {
                kept.extend_from_slice(&self.held[event.clone()]);
            }
            end = event.end;
        }
        if end > 0 {
            self.held.advance(end);
            // Reads what is left from its beginning: it has no whole event.
            self.reader = EventReader::default();
            self.reader.next(&self.held);
        }
        let is_comment = self.reader.unfinished(&self.held).is_none();
        if is_comment || self.held.len() > MAX_EXAMINED {
            kept.extend_from_slice(&self.rest());
        }
        kept.freeze()
    }

    /// What is held of an incomplete event. It is forgotten here.
    pub(super) fn rest(&mut self) -> Bytes {
        self.reader = EventReader::default();
        self.held.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_with_the_usage_is_left_out_however_the_stream_is_cut() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
        let usage =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
        let stream = format!(": hello\n\n{text}: still here\n\n{usage}data: [DONE]\n\n: bye\n\n");
        let expect = stream.replace(usage, "");
        for size in 1..=stream.len() {
            let mut filter = UsageFilter::default();
            let mut passed = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                passed.extend_from_slice(&filter.pass(piece));
            }
            passed.extend_from_slice(&filter.rest());
            assert_eq!(String::from_utf8(passed).unwrap(), expect, "{size}");
        }
    }

    #[test]
    fn a_long_event_is_passed_on() {
        let mut filter = UsageFilter::default();
        let long = format!("data: {}", "x".repeat(MAX_EXAMINED));
        assert_eq!(filter.pass(long.as_bytes()), long.as_bytes());
        assert_eq!(filter.pass(b"y\n\ndata: b\n\n"), &b"y\n\ndata: b\n\n"[..]);
    }
}
