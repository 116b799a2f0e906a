//! Asks a provider of OpenAI's protocol for the usage of a stream, and recognises the extra chunk that it then sends.
//!
//! Must never change a byte of the body beyond `stream_options`.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::read::json_scan;
use crate::read::peek::Peek;

const ASKING: &str = "{\"include_usage\":true}";

/// A replacement of bytes of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace; empty if `text` is only inserted.
    pub range: Range<usize>,
    /// What comes in their place.
    pub text: &'static str,
}

/// The edit of a body that makes `stream_options.include_usage` true; `None` if it is true already, if the call is no
/// stream, or if `stream_options` is neither an object nor null, since the provider refuses that.
///
/// `peek`: what was read of this body. The edit overlaps with no value that `peek` has the place of.
pub fn include_usage(body: &[u8], peek: &Peek) -> Option<Edit> {
    if !peek.stream {
        return None;
    }
    let Some(options) = &peek.stream_options else {
        let start = body.iter().position(|byte| *byte == b'{')? + 1;
        return Some(insertion(
            start,
            "\"stream_options\":{\"include_usage\":true},",
        ));
    };
    let raw = std::str::from_utf8(body.get(options.clone())?).ok()?;
    if raw == "null" {
        let range = options.clone();
        return Some(Edit {
            range,
            text: ASKING,
        });
    }
    if !raw.starts_with('{') {
        return None;
    }
    let (mut asked, mut is_empty) = (None, true);
    json_scan::fields(raw, |name, value| {
        is_empty = false;
        if name == "include_usage" {
            asked = Some(value);
        }
    })
    .ok()?;
    match asked {
        Some(value) if &raw[value.clone()] == "true" => None,
        Some(value) => Some(Edit {
            range: options.start + value.start..options.start + value.end,
            text: "true",
        }),
        None if is_empty => Some(Edit {
            range: options.clone(),
            text: ASKING,
        }),
        None => Some(insertion(options.start + 1, "\"include_usage\":true,")),
    }
}

/// `peek.stream` is a field, so the object is not empty and needs the comma.
fn insertion(at: usize, text: &'static str) -> Edit {
    Edit {
        range: at..at,
        text,
    }
}

/// Whether an event's data is the extra chunk that only tells the usage: it has no choices, and nothing else to say.
pub fn is_usage_chunk(data: &[u8]) -> bool {
    // Almost all chunks have a choice, and need not be parsed.
    choices_in(data).any(|list| list.starts_with(b"]")) && says_only_usage(data)
}

/// Whether data of which only the beginning has come can still become that chunk. Most chunks name a choice before its text.
pub fn may_become_usage_chunk(beginning: &[u8]) -> bool {
    let is_object = beginning.first().is_none_or(|byte| *byte == b'{');
    is_object && choices_in(beginning).all(|list| list.is_empty() || list.starts_with(b"]"))
}

/// What follows the bracket of each list with the name `choices`.
fn choices_in(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"choices\""));
    CHOICES.find_iter(data).filter_map(|at| {
        let after = data[at + CHOICES.needle().len()..].trim_ascii_start();
        let value = after.strip_prefix(b":").map(<[u8]>::trim_ascii_start)?;
        value.strip_prefix(b"[").map(<[u8]>::trim_ascii_start)
    })
}

fn says_only_usage(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data).unwrap_or_default();
    let (mut has_no_choices, mut has_usage, mut says_more) = (false, false, false);
    let read = json_scan::fields(text, |name, value| {
        let raw = &text[value];
        match name {
            "choices" => {
                let inner = raw.strip_prefix('[').map(str::trim_ascii_start);
                has_no_choices = inner == Some("]");
            }
            "usage" => has_usage = raw.starts_with('{'),
            // Groq repeats the usage here.
            "x_groq" => {}
            "error" => says_more |= raw != "null",
            // Ids, times and names are scalars.
            _ => says_more |= raw.starts_with(['{', '[']),
        }
    });
    read.is_ok() && has_no_choices && has_usage && !says_more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peek::peek;

    #[test]
    fn usage_is_asked_for_and_all_other_bytes_stay() {
        for (body, expect) in [
            (
                r#" {"stream":true,"model":"m"}"#,
                Some(r#" {"stream_options":{"include_usage":true},"stream":true,"model":"m"}"#),
            ),
            (
                r#"{"stream":true,"stream_options":null}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            ),
            (
                r#"{"stream":true,"stream_options": { } }"#,
                Some(r#"{"stream":true,"stream_options": {"include_usage":true} }"#),
            ),
            (
                r#"{"stream":true,"stream_options":{ "include_obfuscation":false}}"#,
                Some(
                    r#"{"stream":true,"stream_options":{"include_usage":true, "include_obfuscation":false}}"#,
                ),
            ),
            (
                r#"{"stream_options":{"include_usage": false ,"x":1},"stream":true}"#,
                Some(r#"{"stream_options":{"include_usage": true ,"x":1},"stream":true}"#),
            ),
            (
                r#"{"stream\u005foptions":{"include\u005fusage":null},"stream":true}"#,
                Some(r#"{"stream\u005foptions":{"include\u005fusage":true},"stream":true}"#),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
                None,
            ),
            (r#"{"stream":true,"stream_options":[]}"#, None),
            (r#"{"stream":true,"stream_options":"x"}"#, None),
            (r#"{"stream":false}"#, None),
            ("{}", None),
        ] {
            let edit = include_usage(body.as_bytes(), &peek(body.as_bytes()).unwrap());
            let edited = edit.map(|Edit { range, text }| {
                format!("{}{text}{}", &body[..range.start], &body[range.end..])
            });
            assert_eq!(edited.as_deref(), expect, "{body}");
            if let Some(edited) = edited {
                let again = peek(edited.as_bytes()).unwrap();
                assert_eq!(include_usage(edited.as_bytes(), &again), None, "{edited}");
            }
        }
    }

    #[test]
    fn a_chunk_with_a_choice_is_known_by_its_beginning() {
        let usage = r#"{"id":"c","choices" : [ ] ,"usage":{"prompt_tokens":1}}"#;
        for end in 0..=usage.len() {
            let beginning = &usage[..end];
            assert!(may_become_usage_chunk(beginning.as_bytes()), "{beginning}");
        }
        for beginning in [r#"{"id":"c","choices" : [ {"#, "[DONE", "error"] {
            assert!(!may_become_usage_chunk(beginning.as_bytes()), "{beginning}");
        }
    }

    #[test]
    fn only_the_extra_chunk_has_a_usage_and_nothing_else() {
        for data in [
            r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices" : [ ] ,"usage":{},"error":null,"obfuscation":"x","service_tier":null}"#,
            r#"{"choices":[],"usage":{},"x_groq":{"usage":{}}}"#,
        ] {
            assert!(is_usage_chunk(data.as_bytes()), "{data}");
        }
        for data in [
            "",
            "[DONE]",
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":null,"usage":{}}"#,
            r#"{"choices":[],"prompt_filter_results":[{}],"usage":{}}"#,
            r#"{"choices":[],"usage":{},"error":{"code":429}}"#,
            r#"{"choices":[],"usage":{},"error":"overloaded"}"#,
            r#"{"choices":[{"delta":{"content":"\"choices\":[]"}}],"usage":{}}"#,
            r#"{"choices":[{"x":{"choices":[]}}],"usage":{}}"#,
            r#"{"choices":[],"usage":{}"#,
        ] {
            assert!(!is_usage_chunk(data.as_bytes()), "{data}");
        }
    }
}
