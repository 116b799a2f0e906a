//! Event streams compared with a slow and plain reading of their lines, however the stream is cut.

use std::ops::Range;

use keypool_providers::sse::{EventReader, EventScanner, event_data};

use crate::fuzz;
use crate::source::Source;

const PIECES: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\n\r\n",
    ":",
    "data: x",
    "data:",
    "event: error",
    "a",
    " ",
    "\u{feff}",
    "é",
    "id: 1",
];

fn stream(source: &mut Source<'_>) -> Vec<u8> {
    match source.byte() % 4 {
        0 => source.take(200).to_vec(),
        _ => source.text(PIECES).into_bytes(),
    }
}

#[test]
fn an_event_ends_where_it_ends_however_the_stream_is_cut() {
    fuzz!(|source: &mut Source<'_>| {
        let mut cuts: Vec<usize> = (0..source.below(6)).map(|_| source.below(100)).collect();
        cuts.sort_unstable();
        let stream = stream(source);
        check_scanner(&stream, &cuts);
        if cuts.is_empty() {
            check_scanner(&stream, &(0..stream.len()).collect::<Vec<_>>());
        }
    });
}

#[test]
fn events_are_found_once_they_are_whole() {
    fuzz!(|source: &mut Source<'_>| {
        let mut cuts: Vec<usize> = (0..source.below(6)).map(|_| source.below(100)).collect();
        cuts.sort_unstable();
        let stream = stream(source);
        let (mut growing, mut known) = (EventReader::default(), Vec::new());
        for end in cuts
            .into_iter()
            .filter(|cut| *cut < stream.len())
            .chain([stream.len()])
        {
            let so_far = &stream[..end];
            let mut at_once = EventReader::default();
            let whole: Vec<_> = std::iter::from_fn(|| at_once.next(so_far)).collect();
            known.extend(std::iter::from_fn(|| growing.next(so_far)));
            let text = so_far.escape_ascii();
            assert_eq!(whole, naive_events(so_far), "{text}");
            // An event that ends in CR ends before the LF that may follow.
            let starts = |events: &[Range<usize>]| {
                events.iter().map(|event| event.start).collect::<Vec<_>>()
            };
            assert_eq!(starts(&known), starts(&whole), "{text}");
        }
    });
}

#[test]
fn the_data_of_an_event_is_that_of_its_lines() {
    fuzz!(|source: &mut Source<'_>| {
        let stream = stream(source);
        let event = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&stream);
        let mut whole = event.to_vec();
        whole.push(b'\n');
        let data = lines(&whole).into_iter().filter_map(|(start, end, _)| {
            let line = &whole[start..end];
            let value = if line == b"data" {
                b""
            } else {
                line.strip_prefix(b"data:")?
            };
            Some(value.strip_prefix(b" ").unwrap_or(value))
        });
        let expect = data.collect::<Vec<_>>().join(&b'\n');
        assert_eq!(event_data(&stream), expect, "{}", stream.escape_ascii());
    });
}

/// Streams that end their lines in every way.
const STREAMS: [&[u8]; 9] = [
    b"data: a\n\ndata: b\n\ndata: c",
    b"data: a\r\n\r\ndata: b\r\n\r\n",
    b"data: a\r\rdata: b\r\r",
    b"event: x\r\ndata: a\n\r\ndata: b\r\n\n: c\n",
    b"\xef\xbb\xbfdata: \xe4\xbd\xa0\n\n",
    b": hi\n\n\n\nid: 1\ndata: a\n\n",
    b"\n\r\n\r\r\n",
    b": only\r\n\r\n: comments\r\n\r\n",
    b"",
];

#[test]
fn every_way_to_cut_a_stream_in_three_gives_the_same_events() {
    for stream in STREAMS {
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                check_scanner(stream, &[first, second]);
            }
        }
        check_scanner(stream, &(0..stream.len()).collect::<Vec<_>>());
    }
}

/// Feeds `buf` in pieces that end at `cuts`, and compares each result with the plain reading of all bytes so far.
fn check_scanner(buf: &[u8], cuts: &[usize]) {
    let (mut scanner, mut from) = (EventScanner::default(), 0);
    let cuts = cuts.iter().map(|cut| (*cut).min(buf.len()));
    for to in cuts.chain([buf.len()]) {
        let expect = last_boundary(&buf[..to]);
        let in_chunk = expect.filter(|at| *at > from).map(|at| at - from);
        let fed = scanner.feed(&buf[from..to]);
        assert_eq!(fed, in_chunk, "{} from {from} to {to}", buf.escape_ascii());
        let mid_event = expect.unwrap_or(0) != to;
        assert_eq!(
            scanner.mid_event(),
            mid_event,
            "{} at {to}",
            buf.escape_ascii()
        );
        from = to;
    }
}

/// Every line of `buf` that has ended, as (start, end of text, start of the next).
fn lines(buf: &[u8]) -> Vec<(usize, usize, usize)> {
    let (mut lines, mut start, mut at) = (Vec::new(), 0, 0);
    while at < buf.len() {
        let width = match (buf[at], buf.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r' | b'\n', _) => 1,
            _ => 0,
        };
        if width > 0 {
            lines.push((start, at, at + width));
            start = at + width;
        }
        at += width.max(1);
    }
    lines
}

/// Just past the last blank line.
fn last_boundary(buf: &[u8]) -> Option<usize> {
    let blank = lines(buf).into_iter().rfind(|(start, end, _)| start == end);
    blank.map(|(_, _, next)| next)
}

fn naive_events(buf: &[u8]) -> Vec<Range<usize>> {
    let (mut event, mut events) = (None, Vec::new());
    for (start, end, next) in lines(buf) {
        let has_mark = start == 0 && buf.starts_with(b"\xef\xbb\xbf");
        let start = if has_mark { 3 } else { start };
        match event {
            Some(from) if start == end => {
                events.push(from..next);
                event = None;
            }
            None if start != end && buf[start] != b':' => event = Some(start),
            _ => {}
        }
    }
    events
}
