//! Looks at a few top-level fields of a JSON body, without a tree, and swaps the model's name by byte range.
//!
//! Must never know a provider, and must never put a piece of the body into an error.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a request's body says at its top level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The model named, if any; `null` counts as none.
    pub model: Option<ModelAt>,
    /// `stream` is `true`.
    pub stream: bool,
    /// `store`, where it is a boolean.
    pub store: Option<bool>,
}

/// A model's name and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelAt {
    /// The name, unescaped.
    pub name: String,
    /// Byte range of the JSON string, its quotes included.
    pub range: Range<usize>,
}

/// Why a body cannot be read. `Display` is part of a sentence and quotes nothing of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// Not UTF-8, so not JSON.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON; the parser's message with line and column.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// `model` stands more than once at the top level.
    #[error("the body has more than one `model`")]
    TwoModels,
    /// `model` is a number, a list or the like.
    #[error("`model` is not a string")]
    ModelNotAString,
}

/// Reads `model`, `stream` and `store`; of a repeated `stream` or `store` the last counts, as with most parsers.
pub fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    let text = std::str::from_utf8(body).map_err(|_| PeekError::NotUtf8)?;
    let picked =
        pick(text, ["model", "stream", "store"]).map_err(|error| not_an_object(text, &error))?;
    if picked.repeated[0] {
        return Err(PeekError::TwoModels);
    }
    let [model, stream, store] = picked.values;
    let model = model
        .filter(|raw| raw.get() != "null")
        .map(|raw| model_at(text, raw))
        .transpose()?;
    Ok(Peek {
        model,
        stream: boolean(stream) == Some(true),
        store: boolean(store),
    })
}

/// The body with the string at `range` replaced by `model`, in three pieces; head and tail are not copied.
pub fn splice(body: &Bytes, range: &Range<usize>, model: &str) -> [Bytes; 3] {
    let name = serde_json::Value::from(model).to_string();
    [
        body.slice(..range.start),
        Bytes::from(name),
        body.slice(range.end..),
    ]
}

/// The last value of each field that was asked for, as it stands in the text.
pub(crate) struct Picked<'a, const N: usize> {
    pub(crate) values: [Option<&'a RawValue>; N],
    repeated: [bool; N],
}

/// Picks the named fields of a JSON object; every other value is skipped, however deep, without recursion.
pub(crate) fn pick<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> serde_json::Result<Picked<'a, N>> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let picked = Fields(names).deserialize(&mut parser)?;
    parser.end()?;
    Ok(picked)
}

/// Tells a body that is no JSON from one that is JSON, but no object.
fn not_an_object(text: &str, error: &serde_json::Error) -> PeekError {
    if text.trim_start().starts_with('{') {
        return PeekError::NotJson(error.to_string());
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => PeekError::NotAnObject,
        Err(error) => PeekError::NotJson(error.to_string()),
    }
}

fn model_at(text: &str, raw: &RawValue) -> Result<ModelAt, PeekError> {
    if !raw.get().starts_with('"') {
        return Err(PeekError::ModelNotAString);
    }
    // Skipping a value checks its syntax, but not that its surrogates come in pairs.
    let name = serde_json::from_str(raw.get())
        .map_err(|_| PeekError::NotJson("the string in `model` has a broken escape".to_owned()))?;
    // `raw` borrows from `text`, so the distance of the two addresses is its place.
    let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
    Ok(ModelAt {
        name,
        range: start..start + raw.get().len(),
    })
}

fn boolean(raw: Option<&RawValue>) -> Option<bool> {
    match raw?.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

struct Fields<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<'_, N> {
    type Value = Picked<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = Picked<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = Picked {
            values: [None; N],
            repeated: [false; N],
        };
        while let Some(field) = map.next_key_seed(Name(&self.0))? {
            match field {
                Some(field) => {
                    picked.repeated[field] = picked.values[field].is_some();
                    picked.values[field] = Some(map.next_value()?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(picked)
    }
}

/// Reads a key, unescaped, as its place among the names; `None` for any other key.
struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn name_of(body: &str) -> Option<String> {
        peek(body.as_bytes()).unwrap().model.map(|model| model.name)
    }

    #[test]
    fn reads_the_three_fields_wherever_they_stand() {
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
    fn splice_shares_head_and_tail() {
        let body = Bytes::from_static(br#"{"a":1.50, "model":"old" ,"b":"\u0041"}"#);
        let range = peek(&body).unwrap().model.unwrap().range;
        let [head, model, tail] = splice(&body, &range, "ne\"w\n");
        assert_eq!(head, br#"{"a":1.50, "model":"#.as_slice());
        assert_eq!(model, br#""ne\"w\n""#.as_slice());
        assert_eq!(tail, br#" ,"b":"\u0041"}"#.as_slice());
        assert_eq!(head.as_ptr(), body.as_ptr());
        assert_eq!(tail.as_ptr(), body[range.end..].as_ptr());
    }

    fn json_value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("true".to_owned()),
            Just("false".to_owned()),
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            Just("-0.5e-3".to_owned()),
            ".{0,8}".prop_map(|s| Value::from(s).to_string()),
            Just(r#""\u00e9\ud83d\ude00\/\"}]""#.to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let object = prop::collection::vec((json_key(), inner.clone()), 0..4)
                .prop_map(|fields| object_text(&fields, " "));
            let list = prop::collection::vec(inner, 0..4)
                .prop_map(|items| format!("[{}]", items.join(" ,")));
            prop_oneof![object, list]
        })
    }

    fn json_key() -> impl Strategy<Value = String> {
        let known = [
            "model",
            "mod\\u0065l",
            "\\u006Dodel",
            "stream",
            "str\\u0065am",
            "store",
            "Model",
            "",
            "a\\\"model",
        ];
        prop_oneof![
            prop::sample::select(known.to_vec()).prop_map(str::to_owned),
            "[a-e]{1,3}"
        ]
    }

    fn object_text(fields: &[(String, String)], space: &str) -> String {
        let fields: Vec<String> = fields
            .iter()
            .map(|(key, value)| format!("{space}\"{key}\"{space}:{space}{value}{space}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    }

    fn unescaped(key: &str) -> String {
        serde_json::from_str(&format!("\"{key}\"")).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_a_full_parse(
            fields in prop::collection::vec((json_key(), json_value()), 0..6),
            space in prop::sample::select(vec!["", " ", "\r\n\t "]),
            new in ".{0,6}",
        ) {
            let text = object_text(&fields, space);
            let mut tree: Value = serde_json::from_str(&text).unwrap();
            let models = fields.iter().filter(|(key, _)| unescaped(key) == "model").count();
            match (models, peek(text.as_bytes())) {
                (2.., seen) => prop_assert_eq!(seen, Err(PeekError::TwoModels)),
                (_, Err(error)) => {
                    prop_assert_eq!(error, PeekError::ModelNotAString);
                    prop_assert!(!tree["model"].is_string() && !tree["model"].is_null());
                }
                (_, Ok(seen)) => {
                    prop_assert_eq!(seen.model.as_ref().map(|model| model.name.as_str()), tree["model"].as_str());
                    prop_assert_eq!(seen.stream, tree["stream"].as_bool().unwrap_or(false));
                    prop_assert_eq!(seen.store, tree["store"].as_bool());
                    if let Some(model) = seen.model {
                        let spliced = splice(&Bytes::from(text), &model.range, &new).concat();
                        tree["model"] = Value::from(new);
                        prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), tree);
                    }
                }
            }
        }

        #[test]
        fn refuses_what_a_full_parse_refuses(
            fields in prop::collection::vec((json_key(), json_value()), 0..4),
            at in any::<prop::sample::Index>(),
            byte in prop::sample::select(b"{}[]\",:\\ 1tnu\x00\xff".to_vec()),
        ) {
            let mut text = object_text(&fields, "").into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            let broken = matches!(peek(&text), Err(PeekError::NotJson(_) | PeekError::NotUtf8));
            if serde_json::from_slice::<Value>(&text).is_ok() {
                prop_assert!(!broken);
            }
            if std::str::from_utf8(&text).is_err() || serde_json::from_slice::<IgnoredAny>(&text).is_err() {
                prop_assert!(broken);
            }
        }
    }
}
