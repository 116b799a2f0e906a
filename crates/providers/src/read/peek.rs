//! Reads a few top-level fields of a JSON body without building a tree, and replaces the model's name by byte range.
//!
//! Must never know a provider, and must never put a piece of the body into an error.

use std::ops::Range;

use bytes::Bytes;

use super::json_scan::{self, ParseError};

/// The top-level fields of a request's body that the gateway reads.
///
/// If a field is repeated, the last one counts, as in most parsers; of a number, the largest. A field of another type counts as missing. Texts are
/// unescaped, not empty, and not longer than [`LONGEST_TEXT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The model named, if any; `null` counts as none.
    pub model: Option<ModelAt>,
    /// `stream` is `true`.
    pub stream: bool,
    /// `store`.
    pub store: Option<bool>,
    /// `background` is `true`.
    pub background: bool,
    /// `n` is a number other than 1, so that there may be several choices.
    pub has_choices: bool,
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<String>,
    /// `safety_identifier`.
    pub safety_identifier: Option<String>,
    /// `user`.
    pub user: Option<String>,
    /// `user_id` in the object `metadata`.
    pub metadata_user_id: Option<String>,
    /// Byte range of the value of `messages`, whatever it is.
    pub messages: Option<Range<usize>>,
    /// Byte range of the value of `contents`.
    pub contents: Option<Range<usize>>,
    /// Byte range of the value of `input`.
    pub input: Option<Range<usize>>,
    /// Byte range of the value of `instructions`.
    pub instructions: Option<Range<usize>>,
    /// Byte range of the value of `system`.
    pub system: Option<Range<usize>>,
    /// Byte range of the value of `systemInstruction` or `system_instruction`.
    pub system_instruction: Option<Range<usize>>,
    /// Byte range of the value of each `api_key`.
    pub api_keys: Vec<Range<usize>>,
    /// Maximum number of output tokens that the caller sets, for one choice: the largest of `max_tokens`,
    /// `max_completion_tokens`, `max_output_tokens`, and of `maxOutputTokens` in `generationConfig`.
    pub max_output_tokens: Option<u64>,
    /// Number of choices that the caller asks for: the largest of `n`, `best_of`, and of `candidateCount` in
    /// `generationConfig`.
    pub choices: Option<u64>,
    /// Byte range of the value of `stream_options`.
    pub stream_options: Option<Range<usize>>,
}

/// Maximum length of a text that is read, in bytes as written in the body: ids are shorter, and each text is copied. The
/// model's name has no such limit, so that a name that is too long is not reported as missing.
pub const LONGEST_TEXT: usize = 1024;

/// A model's name and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelAt {
    /// The name, unescaped.
    pub name: String,
    /// Byte range of the JSON string, its quotes included.
    pub range: Range<usize>,
}

/// Why a body cannot be read. `Display` is part of a sentence and never quotes the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// Not UTF-8, so not JSON.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON; what is wrong, with line and column.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// There is more than one top-level `model`.
    #[error("the body has more than one `model`")]
    TwoModels,
    /// `model` is a number, a list or the like.
    #[error("`model` is not a string")]
    ModelNotAString,
}

/// Reads the fields of [`Peek`]. The whole body must be JSON; nothing else of it is kept.
pub fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| PeekError::NotUtf8)?;
    let mut peek = Peek::default();
    let (mut models, mut model) = (0, None);
    json_scan::fields(text, |name, value| {
        let raw = &text[value.clone()];
        // A `match` on bytes compiles to a decision tree, and most names in a body are none of these.
        match name.as_bytes() {
            b"model" => {
                models += 1;
                model = Some(value);
            }
            b"stream" => peek.stream = raw == "true",
            b"store" => peek.store = raw.parse().ok(),
            b"background" => peek.background = raw == "true",
            b"n" => {
                peek.has_choices = raw != "1" && raw != "null";
                raise(&mut peek.choices, whole_number(raw));
            }
            b"best_of" => raise(&mut peek.choices, whole_number(raw)),
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => {
                raise(&mut peek.max_output_tokens, whole_number(raw));
            }
            b"generationConfig" | b"generation_config" => peek.read_generation_config(raw),
            b"stream_options" => peek.stream_options = Some(value),
            b"prompt_cache_key" => peek.prompt_cache_key = short_text(raw),
            b"safety_identifier" => peek.safety_identifier = short_text(raw),
            b"user" => peek.user = short_text(raw),
            b"metadata" => peek.metadata_user_id = text_within(raw, "user_id"),
            b"messages" => peek.messages = Some(value),
            b"contents" => peek.contents = Some(value),
            b"input" => peek.input = Some(value),
            b"instructions" => peek.instructions = Some(value),
            b"system" => peek.system = Some(value),
            b"systemInstruction" | b"system_instruction" => peek.system_instruction = Some(value),
            b"api_key" => peek.api_keys.push(value),
            _ => {}
        }
    })
    .map_err(|refused| match refused {
        ParseError::NotAnObject => PeekError::NotAnObject,
        ParseError::NotJson(flaw) => PeekError::NotJson(flaw),
    })?;
    if models > 1 {
        return Err(PeekError::TwoModels);
    }
    peek.model = model.map_or(Ok(None), |range| model_at(text, range))?;
    Ok(peek)
}

impl Peek {
    fn read_generation_config(&mut self, raw: &str) {
        if !raw.starts_with('{') {
            return;
        }
        // The whole body was JSON.
        let _ = json_scan::fields(raw, |name, value| match name {
            "maxOutputTokens" | "max_output_tokens" => {
                raise(&mut self.max_output_tokens, whole_number(&raw[value]));
            }
            "candidateCount" | "candidate_count" => {
                raise(&mut self.choices, whole_number(&raw[value]));
            }
            _ => {}
        });
    }
}

/// The larger of both counts, since it is unknown which of them a provider follows.
fn raise(known: &mut Option<u64>, other: Option<u64>) {
    *known = (*known).max(other);
}

/// A number that is whole and not negative, also if it is written as `100.0` or `1e2`.
fn whole_number(raw: &str) -> Option<u64> {
    /// The first whole number that is not exact as a fraction.
    const INEXACT: f64 = 9_007_199_254_740_992.0;
    raw.parse().ok().or_else(|| {
        let number: f64 = raw.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..INEXACT).contains(&number);
        is_whole.then_some(number as u64)
    })
}

/// A text as a JSON string, with its quotes.
pub fn quoted(text: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(text).to_string())
}

/// The raw value of a top-level field of a JSON object; the last one if there are several.
pub fn value_of<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let [value] = json_scan::pick(text, [name])?;
    value
}

/// The text of the JSON string at `range`; `None` if it is none.
pub fn text_at(body: &[u8], range: &Range<usize>) -> Option<String> {
    let raw = std::str::from_utf8(body.get(range.clone())?).ok()?;
    let is_string = raw.starts_with('"');
    let text = is_string.then(|| json_scan::unescaped(raw)).flatten();
    text.map(Into::into)
}

/// The byte range of the whole field whose value is at `value`: its name, and the comma that it no longer needs. What
/// is left without it is JSON again. The body must be JSON, and the name must contain no quote.
pub fn field_around(body: &[u8], value: &Range<usize>) -> Range<usize> {
    let before = body[..value.start].trim_ascii_end();
    let name = before.strip_suffix(b":").unwrap_or(before).trim_ascii_end();
    let name = name.strip_suffix(b"\"").unwrap_or(name);
    let start = memchr::memrchr(b'"', name).unwrap_or(0);
    let after = body[value.end..].trim_ascii_start();
    if after.first() == Some(&b',') {
        return start..body.len() - after.len() + 1;
    }
    let before = body[..start].trim_ascii_end();
    let has_comma = before.last() == Some(&b',');
    let start = if has_comma { before.len() - 1 } else { start };
    start..value.end
}

/// The model that the value at `range` names; `None` for `null`.
fn model_at(text: &str, range: Range<usize>) -> Result<Option<ModelAt>, PeekError> {
    let raw = &text[range.clone()];
    if raw == "null" {
        return Ok(None);
    }
    if !raw.starts_with('"') {
        return Err(PeekError::ModelNotAString);
    }
    let name = json_scan::unescaped(raw).ok_or_else(|| {
        PeekError::NotJson("the string in `model` has half of a surrogate pair".to_owned())
    })?;
    Ok(Some(ModelAt {
        name: name.into_owned(),
        range,
    }))
}

/// The text `name` in the object `raw`.
fn text_within(raw: &str, name: &str) -> Option<String> {
    if !raw.starts_with('{') {
        return None;
    }
    let [inner] = json_scan::pick(raw, [name])?;
    short_text(inner?)
}

fn short_text(raw: &str) -> Option<String> {
    let text = (raw.len() <= LONGEST_TEXT + 2)
        .then(|| json_scan::unescaped(raw))
        .flatten();
    text.filter(|text| !text.is_empty()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(body: &str) -> Option<String> {
        peek(body.as_bytes()).unwrap().model.map(|model| model.name)
    }

    #[test]
    fn model_stream_and_store_are_read_at_any_position() {
        let body = br#" {"messages":[{"model":"inner","stream":false}], "model" : "gpt-4o","stream":true,"store":false} "#;
        let seen = peek(body).unwrap();
        let model = seen.model.unwrap();
        assert_eq!(&body[model.range.clone()], br#""gpt-4o""#);
        assert_eq!(
            (model.name.as_str(), seen.stream, seen.store),
            ("gpt-4o", true, Some(false))
        );
        assert_eq!(peek(b"{}").unwrap(), Peek::default());
    }

    #[test]
    fn escapes_in_key_and_name_are_read() {
        assert_eq!(
            name_of(r#"{"mod\u0065l":"gpt\u002d4o \ud83d\ude00"}"#).as_deref(),
            Some("gpt-4o 😀")
        );
        assert_eq!(
            name_of(r#"{"\u006dode\u006C":"a\"b"}"#).as_deref(),
            Some("a\"b")
        );
        assert_eq!(name_of(r#"{"mod\\u0065l":"x"}"#), None);
        assert_eq!(name_of(r#"{"Model":"x"}"#), None);
    }

    #[test]
    fn odd_types_of_stream_and_store_are_ignored() {
        for odd in ["1", "\"true\"", "null", "[true]", "{}"] {
            let seen = peek(format!(r#"{{"stream":{odd},"store":{odd}}}"#).as_bytes()).unwrap();
            assert_eq!((seen.stream, seen.store), (false, None), "{odd}");
        }
        let seen = peek(br#"{"stream":true,"store":false,"stream":false,"store":true}"#).unwrap();
        assert_eq!((seen.stream, seen.store), (false, Some(true)));
    }

    fn seen(body: &str) -> Peek {
        peek(body.as_bytes()).unwrap()
    }

    #[test]
    fn each_text_is_read_from_its_own_field() {
        type Text = fn(&Peek) -> &Option<String>;
        let texts: [(&str, Text); 4] = [
            ("prompt_cache_key", |seen| &seen.prompt_cache_key),
            ("safety_identifier", |seen| &seen.safety_identifier),
            ("user", |seen| &seen.user),
            ("\\u0075ser", |seen| &seen.user),
        ];
        for (name, text) in texts {
            let longest = "x".repeat(LONGEST_TEXT);
            for (value, expect) in [
                (r#""id""#, Some("id")),
                (r#""a\u00e9\n""#, Some("aé\n")),
                (&format!("\"{longest}\""), Some(&*longest)),
                (&format!("\"{longest}x\""), None),
                (r#""\ud800""#, None),
                (r#""""#, None),
                ("null", None),
                ("7", None),
                (r#"["id"]"#, None),
                (r#""a","{name}":"b""#, Some("b")),
                (r#""a","{name}":null"#, None),
            ] {
                let value = value.replace("{name}", name);
                let seen = seen(&format!(r#"{{"{name}":{value}}}"#));
                assert_eq!(text(&seen).as_deref(), expect, "{name}: {value}");
                assert!(expect.is_some() || seen == Peek::default(), "{name}");
            }
        }
    }

    #[test]
    fn the_user_in_metadata_is_one_object_deeper() {
        for (value, user_id) in [
            (r#"{"id":"x","user_id":"u"}"#, Some("u")),
            (r#"{"user_id":["u"]}"#, None),
            (r#"{"a":{"user_id":"x"}}"#, None),
            (r#"[{"user_id":"x"}]"#, None),
            ("{}", None),
        ] {
            let seen = seen(&format!(r#"{{"metadata":{value}}}"#));
            assert_eq!(seen.metadata_user_id.as_deref(), user_id, "{value}");
        }
        assert_eq!(seen(r#"{"user_id":"x","metadata":"x"}"#), Peek::default());
    }

    #[test]
    fn the_parts_of_a_prompt_are_found_by_byte_range() {
        type Place = fn(&Peek) -> &Option<Range<usize>>;
        let places: [(&str, Place); 7] = [
            ("messages", |seen| &seen.messages),
            ("contents", |seen| &seen.contents),
            ("input", |seen| &seen.input),
            ("instructions", |seen| &seen.instructions),
            ("system", |seen| &seen.system),
            ("systemInstruction", |seen| &seen.system_instruction),
            ("system_instruction", |seen| &seen.system_instruction),
        ];
        for (name, place) in places {
            for value in [r#"[{"content":"}"}]"#, "\"a\"", "{\n}", "null", "-1.5e3"] {
                let body = format!("{{\"{name}\":0, \"{name}\" : {value} ,\"x\":1}}");
                let range = place(&seen(&body)).clone().unwrap();
                assert_eq!(&body[range], value, "{name}");
            }
        }
    }

    #[test]
    fn the_largest_number_of_output_tokens_counts() {
        for (body, expect) in [
            (r#"{"max_tokens":100}"#, Some(100)),
            (
                r#"{"max_tokens":100,"max_completion_tokens":200}"#,
                Some(200),
            ),
            (r#"{"max_output_tokens":7,"max_tokens":null}"#, Some(7)),
            (r#"{"max_tokens":5,"max_tokens":4}"#, Some(5)),
            (
                r#"{"generationConfig":{"maxOutputTokens":9,"candidateCount":3}}"#,
                Some(9),
            ),
            (r#"{"generation_config":{"max_output_tokens":9}}"#, Some(9)),
            (r#"{"generationConfig":[{"maxOutputTokens":9}]}"#, None),
            (r#"{"max_tokens":1e2}"#, Some(100)),
            (r#"{"max_tokens":64.0}"#, Some(64)),
            (r#"{"max_tokens":64.5}"#, None),
            (r#"{"max_tokens":-1}"#, None),
            (r#"{"max_tokens":"64"}"#, None),
            (r#"{"max_tokens":1e400}"#, None),
            (
                r#"{"max_tokens":18446744073709551615}"#,
                Some(18_446_744_073_709_551_615),
            ),
            (r#"{"messages":[{"max_tokens":3}]}"#, None),
        ] {
            assert_eq!(seen(body).max_output_tokens, expect, "{body}");
        }
        for (body, choices, has_choices) in [
            (r#"{"n":3,"best_of":5}"#, Some(5), true),
            (r#"{"n":1}"#, Some(1), false),
            (
                r#"{"generationConfig":{"candidateCount":4}}"#,
                Some(4),
                false,
            ),
            (r#"{"n":null}"#, None, false),
        ] {
            let seen = seen(body);
            assert_eq!(
                (seen.choices, seen.has_choices),
                (choices, has_choices),
                "{body}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong_and_quotes_nothing() {
        let not_json = [
            "",
            "  ",
            "nope",
            "{",
            r#"{"a":1"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{}"#,
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"model":"\ud800"}"#,
            "[1,",
            "{\"a\":\"\n\"}",
            r#"{"model":"x"}]"#,
            "\u{feff}{}",
        ];
        for body in not_json {
            assert!(
                matches!(peek(body.as_bytes()), Err(PeekError::NotJson(_))),
                "{body}"
            );
        }
        for body in ["[]", "1", "null", r#""model""#, r#" [{"model":"x"}]"#] {
            assert_eq!(peek(body.as_bytes()), Err(PeekError::NotAnObject), "{body}");
        }
        for body in [
            r#"{"model":1}"#,
            r#"{"model":true}"#,
            r#"{"model":["x"]}"#,
            r#"{"model":{"model":"x"}}"#,
        ] {
            assert_eq!(
                peek(body.as_bytes()),
                Err(PeekError::ModelNotAString),
                "{body}"
            );
        }
        for body in [
            r#"{"model":"a","model":"a"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"model":null,"model":1,"model":"c"}"#,
        ] {
            assert_eq!(peek(body.as_bytes()), Err(PeekError::TwoModels), "{body}");
        }
        assert_eq!(peek(b"{\"a\":\"\xff\"}"), Err(PeekError::NotUtf8));
        assert_eq!(peek(br#"{"model":null}"#).unwrap().model, None);
        let message = peek(br#"{"key": sk-private}"#).unwrap_err().to_string();
        assert!(
            message.starts_with("the body is not JSON: ") && message.ends_with("line 1 column 9"),
            "{message}"
        );
        assert!(!message.contains("private"), "{message}");
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let nested = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        for value in [&deep, &nested] {
            assert_eq!(
                name_of(&format!(r#"{{"x":{value},"model":"m"}}"#)).as_deref(),
                Some("m")
            );
            assert_eq!(
                peek(format!(r#"{{"model":{value}}}"#).as_bytes()),
                Err(PeekError::ModelNotAString)
            );
            assert!(
                !peek(format!(r#"{{"stream":{value}}}"#).as_bytes())
                    .unwrap()
                    .stream
            );
        }
        assert_eq!(peek(deep.as_bytes()), Err(PeekError::NotAnObject));
        assert!(matches!(
            peek("[".repeat(100_000).as_bytes()),
            Err(PeekError::NotJson(_))
        ));
        assert!(matches!(
            peek("{\"a\":".repeat(100_000).as_bytes()),
            Err(PeekError::NotJson(_))
        ));
    }

    #[test]
    fn a_field_leaves_nothing_behind() {
        for (body, expect) in [
            (r#"{"api_key":"k","query":"q"}"#, r#"{"query":"q"}"#),
            (r#"{"query":"q","api_key":"k"}"#, r#"{"query":"q"}"#),
            (
                r#"{ "a" : 1 , "api_key" : "k" , "b":2}"#,
                r#"{ "a" : 1 ,  "b":2}"#,
            ),
            (r#"{ "a" : 1 , "api_key" : "k\"," }"#, r#"{ "a" : 1  }"#),
            (r#"{"api_key":null}"#, "{}"),
            (r#" { "api\u005fkey" : {"a":","} } "#, r#" {  } "#),
        ] {
            let fields = peek(body.as_bytes()).unwrap().api_keys;
            let field = field_around(body.as_bytes(), &fields[0]);
            let left = format!("{}{}", &body[..field.start], &body[field.end..]);
            assert_eq!(left, expect, "{body}");
            assert!(peek(left.as_bytes()).unwrap().api_keys.is_empty());
        }
        let twice = peek(br#"{"api_key":"a","x":{"api_key":"inner"},"api_key":7}"#).unwrap();
        let body = br#"{"api_key":"a","x":{"api_key":"inner"},"api_key":7}"#;
        let texts: Vec<_> = twice
            .api_keys
            .iter()
            .map(|key| text_at(body, key))
            .collect();
        assert_eq!(texts, [Some("a".to_owned()), None]);
    }
}
