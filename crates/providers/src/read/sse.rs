//! Event streams: where events begin and end, and what an event holds. Lines end in LF, CRLF, CR or any mixture.
//!
//! Must never change, keep or interpret the bytes of a stream beyond its lines.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// How the lines of an event begin; a comment has no name.
pub(crate) const FIELD_STARTS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
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
        self.feed_lines(chunk, |_, _| ())
    }

    /// [`EventScanner::feed`], with the text of each line passed to `on_line`: in parts if the line came in several chunks.
    /// The last part of a line comes with `true`.
    pub fn feed_lines(
        &mut self,
        chunk: &[u8],
        mut on_line: impl FnMut(&[u8], bool),
    ) -> Option<usize> {
        let mut boundary = None;
        let mut at = 0;
        while let Some(length) = memchr2(b'\n', b'\r', &chunk[at..]) {
            let end = at + length;
            self.skip_text(length);
            let is_lf = chunk[end] == b'\n';
            let blank = if is_lf && self.after_cr {
                !self.mid_event
            } else {
                on_line(&chunk[at..end], true);
                self.end_line()
            };
            if blank {
                boundary = Some(end + 1);
            }
            self.after_cr = !is_lf;
            at = end + 1;
        }
        if at < chunk.len() {
            on_line(&chunk[at..], false);
            self.skip_text(chunk.len() - at);
        }
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

/// Reads the events of a buffer that grows, one after the other. Each call continues where the last one stopped.
#[derive(Clone, Debug, Default)]
pub struct EventReader {
    /// Where the current line begins.
    line: usize,
    /// Where the current event's first field line begins.
    event: Option<usize>,
    /// There is no line end between `line` and here.
    searched: usize,
}

impl EventReader {
    /// The range of the next whole event in `buf`, from its first field line to just past its blank line. Comments, blank
    /// lines and a byte order mark before it are skipped. `buf` must begin with the bytes of the previous calls.
    pub fn next(&mut self, buf: &[u8]) -> Option<Range<usize>> {
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
                    return None;
                }
                _ => end + 1,
            };
            (self.line, self.searched) = (next, next);
            match self.event {
                Some(event) if blank => {
                    self.event = None;
                    return Some(event..next);
                }
                None if !blank && buf[start] != b':' => self.event = Some(start),
                _ => {}
            }
        }
        self.searched = self.searched.max(buf.len());
        None
    }

    /// What `buf` holds of an event that has no blank line yet; `None` if it holds nothing but blank lines and comments.
    pub fn unfinished<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        let in_line =
            || Some(self.line).filter(|line| !matches!(buf.get(*line), None | Some(b':')));
        buf.get(self.event.or_else(in_line)?..)
    }
}

/// The event's `data` lines, joined by LF.
pub fn event_data(event: &[u8]) -> Cow<'_, [u8]> {
    let mut lines = fields(event)
        .filter(|(name, _)| *name == b"data")
        .map(|(_, value)| value);
    let mut data = Cow::Borrowed(lines.next().unwrap_or_default());
    for line in lines {
        let data = data.to_mut();
        data.push(b'\n');
        data.extend_from_slice(line);
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
    lines(event.strip_prefix(BOM).unwrap_or(event)).map(|line| {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return (line, &line[line.len()..]);
        };
        let value = &line[colon + 1..];
        (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
    })
}

/// The lines of a text. CRLF ends a line and an empty one.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = memchr2(b'\n', b'\r', text);
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
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
        let first = |buf: &[u8]| EventReader::default().next(buf);
        for (buf, event) in [
            ("", None),
            ("\n\n: ping\n\n\r\n", None),
            ("data: a\n", None),
            ("data: a\n\ndata: b\n\n", Some(0..9)),
            (": x\n\n\ndata: a\r\n\r\nrest", Some(6..17)),
            (": x\nevent: e\n: y\ndata: a\n\n", Some(4..26)),
            ("\u{feff}data: a\r\r", Some(3..12)),
            ("\u{feff}\n\ndata\n\n", Some(5..11)),
            ("data: a\r\n\r", Some(0..10)),
        ] {
            assert_eq!(first(buf.as_bytes()), event, "{buf:?}");
        }
    }

    #[test]
    fn events_follow_each_other_and_the_rest_is_unfinished() {
        let buf = b"data: a\r\n\r\n: ping\n\nid: 1\n\nevent: c\ndata: d";
        let mut reader = EventReader::default();
        assert_eq!(reader.next(buf), Some(0..11));
        assert_eq!(reader.next(buf), Some(19..26));
        assert_eq!(reader.next(buf), None);
        assert_eq!(reader.unfinished(buf), Some(&b"event: c\ndata: d"[..]));
        for (buf, unfinished) in [
            ("data: a\n\n", None),
            ("data: a", Some("data: a")),
            (": x", None),
        ] {
            let mut reader = EventReader::default();
            while reader.next(buf.as_bytes()).is_some() {}
            let found = reader.unfinished(buf.as_bytes());
            assert_eq!(found, unfinished.map(str::as_bytes), "{buf:?}");
        }
    }

    #[test]
    fn a_growing_event_is_read_once() {
        let mut buf = b": keep-alive\n\n".repeat(4000);
        buf.extend_from_slice(b"data: a\n\n");
        let (start, mut reader) = (buf.len() - 9, EventReader::default());
        for end in 0..buf.len() {
            assert_eq!(reader.next(&buf[..end]), None);
            assert_eq!(reader.searched, end, "nothing before is looked at again");
        }
        assert_eq!(reader.next(&buf), Some(start..start + 9));
        assert_eq!(
            reader.next(&buf[..3]),
            None,
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
            assert_eq!(&*event_data(event.as_bytes()), data.as_bytes(), "{event:?}");
        }
        assert_eq!(
            event_name(b"event: error\r\ndata: {}\r\n\r\n"),
            Some(b"error".as_slice())
        );
        assert_eq!(event_name(b"event:a\nevent:b\n\n"), Some(b"b".as_slice()));
        assert_eq!(event_name(b"data: event: error\n\n"), None);
    }
}
