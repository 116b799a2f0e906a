//! What an event of a stream means: the response has begun to open, it has output, or it is an error.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use crate::errors::{error_in_data, only_object, text_of};
use crate::read::json_scan::{fields, pick, unescaped};
use crate::read::sse::{event_data, event_name};

/// Events that OpenAI's Responses and Anthropic's Messages send before any output.
const OPENING: [&str; 6] = [
    "response.created",
    "response.queued",
    "response.in_progress",
    "message_start",
    "ping",
    "keepalive",
];

/// What an event means for the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// It says nothing: a block without data.
    Empty,
    /// It comes before any output, so the attempt may still fail unseen.
    Opening,
    /// Output, or anything that is not known to come before it.
    Output,
    /// The end of a stream of OpenAI's chat completions.
    Done,
    /// An error that implies this status.
    Error(u16),
}

/// The kind of an event, given as its raw bytes.
pub(super) fn kind_of(event: &[u8]) -> EventKind {
    let data = event_data(event);
    if is_plain_output(&data) {
        return EventKind::Output;
    }
    let name = event_name(event).unwrap_or_default();
    if let Some(status) = error_in_data(&data, name == b"error") {
        return EventKind::Error(status);
    }
    match data.trim_ascii() {
        b"" => EventKind::Empty,
        b"[DONE]" => EventKind::Done,
        data if is_opening(name, data) => EventKind::Opening,
        _ => EventKind::Output,
    }
}

/// Whether a few bytes show that it is output, as they do for most streams: then nothing is parsed.
fn is_plain_output(data: &[u8]) -> bool {
    static CONTENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"content\":\""));
    if let Some(kind) = data.strip_prefix(b"{\"type\":\"") {
        return kind.starts_with(b"content_block_") || kind.starts_with(b"response.output_");
    }
    let text = CONTENT.find(data).map(|at| at + CONTENT.needle().len());
    text.is_some_and(|text| !matches!(data.get(text), None | Some(b'"')))
}

fn is_opening(name: &[u8], data: &[u8]) -> bool {
    if OPENING.iter().any(|opening| opening.as_bytes() == name) {
        return true;
    }
    let text = text_of(data);
    let Some(object) = only_object(&text) else {
        return false;
    };
    let fields = [
        "type",
        "object",
        "choices",
        "candidates",
        "promptFeedback",
        "usageMetadata",
    ];
    let Some([kind, object_kind, choices, candidates, feedback, usage]) = pick(object, fields)
    else {
        return false;
    };
    let kind = word(kind);
    if !kind.is_empty() {
        return OPENING.contains(&&*kind);
    }
    let is_chunk = matches!(
        &*word(object_kind),
        "chat.completion.chunk" | "text_completion"
    );
    match choices {
        Some(choices) => choices == "null" || all_items(choices, is_bare_choice),
        None if is_chunk => true,
        // A chunk of Gemini's with nothing but its figures.
        None => match candidates {
            Some(candidates) => feedback.is_none() && all_items(candidates, is_empty_candidate),
            None => usage.is_some() && feedback.is_none(),
        },
    }
}

fn word(raw: Option<&str>) -> Cow<'_, str> {
    raw.and_then(unescaped).unwrap_or_default()
}

/// Whether `list` is a list whose items, as JSON, all pass.
fn all_items(list: &str, passes: impl Fn(&str) -> bool) -> bool {
    serde_json::from_str::<Vec<&RawValue>>(list)
        .is_ok_and(|items| items.iter().all(|item| passes(item.get())))
}

/// Whether a choice of a chunk has nothing but a role.
fn is_bare_choice(choice: &str) -> bool {
    let Some([delta, reason, text]) = pick(choice, ["delta", "finish_reason", "text"]) else {
        return false;
    };
    let mut says_nothing = true;
    if let Some(delta) = delta {
        let is_read = fields(delta, |name, value| {
            says_nothing &= name == "role" || is_blank(Some(&delta[value]));
        });
        says_nothing &= is_read.is_ok() || delta == "null";
    }
    says_nothing && is_blank(reason) && is_blank(text)
}

/// Whether a candidate of Gemini's has nothing but a role.
fn is_empty_candidate(candidate: &str) -> bool {
    let Some([content, reason]) = pick(candidate, ["content", "finishReason"]) else {
        return false;
    };
    let has_no_parts = |content| pick(content, ["parts"]).is_none_or(|[parts]| is_blank(parts));
    is_blank(reason) && content.is_none_or(has_no_parts)
}

/// Whether a value is missing, null or empty.
fn is_blank(value: Option<&str>) -> bool {
    let Some(value) = value else {
        return true;
    };
    let brackets = [("\"", "\""), ("[", "]"), ("{", "}")];
    let is_empty = |(open, close): (&str, &str)| {
        let inner = value
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        inner.is_some_and(|inner| {
            inner.is_empty() || (open != "\"" && inner.trim_ascii().is_empty())
        })
    };
    value == "null" || brackets.into_iter().any(is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_events_say_nothing_yet() {
        for event in [
            r#"data: {"type":"response.created","response":{"error":null,"output":[]}}"#,
            "event: response.in_progress\ndata: {\"sequence_number\":1,\"type\":\"response.in_progress\"}",
            r#"data: {"type":"response.queued"}"#,
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[]}}",
            "event: ping\ndata: {\"type\": \"ping\"}",
            "event: ping\ndata: {}",
            r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"delta":{"role":"assistant"}},{"delta":{},"finish_reason":null}]}"#,
            r#"data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
            r#"data: {"id":"c","object":"chat.completion.chunk"}"#,
            r#"data: {"object":"text_completion","choices":[{"text":"","finish_reason":null}]}"#,
            r#"data: {"usageMetadata":{"promptTokenCount":3},"modelVersion":"m"}"#,
            r#"data: {"candidates":[],"usageMetadata":{}}"#,
            r#"data: {"candidates":[{"content":{"role":"model"},"index":0}]}"#,
            r#"data: {"candidates":[{"content":{"role":"model","parts":[ ]}}]}"#,
            r#"data: {"choices":[{"delta":null},{"delta":{"tool_calls":[]}}]}"#,
            r#"data: {"id":"c","choices":null}"#,
            r#"data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":""}]}"#,
            r#"data: {"type":"keepalive"}"#,
        ] {
            let event = format!("{event}\n\n");
            assert_eq!(kind_of(event.as_bytes()), EventKind::Opening, "{event}");
        }
    }

    #[test]
    fn blocks_without_data_are_empty() {
        for event in [
            "id: 1",
            "retry: 100",
            "data:",
            "data: ",
            "event: ping",
            "event: x\nid: 2\ndata:",
        ] {
            assert_eq!(
                kind_of(format!("{event}\n\n").as_bytes()),
                EventKind::Empty,
                "{event}"
            );
        }
    }

    #[test]
    fn anything_else_is_output_or_an_error() {
        for event in [
            r#"data: {"choices":[{"delta":{"role":"assistant","content":"H"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"data: {"choices":[{"text":"a"}]}"#,
            r#"data: {"choices":[{"delta":{"content":" "}}]}"#,
            r#"data: {"choices":[{"delta":[]}]}"#,
            r#"data: {"choices":[{"delta":{"tool_calls":[{}]}}]}"#,
            r#"data: {"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{}}"#,
            r#"data: {"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{}}"#,
            r#"data: {"type":"response.output_item.added"}"#,
            r#"data: {"type":"content_block_start"}"#,
            r#"data: {"type":"image_generation.partial_image"}"#,
            "data: text",
            "data: {\"a\":",
            "data: {\"b\":1}",
        ] {
            assert_eq!(
                kind_of(format!("{event}\n\n").as_bytes()),
                EventKind::Output,
                "{event}"
            );
        }
        assert_eq!(kind_of(b"data: [DONE]\n\n"), EventKind::Done);
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
        assert_eq!(kind_of(error.as_bytes()), EventKind::Error(529));
    }
}
