//! Peek compared with a plain reading by serde_json: both refuse the same bodies and read the same fields.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use keypool_providers::peek::{LONGEST_TEXT, ModelAt, Peek, PeekError, peek, quoted};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::fuzz;
use crate::source::{Source, WORDS};

#[test]
fn peek_reads_what_serde_json_reads() {
    fuzz!(|source: &mut Source<'_>| {
        let body = source.body();
        let (seen, expect) = (peek(&body), expected(&body));
        let seen = seen.map_err(|error| {
            let message = error.to_string();
            assert!(message.is_ascii() && message.len() < 130, "{message}");
            match error {
                PeekError::NotJson(_) => PeekError::NotJson(String::new()),
                error => error,
            }
        });
        assert_eq!(seen, expect, "{}", body.escape_ascii());
    });
}

#[test]
fn a_replaced_model_changes_nothing_else() {
    fuzz!(|source: &mut Source<'_>| {
        let new = if source.flip() {
            (*source.one_of(WORDS)).to_owned()
        } else {
            let length = source.below(12);
            String::from_utf8_lossy(source.take(length)).into_owned()
        };
        let body = source.body();
        let Ok(Peek {
            model: Some(ModelAt { name, range }),
            ..
        }) = peek(&body)
        else {
            return;
        };
        let (head, tail) = (&body[..range.start], &body[range.end..]);
        let spliced = [head, &quoted(&new), tail].concat();
        // Some JSON does not fit into a tree: huge numbers, deep nesting, half of a surrogate pair.
        if let Ok(mut tree) = serde_json::from_slice::<Value>(&body) {
            assert_eq!(tree["model"], name);
            tree["model"] = Value::from(new);
            assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), tree);
        } else {
            let seen = peek(&spliced).unwrap().model.unwrap();
            assert_eq!((seen.name, seen.range.start), (new, range.start));
        }
    });
}

/// The fields of a body as serde_json reads them, without error messages.
fn expected(body: &[u8]) -> Result<Peek, PeekError> {
    let text = std::str::from_utf8(body).map_err(|_| PeekError::NotUtf8)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| PeekError::NotJson(String::new()))?;
    let Ok(Fields(all)) = serde_json::from_str::<Fields<'_>>(text) else {
        return Err(PeekError::NotAnObject);
    };
    let named = |raw: &&RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let fields: Vec<(String, &RawValue)> = all
        .iter()
        .filter_map(|(name, value)| Some((named(name)?, *value)))
        .collect();
    if fields.iter().filter(|(name, _)| name == "model").count() > 1 {
        return Err(PeekError::TwoModels);
    }
    // Two names of one field count as one, so that the last of both counts.
    let one_name = |name: &str| match name {
        "system_instruction" => "systemInstruction".to_owned(),
        name => name.to_owned(),
    };
    let last: HashMap<String, &RawValue> = fields
        .iter()
        .map(|(name, value)| (one_name(name), *value))
        .collect();
    let raw = |name: &str| last.get(name).map(|raw| raw.get());
    let place = |name: &str| raw(name).map(|raw| place(text, raw));
    let short = |name: &str| raw(name).and_then(short);
    let model = match raw("model") {
        None | Some("null") => None,
        Some(raw) if !raw.starts_with('"') => return Err(PeekError::ModelNotAString),
        Some(raw) => Some(ModelAt {
            name: serde_json::from_str(raw).map_err(|_| PeekError::NotJson(String::new()))?,
            range: place("model").unwrap(),
        }),
    };
    let boolean = |name: &str| raw(name).and_then(|raw| serde_json::from_str::<bool>(raw).ok());
    let inner = |name: &str, field: &str| {
        let Fields(inner) = serde_json::from_str(raw(name)?).ok()?;
        let is_field = |(name, _): &&(&RawValue, _)| named(name).as_deref() == Some(field);
        short_raw(inner.iter().rfind(is_field)?.1)
    };
    let keys = fields.iter().filter(|(name, _)| name == "api_key");
    let api_keys = keys.map(|(_, value)| self::place(text, value.get()));
    Ok(Peek {
        api_keys: api_keys.collect(),
        model,
        stream: boolean("stream") == Some(true),
        store: boolean("store"),
        background: boolean("background") == Some(true),
        has_choices: raw("n").is_some_and(|n| !matches!(n, "1" | "null")),
        prompt_cache_key: short("prompt_cache_key"),
        safety_identifier: short("safety_identifier"),
        user: short("user"),
        metadata_user_id: inner("metadata", "user_id"),
        messages: place("messages"),
        contents: place("contents"),
        input: place("input"),
        instructions: place("instructions"),
        system: place("system"),
        system_instruction: place("systemInstruction"),
        max_output_tokens: largest(&fields, MAX_TOKENS, "max_output_tokens"),
        choices: largest(&fields, CHOICES, "candidate_count"),
        stream_options: place("stream_options"),
    })
}

const MAX_TOKENS: &[&str] = &["max_tokens", "max_completion_tokens", "max_output_tokens"];
const CHOICES: &[&str] = &["n", "best_of"];

/// The largest whole number in the fields of these names, and in those of Gemini's configuration.
fn largest(fields: &[(String, &RawValue)], names: &[&str], in_config: &str) -> Option<u64> {
    let top = fields.iter().filter(|(name, _)| names.contains(&&**name));
    let configs = fields
        .iter()
        .filter(|(name, _)| one_config(name) == "generation_config")
        .filter_map(|(_, value)| serde_json::from_str(value.get()).ok());
    let inner = configs
        .flat_map(|Fields(inner)| inner)
        .filter(|(name, _)| {
            let name: Option<String> = serde_json::from_str(name.get()).ok();
            name.is_some_and(|name| one_config(&name) == in_config)
        })
        .map(|(_, value)| value);
    let all = top.map(|(_, value)| *value).chain(inner);
    all.filter_map(|value| whole_number(value.get())).max()
}

/// The one spelling of the names in and of Gemini's configuration.
fn one_config(name: &str) -> &str {
    match name {
        "generationConfig" => "generation_config",
        "maxOutputTokens" => "max_output_tokens",
        "candidateCount" => "candidate_count",
        name => name,
    }
}

fn whole_number(raw: &str) -> Option<u64> {
    let number: serde_json::Number = serde_json::from_str(raw).ok()?;
    number.as_u64().or_else(|| {
        let number = number.as_f64()?;
        let is_whole = number >= 0.0 && number % 1.0 == 0.0 && number < 9_007_199_254_740_992.0;
        is_whole.then_some(number as u64)
    })
}

fn short_raw(raw: &RawValue) -> Option<String> {
    short(raw.get())
}

fn short(raw: &str) -> Option<String> {
    let text: String = serde_json::from_str(raw).ok()?;
    (!text.is_empty() && raw.len() <= LONGEST_TEXT + 2).then_some(text)
}

/// The byte range of `raw` in `text`, which it borrows from.
fn place(text: &str, raw: &str) -> Range<usize> {
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.len()
}

/// Every field of an object in order, as written.
struct Fields<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
