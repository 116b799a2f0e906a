//! Finds the fields of a JSON object without building a tree: serde_json passes over the values, and nothing is copied.
//!
//! Accepts what RFC 8259 accepts, however deeply nested. Must never know a field's meaning, and must never put a piece of
//! the text into an error.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a text could not be read as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// It is JSON, but not an object.
    NotAnObject,
    /// It is not JSON: what is wrong, with line and column.
    NotJson(String),
}

/// Calls `visit` with the name of each field and the byte range of its value, in order. A name that cannot be unescaped
/// is skipped. Fields are visited even if the text turns out later not to be JSON.
pub(crate) fn fields(text: &str, visit: impl FnMut(&str, Range<usize>)) -> Result<(), ParseError> {
    if !text.trim_ascii_start().starts_with('{') {
        let whole = serde_json::from_str::<IgnoredAny>(text).map_err(ParseError::not_json);
        return whole.and(Err(ParseError::NotAnObject));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Fields { text, visit })
        .and_then(|()| json.end())
        .map_err(ParseError::not_json)
}

impl ParseError {
    /// The messages of serde_json's syntax errors quote nothing of the text.
    fn not_json(error: serde_json::Error) -> Self {
        Self::NotJson(error.to_string())
    }
}

struct Fields<'t, F> {
    text: &'t str,
    visit: F,
}

impl<'t, F: FnMut(&str, Range<usize>)> Visitor<'t> for Fields<'t, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let Some(name) = unescaped(name.get()) {
                let value = value.get();
                let start = value.as_ptr().addr() - self.text.as_ptr().addr();
                (self.visit)(&name, start..start + value.len());
            }
        }
        Ok(())
    }
}

/// The last value of each named field of a JSON object, as written in the text; `None` if the text is not an object.
pub(crate) fn pick<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Option<[Option<&'a str>; N]> {
    let mut values = [None; N];
    let read = fields(text, |name, value| {
        if let Some(field) = names.iter().position(|known| *known == name) {
            values[field] = Some(&text[value]);
        }
    });
    read.is_ok().then_some(values)
}

/// The content of a JSON string; `None` for any other value, and for a string with half of a surrogate pair.
pub(crate) fn unescaped(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    match memchr::memchr(b'\\', inner.as_bytes()) {
        None => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(value).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_where_and_quotes_nothing() {
        for (text, expect) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            (
                "{\"a\":1,\n \"b\"",
                "EOF while parsing an object at line 2 column 4",
            ),
            ("{\"a\":secret}", "expected value at line 1 column 6"),
            ("{'secret':1}", "key must be a string at line 1 column 2"),
            ("{\"secret\":1,}", "trailing comma at line 1 column 13"),
            ("{\"secret\" 1}", "expected `:` at line 1 column 11"),
            ("{\"a\":\"\\x\"}", "invalid escape at line 1 column 8"),
            ("{}\r\nsecret", "trailing characters at line 2 column 1"),
            ("\"secret\"]", "trailing characters at line 1 column 9"),
        ] {
            let error = ParseError::NotJson(expect.to_owned());
            assert_eq!(fields(text, |_, _| ()), Err(error), "{text}");
        }
        for text in ["\"secret\"", "[1]", "1", "null"] {
            assert_eq!(
                fields(text, |_, _| ()),
                Err(ParseError::NotAnObject),
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_value_of_each_name_is_picked_as_written() {
        let text = r#" { "a" : [ 1 ] , "\u0062":{"a":2}, "c":null,"a": "x\n" , "\ud800":1} "#;
        assert_eq!(
            pick(text, ["a", "b", "c", "d"]),
            Some([Some(r#""x\n""#), Some(r#"{"a":2}"#), Some("null"), None])
        );
        assert_eq!(pick("{}", ["a"]), Some([None]));
        for not_an_object in ["[{\"a\":1}]", "\"a\"", "1", ""] {
            assert_eq!(pick(not_an_object, ["a"]), None);
        }
    }

    #[test]
    fn only_strings_are_unescaped() {
        assert!(matches!(unescaped(r#""a b""#), Some(Cow::Borrowed("a b"))));
        assert_eq!(
            unescaped(r#""\u00e9\ud83d\ude00\"""#).as_deref(),
            Some("é😀\"")
        );
        for other in [
            r#""\ud83d""#,
            r#""\ude00\ud83d""#,
            "1",
            "null",
            "[\"a\"]",
            "\"",
        ] {
            assert_eq!(unescaped(other), None, "{other}");
        }
    }
}
