//! Whether a stream has reached the end that its protocol defines, which its transfer does not tell.
//!
//! Every event of every stream passes here, so nothing is parsed on the way: lines are searched for a few words. Chat has
//! the most events and the shortest: of most of them only the last bytes are compared.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::errors::{error_in_data, text_of};
use crate::protocol::Protocol;
use crate::read::json_scan::{pick, unescaped};

/// Maximum length of a line that is kept because it came in parts, in bytes. Of a longer one the beginning and the end are
/// read, since pictures stand in between.
const MAX_LINE: usize = 64 * 1024;

/// Maximum length of the usual end of a chunk of chat, in bytes.
const MAX_USUAL_END: usize = 128;

/// How types begin that end a stream well.
const COMPLETE: [&[u8]; 3] = [
    b"\"message_stop\"",
    b"\"response.completed\"",
    b"\"response.incomplete\"",
];
/// How types begin that end it with an error.
const FAILED: [&[u8]; 2] = [b"\"error", b"\"response.failed"];

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
    /// The beginning of a line that came in parts.
    kept: Vec<u8>,
    /// The end of a chunk of chat from its `"finish_reason":null` on, as most chunks of the stream have it. Empty if none
    /// was seen.
    usual_end: Vec<u8>,
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
            usual_end: Vec::new(),
            event: EventName::Unnamed,
            outcome: StreamOutcome::Truncated,
        }
    }

    /// Takes a part of a line; with `is_last` the line ends with it.
    #[inline]
    pub fn read(&mut self, text: &[u8], is_last: bool) {
        self.read_part(text, is_last, Self::read_line);
    }

    /// Takes a part of an element of a list, which is the data of an event; with `is_last` the element ends with it.
    pub fn read_element(&mut self, text: &[u8], is_last: bool) {
        self.read_part(text, is_last, Self::read_data);
    }

    #[inline]
    fn read_part(&mut self, text: &[u8], is_last: bool, read: impl Fn(&mut Self, &[u8])) {
        if self.outcome != StreamOutcome::Truncated {
            return;
        }
        if is_last && self.kept.is_empty() {
            return read(self, text);
        }
        let (beginning, end) = text.split_at(text.len() - text.len().min(MAX_LINE / 2));
        let room = (MAX_LINE / 2).saturating_sub(self.kept.len());
        self.kept
            .extend_from_slice(&beginning[..beginning.len().min(room)]);
        self.kept.extend_from_slice(end);
        if self.kept.len() > MAX_LINE {
            self.kept
                .drain(MAX_LINE / 2..self.kept.len() - MAX_LINE / 2);
        }
        if is_last {
            let text = std::mem::take(&mut self.kept);
            read(self, &text);
        }
    }

    /// Whether it has reached its protocol's end.
    pub fn is_complete(&self) -> bool {
        self.outcome == StreamOutcome::Complete
    }

    /// How the stream ended, if its transfer ends now.
    pub fn outcome(&mut self) -> StreamOutcome {
        let last = std::mem::take(&mut self.kept);
        if self.outcome == StreamOutcome::Truncated && is_whole(&last) {
            self.read_line(&last);
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
        if !self.usual_end.is_empty() && data.ends_with(&self.usual_end) {
            return;
        }
        if data.starts_with(b"[DONE]") {
            self.outcome = StreamOutcome::Complete;
            return;
        }
        let (mut reasons, mut is_finish) = (0, false);
        for at in FINISH.find_iter(data) {
            reasons += 1;
            is_finish |= !is_null(&data[at + FINISH.needle().len()..]);
            if !self.has_choices && !is_finish && data.len() - at <= MAX_USUAL_END {
                self.usual_end = data[at..].to_vec();
            }
        }
        // Every usual chunk states the reason, if only as null.
        if reasons == 0 || is_finish {
            self.read_error(data);
        }
        if self.has_choices {
            self.follow_choices(data);
        } else if is_finish {
            (self.seen, self.finished) = (1, 1);
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
    }

    fn read_candidates(&mut self, data: &[u8]) {
        static REASON: LazyLock<[Finder<'static>; 2]> =
            LazyLock::new(|| ["\"finishReason\"", "\"blockReason\""].map(Finder::new));
        let is_reason = |finder: &Finder<'_>| {
            let mut found = finder.find_iter(data);
            found.any(|at| !is_null(&data[at + finder.needle().len()..]))
        };
        if REASON.iter().any(is_reason) && states_an_end(data) {
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
            // Of a long event the middle is missing.
            None if begins_with_type(data, &COMPLETE) => self.outcome = StreamOutcome::Complete,
            _ => self.read_error(data),
        }
    }
}

/// Whether a chunk of Gemini's states why it is the last. The words may also stand in the arguments of a function call.
fn states_an_end(data: &[u8]) -> bool {
    let text = text_of(data);
    let Some([candidates, feedback]) = pick(&text, ["candidates", "promptFeedback"]) else {
        // Of a long chunk the middle is missing.
        return true;
    };
    let has = |object: &str, field| {
        let value = pick(object, [field]).and_then(|[value]| value);
        value.is_some_and(|value| !matches!(value, "null" | "\"\""))
    };
    let candidates = candidates.map(serde_json::from_str::<Vec<&RawValue>>);
    let candidates = candidates.and_then(Result::ok).unwrap_or_default();
    let is_finished = |candidate: &&RawValue| has(candidate.get(), "finishReason");
    candidates.iter().any(is_finished) || feedback.is_some_and(|it| has(it, "blockReason"))
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
    begins_with_type(data, &COMPLETE) || begins_with_type(data, &FAILED)
}

fn begins_with_type(data: &[u8], types: &[&[u8]]) -> bool {
    let kind = data
        .strip_prefix(b"{\"type\":")
        .map(<[u8]>::trim_ascii_start);
    kind.is_some_and(|kind| types.iter().any(|known| kind.starts_with(known)))
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
    use crate::list_scan::ListScanner;
    use crate::sse::EventScanner;

    fn outcome_with(kind: StreamKind, has_choices: bool, stream: &str) -> StreamOutcome {
        let feed = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut scanner, mut end) =
                (EventScanner::default(), StreamEnd::new(kind, has_choices));
            for piece in pieces {
                scanner.feed_lines(piece, |text, is_last| end.read(text, is_last));
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
    fn the_usual_end_of_a_chunk_is_compared_and_anything_else_is_read() {
        use StreamKind::Chat;
        let usual = TEXT.repeat(20);
        let with_padding = |padding: &str| {
            let chunk = TEXT.trim_end().trim_end_matches('}');
            format!("{chunk},\"obfuscation\":\"{padding}\"}}\n\n")
        };
        let padded: String = ["a", "bc", "", "d"].map(with_padding).concat();
        let after = ": still here\n\n".repeat(1000);
        for stream in [
            format!("{usual}{STOP}{after}"),
            format!("{usual}{padded}{STOP}"),
            format!("{padded}{}{STOP}", padded.replace("null", "\"\"")),
        ] {
            assert_eq!(outcome(Chat, &stream), StreamOutcome::Complete, "{stream}");
        }
        // Text that looks like a chunk's end stands in a string, so its quotes are escaped.
        let quoting = TEXT.replace("\"a\"", r#""\"finish_reason\":null}]}""#);
        let stream = format!("{quoting}{usual}{quoting}");
        assert_eq!(outcome(Chat, &stream), StreamOutcome::Truncated);
        let error =
            format!("{usual}data: {{\"error\":{{\"code\":429}}}}\n\n{usual}data: [DONE]\n\n");
        assert_eq!(failed_with(Chat, &error), Some(429));
    }

    #[test]
    fn of_a_long_line_the_beginning_and_the_end_are_kept() {
        let picture = "x".repeat(5 * MAX_LINE);
        let gemini = format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"inlineData\":{{\"data\":\"{picture}\"}}}}]}},\"finishReason\":\"STOP\"}}]}}\n\n"
        );
        let completed = format!(
            "data: {{\"type\":\"response.completed\",\"response\":{{\"output\":\"{picture}\"}}}}\n\n"
        );
        for (kind, stream) in [
            (StreamKind::Gemini, gemini),
            (StreamKind::Responses, completed),
        ] {
            for size in [1000, MAX_LINE / 2, 2 * MAX_LINE, stream.len()] {
                let (mut scanner, mut end) = (EventScanner::default(), StreamEnd::new(kind, false));
                for piece in stream.as_bytes().chunks(size) {
                    scanner.feed_lines(piece, |text, is_last| end.read(text, is_last));
                    assert!(end.kept.len() <= MAX_LINE);
                }
                assert_eq!(end.outcome(), StreamOutcome::Complete, "{kind:?} {size}");
            }
        }
    }

    #[test]
    fn an_error_far_from_the_end_is_not_forgotten() {
        let failed =
            "data: {\"choices\":[{\"finish_reason\":\"error\"}],\"error\":{\"code\":502}}\n\n";
        let comments = ": still here, and busy with something else\n\n".repeat(100);
        let stream = format!("{failed}{comments}data: [DONE]\n\n");
        assert!(matches!(
            outcome(StreamKind::Chat, &stream),
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
        let call = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"args\":{\"finishReason\":\"x\"}}}]},\"finishReason\":null}]}\n\n";
        for stream in [text, call] {
            let found = outcome(StreamKind::Gemini, stream);
            assert_eq!(found, StreamOutcome::Truncated, "{stream}");
        }
    }

    #[test]
    fn the_elements_of_a_list_are_its_events() {
        let text = "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}";
        let finish = "{\n  \"candidates\": [{\"finishReason\": \"STOP\"}]\n}";
        let error = "{\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\"}}";
        let failed = StreamOutcome::Failed {
            status: 429,
            body: error.into(),
        };
        for (stream, expect) in [
            (format!("[{text}\n,\r\n{finish}]"), StreamOutcome::Complete),
            (format!("[{text}\n,{finish}"), StreamOutcome::Complete),
            (format!("[{text},{error}]"), failed),
            (format!("[{text}]"), StreamOutcome::Truncated),
            (
                format!("[{text},{}", &finish[..30]),
                StreamOutcome::Truncated,
            ),
            ("[]".to_owned(), StreamOutcome::Truncated),
        ] {
            for size in [1, 7, 1000] {
                let mut scanner = ListScanner::default();
                let mut end = StreamEnd::new(StreamKind::Gemini, false);
                for piece in stream.as_bytes().chunks(size) {
                    scanner.feed(piece, |text, is_last| end.read_element(text, is_last));
                }
                assert_eq!(end.outcome(), expect, "{size}: {stream}");
            }
        }
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
