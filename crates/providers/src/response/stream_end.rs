//! Whether a stream has reached the end that its protocol defines, which its transfer does not tell.
//!
//! Every event of every stream passes here, so nothing is parsed on the way: lines are searched for a few words. Chat has
//! the most events and the shortest, so of it only the last bytes are kept, and they are searched when the transfer ends.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::memrchr;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::errors::error_in_data;
use crate::protocol::Protocol;
use crate::read::json_scan::{pick, unescaped};
use crate::read::sse::lines;

/// Maximum length of a line that is kept because it came in parts, in bytes. Of a longer one the beginning is read.
const MAX_LINE: usize = 64 * 1024;

/// Number of bytes at the end of a stream of chat that are searched at least: more than its last few events need.
const TAIL: usize = 2 * 1024;

/// Streams whose protocol defines an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// OpenAI's chat completions and completions: `[DONE]`, or a `finish_reason` for every choice.
    Chat,
    /// OpenAI's responses: `response.completed`, `response.incomplete` or `response.failed`.
    Responses,
    /// Anthropic's messages: `message_stop`.
    Messages,
    /// Gemini's generation: `finishReason` or `promptFeedback.blockReason`.
    Gemini,
}

/// How a stream ended by its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOutcome {
    /// With the end that the protocol defines.
    Complete,
    /// With an error.
    Failed {
        /// The status that the error implies.
        status: u16,
        /// The error's JSON.
        body: Vec<u8>,
    },
    /// Without an end: it was cut off.
    Truncated,
}

/// Follows one stream, line by line.
#[derive(Debug)]
pub struct StreamEnd {
    kind: StreamKind,
    /// There may be several choices, so that each must be followed.
    has_choices: bool,
    /// Bits of the choices that were seen and of those that have finished.
    seen: u64,
    finished: u64,
    /// The beginning of a line that came in parts; or the end of the stream so far.
    kept: Vec<u8>,
    /// The name of the current event.
    event: EventName,
    outcome: StreamOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventName {
    Unnamed,
    Error,
    /// The name of the protocol's last event.
    End,
    Other,
}

impl StreamKind {
    /// The kind of the stream that a call of a known endpoint gets, by the client's path; `None` if its protocol defines
    /// no end.
    pub fn of(protocol: Protocol, path: &str) -> Option<Self> {
        match protocol {
            Protocol::OpenAi if path.ends_with("/completions") => Some(Self::Chat),
            Protocol::OpenAi if path.contains("/responses") => Some(Self::Responses),
            Protocol::Anthropic if path.ends_with("/messages") => Some(Self::Messages),
            Protocol::Gemini if path.ends_with("GenerateContent") => Some(Self::Gemini),
            _ => None,
        }
    }
}

impl StreamEnd {
    /// `has_choices`: the call may get more than one choice.
    pub fn new(kind: StreamKind, has_choices: bool) -> Self {
        Self {
            kind,
            has_choices,
            seen: 0,
            finished: 0,
            kept: Vec::new(),
            event: EventName::Unnamed,
            outcome: StreamOutcome::Truncated,
        }
    }

    /// Whether it needs each line, by [`StreamEnd::read`]; otherwise each piece, by [`StreamEnd::keep`].
    pub fn needs_lines(&self) -> bool {
        self.has_choices || self.kind != StreamKind::Chat
    }

    /// Takes a piece of the stream. Whole lines are kept, so that the last event stays readable however long it is.
    pub fn keep(&mut self, piece: &[u8]) {
        if self.kept.capacity() == 0 {
            self.kept.reserve_exact(2 * TAIL);
        }
        if self.kept.len() + piece.len() > 2 * TAIL {
            let before = &self.kept[..self.kept.len().saturating_sub(TAIL)];
            let whole_lines = memrchr(b'\n', before).map_or(0, |end| end + 1);
            self.forget(whole_lines);
        }
        if self.kept.len() > MAX_LINE {
            self.kept.drain(..self.kept.len() - TAIL);
        }
        self.kept
            .extend_from_slice(&piece[piece.len().saturating_sub(MAX_LINE)..]);
    }

    /// Drops the first bytes, which are whole lines. An end may be followed by much that is none.
    fn forget(&mut self, length: usize) {
        static FINISHED: LazyLock<Finder<'static>> =
            LazyLock::new(|| Finder::new("\"finish_reason\":\""));
        if FINISHED.find(&self.kept[..length]).is_some() {
            let dropped = self.kept[..length].to_vec();
            lines(&dropped).for_each(|line| self.read_line(line));
        }
        self.kept.drain(..length);
    }

    /// Takes a part of a line; with `is_last` the line ends with it.
    #[inline]
    pub fn read(&mut self, text: &[u8], is_last: bool) {
        if self.outcome != StreamOutcome::Truncated {
            return;
        }
        if is_last && self.kept.is_empty() {
            return self.read_line(text);
        }
        let room = MAX_LINE - self.kept.len();
        self.kept.extend_from_slice(&text[..text.len().min(room)]);
        if is_last {
            let line = std::mem::take(&mut self.kept);
            self.read_line(&line);
        }
    }

    /// How the stream ended, if its transfer ends now.
    pub fn outcome(&mut self) -> StreamOutcome {
        static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));
        let kept = std::mem::take(&mut self.kept);
        // How nearly every stream of chat ends.
        let last = kept
            .trim_ascii_end()
            .rsplit(|byte| matches!(byte, b'\n' | b'\r'))
            .next();
        let is_undecided = !self.needs_lines() && self.outcome == StreamOutcome::Truncated;
        if is_undecided && last == Some(b"data: [DONE]") && ERROR.find(&kept).is_none() {
            return StreamOutcome::Complete;
        }
        let mut lines = lines(&kept).peekable();
        while self.outcome == StreamOutcome::Truncated
            && let Some(line) = lines.next()
        {
            // What follows the last line end may be half a line.
            if lines.peek().is_some() || is_whole(line) {
                self.read_line(line);
            }
        }
        let all_finished = self.finished != 0 && self.seen & !self.finished == 0;
        match &self.outcome {
            StreamOutcome::Truncated if all_finished => StreamOutcome::Complete,
            outcome => outcome.clone(),
        }
    }

    fn read_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.event = EventName::Unnamed;
        } else if let Some(data) = line.strip_prefix(b"data:") {
            self.read_data(data.strip_prefix(b" ").unwrap_or(data));
        } else if let Some(name) = line.strip_prefix(b"event:") {
            self.read_name(name.trim_ascii());
        }
    }

    fn read_name(&mut self, name: &[u8]) {
        self.event = EventName::Other;
        match (self.kind, name) {
            (_, b"error") | (StreamKind::Responses, b"response.failed") => {
                self.event = EventName::Error;
            }
            (StreamKind::Messages, b"message_stop")
            | (StreamKind::Responses, b"response.completed" | b"response.incomplete") => {
                self.event = EventName::End;
            }
            _ => {}
        }
    }

    fn read_data(&mut self, data: &[u8]) {
        match self.event {
            EventName::Error => return self.read_error(data),
            // Only with its data: the last event may be long, and cut off.
            EventName::End => {
                self.outcome = StreamOutcome::Complete;
                return;
            }
            EventName::Unnamed | EventName::Other => {}
        }
        match self.kind {
            StreamKind::Chat => self.read_chunk(data),
            StreamKind::Gemini => self.read_candidates(data),
            StreamKind::Messages | StreamKind::Responses => self.read_typed(data),
        }
    }

    /// Records an error, if the data is one.
    fn read_error(&mut self, data: &[u8]) {
        if let Some(status) = error_in_data(data, self.event == EventName::Error) {
            self.outcome = StreamOutcome::Failed {
                status,
                body: data.to_vec(),
            };
        }
    }

    fn read_chunk(&mut self, data: &[u8]) {
        static FINISH: LazyLock<Finder<'static>> =
            LazyLock::new(|| Finder::new("\"finish_reason\""));
        if data.starts_with(b"[DONE]") {
            self.outcome = StreamOutcome::Complete;
            return;
        }
        let (mut has_reason, mut is_finish) = (false, false);
        for at in FINISH.find_iter(data) {
            has_reason = true;
            is_finish |= !is_null(&data[at + FINISH.needle().len()..]);
        }
        if !has_reason {
            // Every usual chunk states the reason, if only as null.
            self.read_error(data);
        }
        if (is_finish || self.has_choices) && self.outcome == StreamOutcome::Truncated {
            self.follow_choices(data);
        }
    }

    fn follow_choices(&mut self, data: &[u8]) {
        let chunk: Value = serde_json::from_slice(data).unwrap_or_default();
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or(0).min(63);
            self.seen |= 1 << index;
            if choice["finish_reason"].as_str() != Some("") && !choice["finish_reason"].is_null() {
                self.finished |= 1 << index;
            }
        }
        if !chunk["error"].is_null() {
            self.read_error(data);
        }
    }

    fn read_candidates(&mut self, data: &[u8]) {
        static REASON: LazyLock<[Finder<'static>; 2]> =
            LazyLock::new(|| ["\"finishReason\"", "\"blockReason\""].map(Finder::new));
        let is_reason = |finder: &Finder<'_>| {
            let mut found = finder.find_iter(data);
            found.any(|at| !is_null(&data[at + finder.needle().len()..]))
        };
        if REASON.iter().any(is_reason) {
            self.outcome = StreamOutcome::Complete;
        } else if !data.starts_with(b"{\"candidates\"") {
            self.read_error(data);
        }
    }

    fn read_typed(&mut self, data: &[u8]) {
        // What the name of the event says needs no second look.
        if self.event == EventName::Other && !data.starts_with(b"{\"error\"") && !names_an_end(data)
        {
            return;
        }
        let text = std::str::from_utf8(data).unwrap_or_default();
        let kind = pick(text, ["type"]).and_then(|[kind]| unescaped(kind?));
        match kind.as_deref() {
            Some("message_stop" | "response.completed" | "response.incomplete") => {
                self.outcome = StreamOutcome::Complete;
            }
            _ => self.read_error(data),
        }
    }
}

/// Whether a line without its end is whole: the last one of a stream may be.
fn is_whole(line: &[u8]) -> bool {
    let Some(data) = line.strip_prefix(b"data:") else {
        return false;
    };
    let data = data.trim_ascii();
    data == b"[DONE]" || serde_json::from_slice::<IgnoredAny>(data).is_ok()
}

/// Whether the data begins with a type that may end a stream.
fn names_an_end(data: &[u8]) -> bool {
    const TYPE: &[u8] = b"{\"type\":";
    let Some(kind) = data.strip_prefix(TYPE) else {
        return false;
    };
    let kind = kind.trim_ascii_start();
    [
        &b"\"error"[..],
        b"\"response.failed",
        b"\"message_stop",
        b"\"response.completed",
        b"\"response.incomplete",
    ]
    .iter()
    .any(|end| kind.starts_with(end))
}

/// Whether what follows a field's name is `null` or empty.
fn is_null(after: &[u8]) -> bool {
    let value = after.trim_ascii_start().strip_prefix(b":");
    let value = value.map(<[u8]>::trim_ascii_start);
    value.is_none_or(|value| value.starts_with(b"null") || value.starts_with(b"\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::EventScanner;

    fn outcome_with(kind: StreamKind, has_choices: bool, stream: &str) -> StreamOutcome {
        let feed = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut scanner, mut end) =
                (EventScanner::default(), StreamEnd::new(kind, has_choices));
            for piece in pieces {
                if end.needs_lines() {
                    scanner.feed_lines(piece, |text, is_last| end.read(text, is_last));
                } else {
                    end.keep(piece);
                }
            }
            end.outcome()
        };
        let whole = feed(&mut std::iter::once(stream.as_bytes()));
        for size in [1, 3, 7, 50] {
            assert_eq!(
                feed(&mut stream.as_bytes().chunks(size)),
                whole,
                "{size}: {stream}"
            );
        }
        whole
    }

    fn outcome(kind: StreamKind, stream: &str) -> StreamOutcome {
        outcome_with(kind, false, stream)
    }

    fn failed_with(kind: StreamKind, stream: &str) -> Option<u16> {
        match outcome(kind, stream) {
            StreamOutcome::Failed { status, .. } => Some(status),
            _ => None,
        }
    }

    const TEXT: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    const STOP: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\": \"stop\"}]}\n\n";

    #[test]
    fn chat_ends_with_done_or_with_every_choice_finished() {
        use StreamKind::Chat;
        let usage = "data: {\"choices\":[],\"usage\":{}}\n\n";
        let quoted = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"finish_reason\\\": \\\"stop\\\"\"},\"finish_reason\":null}]}\n\n";
        for stream in [
            format!("{TEXT}data: [DONE]\n\n"),
            format!("{TEXT}data:[DONE]"),
            format!("{TEXT}{STOP}"),
            format!("{TEXT}{STOP}{usage}: bye\n\n"),
            format!("{TEXT}{}", STOP.trim_end()),
            format!("{TEXT}{STOP}").replace('\n', "\r\n"),
        ] {
            assert_eq!(outcome(Chat, &stream), StreamOutcome::Complete, "{stream}");
        }
        for stream in [
            String::new(),
            TEXT.to_owned(),
            format!("{TEXT}{usage}"),
            quoted.to_owned(),
            format!("{TEXT}{}", &STOP[..40]),
        ] {
            assert_eq!(outcome(Chat, &stream), StreamOutcome::Truncated, "{stream}");
        }
    }

    #[test]
    fn only_the_end_of_a_long_stream_is_kept() {
        let mut end = StreamEnd::new(StreamKind::Chat, false);
        for _ in 0..10_000 {
            end.keep(TEXT.as_bytes());
        }
        end.keep(&TEXT.as_bytes().repeat(1000));
        assert!(end.kept.len() <= MAX_LINE + 2 * TAIL, "{}", end.kept.len());
        end.keep(STOP.as_bytes());
        assert_eq!(end.outcome(), StreamOutcome::Complete);
        // A long last event stays whole, whatever its pieces.
        let error = format!(
            "data: {{\"error\":{{\"code\":429,\"raw\":\"{}\"}}}}\n\n",
            "x".repeat(20_000)
        );
        for size in [100, 5_000, 30_000] {
            let mut end = StreamEnd::new(StreamKind::Chat, false);
            end.keep(&TEXT.as_bytes().repeat(100));
            error
                .as_bytes()
                .chunks(size)
                .for_each(|piece| end.keep(piece));
            assert!(
                matches!(end.outcome(), StreamOutcome::Failed { status: 429, .. }),
                "{size}"
            );
        }
    }

    #[test]
    fn an_error_far_from_the_end_is_not_forgotten() {
        let failed =
            "data: {\"choices\":[{\"finish_reason\":\"error\"}],\"error\":{\"code\":502}}\n\n";
        let mut end = StreamEnd::new(StreamKind::Chat, false);
        end.keep(failed.as_bytes());
        (0..100).for_each(|_| end.keep(b": still here, and busy with something else\n\n"));
        end.keep(b"data: [DONE]\n\n");
        assert!(matches!(
            end.outcome(),
            StreamOutcome::Failed { status: 502, .. }
        ));
        // Only chat ends with it.
        let done = format!("{TEXT}data: [DONE]");
        assert_eq!(
            outcome(StreamKind::Responses, &done),
            StreamOutcome::Truncated
        );
    }

    #[test]
    fn an_end_that_is_cut_short_is_none() {
        use StreamKind::{Chat, Gemini, Responses};
        for (kind, stream) in [
            (
                Responses,
                "event: response.completed\ndata: {\"type\":\"response.completed\",\"resp",
            ),
            (Responses, "event: response.completed\n"),
            (
                Gemini,
                "data: {\"candidates\":[{\"finishReason\":\"STOP\",\"ind",
            ),
            (
                Chat,
                "data: {\"choices\":[{\"delta\":{\"content\":\"see [DONE]",
            ),
        ] {
            assert_eq!(outcome(kind, stream), StreamOutcome::Truncated, "{stream}");
        }
        let odd = "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"server_error\"}},\"type\":\"response.failed\"}\n\n";
        assert_eq!(failed_with(Responses, odd), Some(500));
    }

    #[test]
    fn each_of_several_choices_must_finish() {
        let of = |text: &str, index: u8| text.replace("\"index\":0", &format!("\"index\":{index}"));
        let both = format!("{TEXT}{}{STOP}", of(TEXT, 1));
        let chat = |stream: &str| outcome_with(StreamKind::Chat, true, stream);
        assert_eq!(chat(&both), StreamOutcome::Truncated);
        assert_eq!(
            chat(&format!("{both}{}", of(STOP, 1))),
            StreamOutcome::Complete
        );
        assert_eq!(chat(&format!("{TEXT}{STOP}")), StreamOutcome::Complete);
    }

    #[test]
    fn typed_streams_end_with_their_last_event() {
        use StreamKind::{Messages, Responses};
        for (kind, stream) in [
            (
                Messages,
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
            (Messages, "data: {\"type\": \"message_stop\"}\n\n"),
            (
                Responses,
                "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n",
            ),
            (
                Responses,
                "data: {\"sequence_number\":9,\"type\":\"response.incomplete\"}\n\n",
            ),
        ] {
            assert_eq!(outcome(kind, stream), StreamOutcome::Complete, "{stream}");
        }
        for (kind, stream) in [
            (
                Messages,
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
            ),
            (
                Messages,
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"message_stop\"}}\n\n",
            ),
            (
                Responses,
                "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\"}\n\n",
            ),
        ] {
            assert_eq!(outcome(kind, stream), StreamOutcome::Truncated, "{stream}");
        }
    }

    #[test]
    fn gemini_ends_with_a_reason() {
        let text =
            "data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"a\"}]}}]}\r\n\r\n";
        for end in [
            "data: {\"candidates\": [{\"finishReason\": \"STOP\"}]}\r\n\r\n",
            "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n",
        ] {
            assert_eq!(
                outcome(StreamKind::Gemini, &format!("{text}{end}")),
                StreamOutcome::Complete
            );
        }
        assert_eq!(outcome(StreamKind::Gemini, text), StreamOutcome::Truncated);
    }

    #[test]
    fn errors_end_every_kind_of_stream() {
        use StreamKind::{Chat, Gemini, Messages, Responses};
        for (kind, event, status) in [
            (
                Chat,
                "data: {\"error\":{\"code\":\"rate_limit_exceeded\"}}",
                429,
            ),
            (
                Chat,
                "data: {\"id\":\"g\",\"choices\":[{\"finish_reason\":\"error\"}],\"error\":{\"code\":502}}",
                502,
            ),
            (Chat, "data: {\"id\":\"g\",\"error\":{\"code\":503}}", 503),
            (
                Chat,
                "data: {\"object\":\"error\",\"type\":\"rate_limited\"}",
                429,
            ),
            (
                Chat,
                "data: {\"error\":{\"code\":429}}\n\ndata: [DONE]",
                429,
            ),
            (
                Messages,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}",
                529,
            ),
            (
                Messages,
                "data: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}",
                500,
            ),
            (
                Responses,
                "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\"}}}",
                429,
            ),
            (
                Responses,
                "data: {\"type\":\"error\",\"code\":\"server_error\"}",
                500,
            ),
            (
                Gemini,
                "data: {\"error\": {\"code\": 503, \"status\": \"UNAVAILABLE\"}}",
                503,
            ),
        ] {
            let begun = match kind {
                Chat => TEXT,
                _ => "",
            };
            for end in ["\n\n", ""] {
                assert_eq!(
                    failed_with(kind, &format!("{begun}{event}{end}")),
                    Some(status),
                    "{event}"
                );
            }
        }
    }

    #[test]
    fn kinds_follow_protocol_and_path() {
        use Protocol::{Anthropic, Gemini, OpenAi, Tavily};
        for (protocol, path, kind) in [
            (OpenAi, "/v1/chat/completions", Some(StreamKind::Chat)),
            (
                OpenAi,
                "/v1beta/openai/chat/completions",
                Some(StreamKind::Chat),
            ),
            (OpenAi, "/v1/responses/resp_1", Some(StreamKind::Responses)),
            (OpenAi, "/v1/audio/speech", None),
            (OpenAi, "/v1/images/generations", None),
            (Anthropic, "/v1/messages", Some(StreamKind::Messages)),
            (
                Gemini,
                "/v1beta/models/m:streamGenerateContent",
                Some(StreamKind::Gemini),
            ),
            (Gemini, "/v1beta/models/m:predict", None),
            (Tavily, "/research", None),
        ] {
            assert_eq!(StreamKind::of(protocol, path), kind, "{path}");
        }
    }
}
