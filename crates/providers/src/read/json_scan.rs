//! Finds the fields of a JSON object without building a tree: serde_json skips the values, and nothing is copied.
//!
//! Accepts what RFC 8259 accepts, however deeply nested. Must never know a field's meaning, and must never put a piece of
//! the text into an error.
//!
//! Pictures in base64 are most of what a vision model gets, and serde_json examines 5 GB/s of them, memchr twice as much.
//! So of a large text serde_json gets a copy without the content of long strings. With it, 1 MiB of picture costs about
//! 0.1 ms, as it did with a scanner of our own of 400 lines; without it, 0.2 ms. Long chats are faster with serde_json.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json_text::{StringEnd, string_end};

/// Why a text could not be read as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// It is JSON, but not an object.
    NotAnObject,
    /// It is not JSON: what is wrong, with line and column.
    NotJson(String),
}

/// Texts of this size in bytes or more may contain pictures.
const LARGE_TEXT: usize = 256 << 10;
/// String content of this length in bytes or more is left out of the copy of a large text.
const LONG_STRING: usize = 4 << 10;
/// After this number of strings, the copy must be worth it: less than half of what it was made from.
const TRIAL_STRINGS: usize = 512;

/// Calls `visit` with the name of each field and the byte range of its value, in order. A name that cannot be unescaped
/// is skipped. Fields are visited even if the text turns out later not to be JSON.
pub(crate) fn fields(
    text: &str,
    mut visit: impl FnMut(&str, Range<usize>),
) -> Result<(), ParseError> {
    let shortened = (text.len() >= LARGE_TEXT)
        .then(|| Shortened::of(text, LONG_STRING))
        .flatten();
    let Some(shortened) = shortened else {
        return parse(text, visit);
    };
    let parsed = parse(&shortened.text, |name, value| {
        visit(
            name,
            shortened.original(value.start)..shortened.original(value.end),
        );
    });
    // The same mistake is found in the text itself, with its true position.
    parsed.or_else(|_| parse(text, |_, _| ()))
}

fn parse(text: &str, visit: impl FnMut(&str, Range<usize>)) -> Result<(), ParseError> {
    if !text.trim_ascii_start().starts_with('{') {
        let whole = serde_json::from_str::<IgnoredAny>(text).map_err(ParseError::not_json);
        return whole.and(Err(ParseError::NotAnObject));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Fields { text, visit })
        .and_then(|()| json.end())
        .map_err(ParseError::not_json)
}

/// A copy of a text without the content of long strings. It is JSON exactly if the text is: strings with escapes or
/// control characters are kept, and up to its first mistake a text has the same strings for every reader.
struct Shortened {
    text: String,
    /// For each cut, its position in the copy, and how many bytes were left out up to there.
    cuts: Vec<(usize, usize)>,
}

impl Shortened {
    /// `None` if it would not be much shorter.
    fn of(text: &str, long: usize) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut out = Self {
            text: String::new(),
            cuts: Vec::new(),
        };
        let (mut copied, mut at, mut strings) = (0, 0, 0);
        while let Some(quote) = memchr::memchr(b'"', &bytes[at..]) {
            let start = at + quote + 1;
            let StringEnd {
                at: end,
                has_escape,
            } = string_end(bytes, start);
            let is_plain = end < bytes.len() && !has_escape;
            if end - start >= long && is_plain && !has_control(&bytes[start..end]) {
                out.text.push_str(&text[copied..start]);
                out.cuts.push((out.text.len(), end - out.text.len()));
                copied = end;
            }
            at = (end + 1).min(bytes.len());
            strings += 1;
            if strings == TRIAL_STRINGS && 2 * (out.text.len() + at - copied) > at {
                return None;
            }
        }
        out.text.push_str(&text[copied..]);
        Some(out)
    }

    /// The position in the original of a position in the copy.
    fn original(&self, position: usize) -> usize {
        let cuts = self.cuts.partition_point(|(cut, _)| *cut <= position);
        position + cuts.checked_sub(1).map_or(0, |last| self.cuts[last].1)
    }
}

/// Whether there is a byte that no JSON string may contain unescaped. Without an early exit, so that it is vectorized.
fn has_control(content: &[u8]) -> bool {
    content
        .iter()
        .fold(false, |found, byte| found | (*byte < b' '))
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

    /// What `fields` visits in a text, or its error; of the copy without strings of this length or more if there is one.
    fn visited(text: &str, long: Option<usize>) -> Result<Vec<(String, Range<usize>)>, ParseError> {
        let mut visited = Vec::new();
        let shortened = long.and_then(|long| Shortened::of(text, long));
        let original = |at| shortened.as_ref().map_or(at, |short| short.original(at));
        let parsed = shortened.as_ref().map_or(text, |short| &short.text);
        parse(parsed, |name, value| {
            visited.push((name.to_owned(), original(value.start)..original(value.end)));
        })?;
        Ok(visited)
    }

    #[test]
    fn a_text_without_its_long_strings_has_the_same_fields() {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"a\"",
            "\"long enough\"",
            "\"",
            "\\",
            "\\\"",
            "1",
            " ",
            "\u{1}",
            "é",
            "\"model\":",
            "\"x\\\"yzzzz\"",
            "null",
            "{\"k\":\"vvvvvvvv\"}",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let (mut valid, mut cut) = (0, 0);
        for _ in 0..200_000 {
            let count = random.usize(1..12);
            let mut text: String = (0..count)
                .map(|_| pieces[random.usize(..pieces.len())])
                .collect();
            if random.bool() {
                text = format!("{{\"first\":{text}}}");
            }
            let plain = visited(&text, None);
            let short = visited(&text, Some(4));
            assert_eq!(plain.is_ok(), short.is_ok(), "{text}");
            let without_long_names = |fields: Vec<(String, Range<usize>)>| {
                let names = fields
                    .into_iter()
                    .map(|(name, value)| (name.len().min(4), value));
                names
                    .map(|(length, value)| (length % 4, value))
                    .collect::<Vec<_>>()
            };
            if let (Ok(plain), Ok(short)) = (plain, short) {
                assert_eq!(
                    without_long_names(plain),
                    without_long_names(short),
                    "{text}"
                );
                valid += 1;
                cut += usize::from(
                    Shortened::of(&text, 4).is_some_and(|short| !short.cuts.is_empty()),
                );
            }
        }
        assert!(
            valid > 1000 && cut > 500,
            "{valid} valid, {cut} of them cut"
        );
    }

    #[test]
    fn a_large_body_with_pictures_is_read_like_a_small_one() {
        let picture = "A/+9".repeat(100_000);
        let text = format!(
            r#"{{"messages":[{{"url":"{picture}"}},"{picture}"],"model":"m","end":"{picture}"}}"#
        );
        let model = text.find(r#""m""#).unwrap();
        let mut seen = Vec::new();
        fields(&text, |name, value| seen.push((name.to_owned(), value))).unwrap();
        assert_eq!(seen[1], ("model".to_owned(), model..model + 3));
        assert_eq!(&text[seen[0].1.clone()], &text[12..model - 9]);
        assert_eq!(seen[2].1.end, text.len() - 1);
        let broken = format!("{}secret", text);
        let error = fields(&broken, |_, _| ()).unwrap_err();
        let expect = format!("trailing characters at line 1 column {}", text.len() + 1);
        assert_eq!(error, ParseError::NotJson(expect));
        let escapes = format!(r#"{{"a":"{}"}}"#, "\\n".repeat(200_000));
        assert!(
            Shortened::of(&escapes, LONG_STRING)
                .unwrap()
                .cuts
                .is_empty()
        );
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
