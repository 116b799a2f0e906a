//! Reads the beginning of a 200 until it is known what the response holds: output, an error, or nothing.
//!
//! The first bytes decide whether it is a stream of events or a body: `Content-Type` is often wrong where it matters.

use serde::de::IgnoredAny;

use super::event::{EventKind, kind_of};
use crate::errors::{error_in_body, is_page};
use crate::read::sse::{EventReader, FIELD_STARTS, event_data};

/// Number of bytes in which a page shows itself.
const PAGE_BEGINNING: usize = 512;

/// The class of a response's `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json` and its relatives.
    Json,
    /// `text/event-stream`.
    Events,
    /// Other text.
    Text,
    /// Sound, pictures and the like, which are not looked into.
    Binary,
    /// No type is stated.
    Unknown,
}

impl Media {
    /// The class of a `Content-Type`, in any case and with parameters; empty if there is none.
    pub fn of(content_type: &[u8]) -> Self {
        let essence = content_type
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        let essence = essence.trim_ascii();
        // The usual ones first: nothing is copied for them.
        if essence.eq_ignore_ascii_case(b"application/json") {
            return Self::Json;
        }
        if essence.eq_ignore_ascii_case(b"text/event-stream") {
            return Self::Events;
        }
        match &*essence.to_ascii_lowercase() {
            b"" => Self::Unknown,
            text if text.starts_with(b"text/") || text.ends_with(b"xml") => Self::Text,
            json if memchr::memmem::find(json, b"json").is_some() => Self::Json,
            b"application/octet-stream" | b"binary/octet-stream" => Self::Unknown,
            _ => Self::Binary,
        }
    }
}

/// The form of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamForm {
    /// Server-sent events.
    Events,
    /// The elements of one JSON list, as from Gemini.
    List,
}

/// What is known of a response before its body.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// What its head announces.
    pub media: Media,
    /// The client asked for a stream.
    pub stream: bool,
    /// The answer may be plain text or sound. Every other answer is JSON or a stream of events, whatever its type.
    pub may_be_text: bool,
    /// Events before any output are held. Not for background work, whose opening event is the answer.
    pub holds_opening: bool,
}

/// What the beginning of a response shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing yet: more must be read.
    Undecided,
    /// An answer has begun.
    Output,
    /// An error: the status that it implies, and its body.
    Error {
        /// The implied status.
        status: u16,
        /// The error's JSON.
        body: Vec<u8>,
    },
    /// There is no answer in it: what there is instead, in a few words.
    Nothing(&'static str),
}

/// Reads the beginning of one response.
#[derive(Debug)]
pub struct BeginningReader {
    expected: Expected,
    /// Everything before is blank.
    start: usize,
    events: EventReader,
    /// An event with data has come.
    has_event: bool,
    /// The body is a stream of events.
    is_events: bool,
    /// The body begins like JSON.
    is_json: bool,
    /// The body begins like a list, and a stream is expected.
    is_list: bool,
}

impl BeginningReader {
    /// A reader for a response of which nothing was read.
    pub fn new(mut expected: Expected) -> Self {
        let is_vague = matches!(expected.media, Media::Text | Media::Unknown);
        if is_vague && !expected.may_be_text {
            expected.media = Media::Json;
        }
        Self {
            expected,
            start: 0,
            events: EventReader::default(),
            has_event: false,
            is_events: false,
            is_json: false,
            is_list: false,
        }
    }

    /// Whether a body of JSON has begun.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// The form of the stream; `None` if the body was not found to be one.
    pub fn stream_form(&self) -> Option<StreamForm> {
        match (self.is_events, self.is_list) {
            (true, _) => Some(StreamForm::Events),
            (_, true) => Some(StreamForm::List),
            _ => None,
        }
    }

    /// Reads `buf`, which begins with the bytes of the previous calls. `is_end`: nothing more comes.
    pub fn read(&mut self, buf: &[u8], is_end: bool) -> Beginning {
        if self.is_events {
            return self.read_events(buf, is_end);
        }
        if self.start == 0 && buf.starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
        }
        if self.expected.media != Media::Binary {
            let blank = buf
                .get(self.start..)
                .unwrap_or_default()
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace());
            self.start += blank.count();
        }
        let text = buf.get(self.start..).unwrap_or_default();
        match (text.first(), self.expected.media) {
            // Silence, as a transcription has it.
            (None, Media::Text) if is_end && !buf.is_empty() => Beginning::Output,
            (None, _) if is_end => Beginning::Nothing("an empty body"),
            (None, _) => Beginning::Undecided,
            (_, Media::Binary) if is_plain_error(text) == Some(false) => Beginning::Output,
            (_, Media::Binary) if is_plain_error(text).is_none() => match is_end {
                true => Beginning::Output,
                false => Beginning::Undecided,
            },
            (Some(b'{' | b'['), _) => self.read_json(text, is_end),
            (Some(b'<'), media) => read_page(text, media, is_end),
            (_, Media::Events) => self.begin_events(buf, is_end),
            (_, media) => match begins_like_event(text) {
                Some(true) => self.begin_events(buf, is_end),
                None if !is_end => Beginning::Undecided,
                _ if media == Media::Json => self.read_json(text, is_end),
                _ => Beginning::Output,
            },
        }
    }

    fn begin_events(&mut self, buf: &[u8], is_end: bool) -> Beginning {
        self.is_events = true;
        self.read_events(buf, is_end)
    }

    fn read_events(&mut self, buf: &[u8], is_end: bool) -> Beginning {
        while let Some(event) = self.events.next(buf) {
            let found = self.read_event(&buf[event]);
            if found != Beginning::Undecided {
                return found;
            }
        }
        if !is_end {
            return Beginning::Undecided;
        }
        // At the end an error counts even without its blank line, which clients would wait for.
        if let Some(event) = self.events.unfinished(buf)
            && let error @ Beginning::Error { .. } = self.read_event(event)
        {
            return error;
        }
        match self.has_event {
            _ if self.expected.media == Media::Text => Beginning::Output,
            true => Beginning::Nothing("a stream that ended before any output"),
            false => Beginning::Nothing("a stream without an event"),
        }
    }

    fn read_event(&mut self, event: &[u8]) -> Beginning {
        let kind = kind_of(event);
        let (had_event, holds) = (self.has_event, self.expected.holds_opening);
        self.has_event |= kind != EventKind::Empty;
        match kind {
            EventKind::Error(status) => Beginning::Error {
                status,
                body: event_data(event).into_owned(),
            },
            EventKind::Empty => Beginning::Undecided,
            EventKind::Opening if holds => Beginning::Undecided,
            EventKind::Done if !had_event => Beginning::Nothing("a stream without an answer"),
            EventKind::Opening | EventKind::Output | EventKind::Done => Beginning::Output,
        }
    }

    /// A body as JSON. Of a stream of JSON values only what begins like an error is held.
    fn read_json(&mut self, text: &[u8], is_end: bool) -> Beginning {
        self.is_json = true;
        self.is_list = self.expected.stream && text.starts_with(b"[");
        if self.is_list && begins_like_error(text) == Some(false) {
            return Beginning::Output;
        }
        if !is_end {
            return Beginning::Undecided;
        }
        let error = error_in_body(text);
        if error.is_none() && is_balanced(text) {
            return Beginning::Output;
        }
        if let Some(status) = error.or_else(|| error_before_events(text)) {
            return Beginning::Error {
                status,
                body: text.to_vec(),
            };
        }
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Err(error)) if error.is_eof() && self.expected.media != Media::Text => {
                Beginning::Nothing("JSON that is cut short")
            }
            Some(Err(_)) if !text.starts_with(b"{") && !text.starts_with(b"[") => {
                Beginning::Nothing("a body that is no JSON")
            }
            _ => Beginning::Output,
        }
    }
}

/// Whether a text ends like whole JSON: with its bracket, as many of them closed as opened. Nearly every body does, and
/// counting costs a tenth of parsing.
fn is_balanced(text: &[u8]) -> bool {
    let count = |wanted: u8| memchr::memchr_iter(wanted, text).count();
    match (text.first(), text.trim_ascii_end().last()) {
        (Some(b'{'), Some(b'}')) => count(b'{') == count(b'}'),
        (Some(b'['), Some(b']')) => count(b'[') == count(b']'),
        _ => false,
    }
}

/// Whether a body that is said to be sound or a picture begins like an error instead. `None`: too short to tell.
fn is_plain_error(text: &[u8]) -> Option<bool> {
    let starts = [
        &b"{\"error\""[..],
        b"{\"type\":\"error\"",
        b"data:",
        b"event:",
    ];
    match starts
        .iter()
        .find(|start| start.starts_with(&text[..text.len().min(start.len())]))
    {
        Some(start) if text.len() < start.len() => None,
        found => Some(found.is_some()),
    }
}

/// The status of an error as bare JSON to which events were added.
fn error_before_events(text: &[u8]) -> Option<u16> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let (error, rest) = text.split_at(values.byte_offset());
    let is_followed_by_events = begins_like_event(rest.trim_ascii_start()) == Some(true);
    is_followed_by_events
        .then(|| error_in_body(error))
        .flatten()
}

/// A body that begins like markup. Where text is expected, only a whole page is no answer.
fn read_page(text: &[u8], media: Media, is_end: bool) -> Beginning {
    if media != Media::Text && media != Media::Unknown {
        return Beginning::Nothing("markup");
    }
    let start = String::from_utf8_lossy(&text[..text.len().min(PAGE_BEGINNING)]);
    match is_page(&start.to_ascii_lowercase()) {
        true => Beginning::Nothing("a web page"),
        false if text.len() < PAGE_BEGINNING && !is_end => Beginning::Undecided,
        false => Beginning::Output,
    }
}

/// Whether the first line can be part of an event. `None`: too short to tell.
fn begins_like_event(text: &[u8]) -> Option<bool> {
    let fits = |field: &&&[u8]| text.starts_with(&field[..field.len().min(text.len())]);
    match FIELD_STARTS.iter().find(fits) {
        Some(field) if text.len() < field.len() => None,
        found => Some(found.is_some()),
    }
}

/// Whether a list in JSON begins with an object whose first field is that of an error. `None`: too short to tell.
fn begins_like_error(text: &[u8]) -> Option<bool> {
    let text = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .take(16)
        .copied()
        .collect::<Vec<u8>>();
    let start = b"[{\"error\"";
    let length = text.len().min(start.len());
    if text[..length] != start[..length] {
        return Some(false);
    }
    (text.len() >= start.len()).then_some(true)
}

#[cfg(test)]
mod tests;
