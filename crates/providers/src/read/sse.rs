//! Event streams: where events end, and what the first one says. Lines end in LF, CRLF, CR or any mixture.
//!
//! Must never change, keep or interpret the bytes of a stream beyond its lines.

use std::ops::Range;

use memchr::memchr2;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Follows a stream chunk by chunk and knows where its last event ended. A byte order mark counts as part of a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventScanner {
    /// The current line has bytes.
    in_line: bool,
    /// Bytes have come since the last blank line.
    mid_event: bool,
    /// The last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
}

impl EventScanner {
    /// The offset just past the last blank line that ends within `chunk`.
    ///
    /// A CR ends its line at once. If an LF follows in the next chunk, the result for that chunk is at least 1.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut boundary = None;
        let mut at = 0;
        while let Some(length) = memchr2(b'\n', b'\r', &chunk[at..]) {
            let end = at + length;
            self.skip_text(length);
            let is_lf = chunk[end] == b'\n';
            let blank = if is_lf && self.after_cr {
                !self.mid_event
            } else {
                self.end_line()
            };
            if blank {
                boundary = Some(end + 1);
            }
            self.after_cr = !is_lf;
            at = end + 1;
        }
        self.skip_text(chunk.len() - at);
        boundary
    }

    /// Whether bytes have come since the last event ended.
    pub fn mid_event(&self) -> bool {
        self.mid_event
    }

    fn skip_text(&mut self, length: usize) {
        if length > 0 {
            self.in_line = true;
            self.mid_event = true;
            self.after_cr = false;
        }
    }

    /// Ends the current line, and returns whether it was blank.
    fn end_line(&mut self) -> bool {
        self.mid_event = self.in_line;
        !std::mem::take(&mut self.in_line)
    }
}

/// What the beginning of a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstEvent {
    /// No whole event yet.
    NeedMore,
    /// The first event: from its first field line to just past its blank line.
    Event(Range<usize>),
}

/// The first event in `buf`; comments, blank lines and a byte order mark before it are skipped.
pub fn first_event(buf: &[u8]) -> FirstEvent {
    FirstEventScanner::default().find(buf)
}

/// [`first_event`] for a buffer that grows: each call continues where the last one stopped.
#[derive(Clone, Debug, Default)]
pub struct FirstEventScanner {
    /// Where the current line begins.
    line: usize,
    /// Where the event's first field line begins.
    event: Option<usize>,
    /// There is no line end between `line` and here.
    searched: usize,
}

impl FirstEventScanner {
    /// The first event in `buf`, which must begin with the bytes of the previous calls.
    pub fn find(&mut self, buf: &[u8]) -> FirstEvent {
        while let Some(length) = buf
            .get(self.searched..)
            .and_then(|rest| memchr2(b'\n', b'\r', rest))
        {
            let end = self.searched + length;
            let start = if self.line == 0 && buf.starts_with(BOM) {
                BOM.len()
            } else {
                self.line
            };
            let blank = start == end;
            let next = match buf[end..] {
                [b'\r', b'\n', ..] => end + 2,
                // An LF may follow. Only the end of the event does not wait for it.
                [b'\r'] if !blank || self.event.is_none() => {
                    self.searched = end;
                    return FirstEvent::NeedMore;
                }
                _ => end + 1,
            };
            match self.event {
                Some(event) if blank => return FirstEvent::Event(event..next),
                None if !blank && buf[start] != b':' => self.event = Some(start),
                _ => {}
            }
            (self.line, self.searched) = (next, next);
        }
        self.searched = self.searched.max(buf.len());
        FirstEvent::NeedMore
    }
}

/// The event's `data` lines, joined by LF.
pub fn event_data(event: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(event.len());
    for (index, value) in fields(event)
        .filter(|(name, _)| *name == b"data")
        .map(|(_, value)| value)
        .enumerate()
    {
        if index > 0 {
            data.push(b'\n');
        }
        data.extend_from_slice(value);
    }
    data
}

/// The event's name, if it has one; the last counts.
pub(crate) fn event_name(event: &[u8]) -> Option<&[u8]> {
    fields(event)
        .filter(|(name, _)| *name == b"event")
        .map(|(_, value)| value)
        .last()
}

/// Names and values of an event's field lines; comments have the empty name.
fn fields(event: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    // The empty line within CRLF has no name, like a comment.
    event
        .strip_prefix(BOM)
        .unwrap_or(event)
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(|line| {
            let Some(colon) = memchr::memchr(b':', line) else {
                return (line, &line[line.len()..]);
            };
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_last_boundary_however_the_stream_is_cut() {
        let mut scanner = EventScanner::default();
        assert_eq!(scanner.feed(b"data: a\n\ndata: b\n\ndata"), Some(18));
        assert!(scanner.mid_event());
        assert_eq!(scanner.feed(b": c\r\n\r"), Some(6));
        assert!(!scanner.mid_event());
        assert_eq!(scanner.feed(b"\n"), Some(1));
        assert!(!scanner.mid_event());
        assert_eq!(scanner.feed(b""), None);
        assert_eq!(scanner.feed(b"\xe4\xbd"), None);
    }

    #[test]
    fn what_comes_before_the_first_event_is_skipped() {
        assert_eq!(first_event(b""), FirstEvent::NeedMore);
        assert_eq!(first_event(b"\n\n: ping\n\n\r\n"), FirstEvent::NeedMore);
        assert_eq!(first_event(b"data: a\n"), FirstEvent::NeedMore);
        assert_eq!(
            first_event(b"data: a\n\ndata: b\n\n"),
            FirstEvent::Event(0..9)
        );
        assert_eq!(
            first_event(b": x\n\n\ndata: a\r\n\r\nrest"),
            FirstEvent::Event(6..17)
        );
        assert_eq!(
            first_event(b": x\nevent: e\n: y\ndata: a\n\n"),
            FirstEvent::Event(4..26)
        );
        assert_eq!(
            first_event(b"\xef\xbb\xbfdata: a\r\r"),
            FirstEvent::Event(3..12)
        );
        assert_eq!(
            first_event(b"\xef\xbb\xbf\n\ndata\n\n"),
            FirstEvent::Event(5..11)
        );
        assert_eq!(first_event(b"data: a\r\n\r"), FirstEvent::Event(0..10));
    }

    #[test]
    fn a_growing_first_event_is_read_once() {
        let mut buf = b": keep-alive\n\n".repeat(4000);
        buf.extend_from_slice(b"data: a\n\n");
        let (start, mut scanner) = (buf.len() - 9, FirstEventScanner::default());
        for end in 0..buf.len() {
            assert_eq!(scanner.find(&buf[..end]), FirstEvent::NeedMore);
            assert_eq!(scanner.searched, end, "nothing before is looked at again");
        }
        assert_eq!(scanner.find(&buf), FirstEvent::Event(start..start + 9));
        assert_eq!(
            scanner.find(&buf[..3]),
            FirstEvent::NeedMore,
            "a shorter buffer is a mistake, not a panic"
        );
    }

    #[test]
    fn data_lines_are_joined() {
        for (event, data) in [
            ("data: {\"a\":1}\n\n", "{\"a\":1}"),
            ("event: x\r\ndata:one\r\ndata:  two\r\n\r\n", "one\n two"),
            ("data\ndata: \rdata:x:y\r\r", "\n\nx:y"),
            (": data: no\nid: 1\nDATA: no\ndatax: no\n\n", ""),
            ("\u{feff}data: a\n\n", "a"),
        ] {
            assert_eq!(event_data(event.as_bytes()), data.as_bytes(), "{event:?}");
        }
        assert_eq!(
            event_name(b"event: error\r\ndata: {}\r\n\r\n"),
            Some(b"error".as_slice())
        );
        assert_eq!(event_name(b"event:a\nevent:b\n\n"), Some(b"b".as_slice()));
        assert_eq!(event_name(b"data: event: error\n\n"), None);
    }
}
