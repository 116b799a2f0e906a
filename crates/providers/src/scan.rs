//! Finds the fields of a JSON object without a tree: one pass over the bytes, no recursion, nothing copied.
//!
//! Takes what RFC 8259 takes, and of memory one bit for each open bracket. Must never know a field's meaning, and must
//! never put a piece of the text into an error.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Why a text could not be read as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is JSON, but no object.
    NotAnObject,
    /// It is not JSON.
    NotJson(Flaw),
}

/// What is wrong with a text that is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    what: What,
    /// From 1.
    line: usize,
    /// In bytes, from 1; just past the end where the text ends too early.
    column: usize,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::EndsEarly => "it ends too early",
            What::NoValue => "a value is expected",
            What::NoName => "a name in double quotes is expected",
            What::NoColon => "a colon is expected",
            What::NoCommaInObject => "a comma or a closing brace is expected",
            What::NoCommaInList => "a comma or a closing bracket is expected",
            What::Number => "a number is malformed",
            What::Escape => "a string has an invalid escape",
            What::Control => "a string has a control character that is not escaped",
            What::More => "more follows after its end",
        };
        write!(f, "{what} at line {} column {}", self.line, self.column)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    EndsEarly,
    NoValue,
    NoName,
    NoColon,
    NoCommaInObject,
    NoCommaInList,
    Number,
    Escape,
    Control,
    More,
}

/// Calls `visit` with the name and the byte range of the value of each field, in order. A name that cannot be
/// unescaped is passed over; a visit says nothing about the text that follows.
pub(crate) fn fields(text: &str, mut visit: impl FnMut(&str, Range<usize>)) -> Result<(), Refused> {
    let mut scan = Scan::new(text);
    let read = scan.whole(|name, value| {
        if let Some(name) = unescaped(&text[name]) {
            visit(&name, value);
        }
    });
    match read {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused::NotAnObject),
        Err(what) => Err(Refused::NotJson(scan.flaw(what))),
    }
}

/// The last value of each named field of a JSON object, as it stands in the text; `None` if the text is no object.
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

/// What a JSON string says; `None` for any other value, and for a string whose surrogates do not come in pairs.
pub(crate) fn unescaped(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    match memchr::memchr(b'\\', inner.as_bytes()) {
        None => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(value).ok().map(Cow::Owned),
    }
}

/// A place in a text.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    /// Reads the whole text; whether it is an object.
    fn whole(&mut self, visit: impl FnMut(Range<usize>, Range<usize>)) -> Result<bool, What> {
        let is_object = self.next() == Some(b'{');
        if is_object {
            self.object(visit)?;
        } else {
            self.value()?;
        }
        match self.next() {
            None => Ok(is_object),
            Some(_) => Err(What::More),
        }
    }

    /// Moves past an object.
    fn object(&mut self, mut visit: impl FnMut(Range<usize>, Range<usize>)) -> Result<(), What> {
        self.at += 1;
        if self.next() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.name()?;
            self.next();
            let start = self.at;
            self.value()?;
            visit(name, start..self.at);
            let next = self.next().ok_or(What::EndsEarly)?;
            if !matches!(next, b',' | b'}') {
                return Err(What::NoCommaInObject);
            }
            self.at += 1;
            if next == b'}' {
                return Ok(());
            }
        }
    }

    /// Moves past a value, however deep.
    fn value(&mut self) -> Result<(), What> {
        let mut open = Nesting::default();
        loop {
            match self.next().ok_or(What::EndsEarly)? {
                b'"' => self.string()?,
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = bracket == b'{';
                    // In ASCII, either closing bracket stands two behind its opening one.
                    if self.next() != Some(bracket + 2) {
                        open.push(is_object);
                        if is_object {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => return Err(What::NoValue),
            }
            if self.closed(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Behind a value: moves past the brackets that close, to where the next value is expected. Whether there is none,
    /// since nothing is open.
    fn closed(&mut self, open: &mut Nesting) -> Result<bool, What> {
        while let Some(is_object) = open.innermost() {
            match (self.next().ok_or(What::EndsEarly)?, is_object) {
                (b',', true) => {
                    self.at += 1;
                    self.name()?;
                    return Ok(false);
                }
                (b',', false) => {
                    self.at += 1;
                    return Ok(false);
                }
                (b'}', true) | (b']', false) => {
                    self.at += 1;
                    open.pop();
                }
                (_, true) => return Err(What::NoCommaInObject),
                (_, false) => return Err(What::NoCommaInList),
            }
        }
        Ok(true)
    }

    /// Moves past a name and its colon; where the name stands, with its quotes.
    fn name(&mut self) -> Result<Range<usize>, What> {
        if self.next().ok_or(What::EndsEarly)? != b'"' {
            return Err(What::NoName);
        }
        let start = self.at;
        self.string()?;
        let name = start..self.at;
        if self.next().ok_or(What::EndsEarly)? != b':' {
            return Err(What::NoColon);
        }
        self.at += 1;
        Ok(name)
    }

    /// Moves past a string.
    fn string(&mut self) -> Result<(), What> {
        self.at += 1;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.byte().ok_or(What::EndsEarly)? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => return Err(What::Control),
            }
        }
    }

    /// Moves past a backslash and what belongs to it. Whether surrogates come in pairs is for [`unescaped`] to say.
    fn escape(&mut self) -> Result<(), What> {
        self.at += 1;
        match self.byte().ok_or(What::EndsEarly)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().ok_or(What::EndsEarly)?.is_ascii_hexdigit() {
                        return Err(What::Escape);
                    }
                    self.at += 1;
                }
            }
            _ => return Err(What::Escape),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), What> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        let first = self.at;
        self.digits()?;
        if self.bytes[first] == b'0' && self.at > first + 1 {
            self.at = first + 1;
            return Err(What::Number);
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Moves past at least one digit.
    fn digits(&mut self) -> Result<(), What> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        match self.byte() {
            _ if self.at > start => Ok(()),
            Some(_) => Err(What::Number),
            None => Err(What::EndsEarly),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), What> {
        let fits = self.bytes[self.at..]
            .iter()
            .zip(word)
            .take_while(|(byte, expected)| byte == expected)
            .count();
        self.at += fits;
        match self.byte() {
            _ if fits == word.len() => Ok(()),
            Some(_) => Err(What::NoValue),
            None => Err(What::EndsEarly),
        }
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no blank; the place is then at that byte.
    fn next(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                byte => return byte,
            }
        }
    }

    fn flaw(&self, what: What) -> Flaw {
        let before = &self.bytes[..self.at];
        Flaw {
            what,
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            column: before.len() - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1) + 1,
        }
    }
}

/// The brackets that are open, one bit each: set for an object.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// The innermost ones, the last in the lowest bit.
    word: u64,
    /// Full words further out. Bodies in use never get here, so that nothing is allocated for them.
    outer: Vec<u64>,
}

impl Nesting {
    fn push(&mut self, is_object: bool) {
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.outer.push(self.word);
        }
        self.word = self.word << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.word >>= 1;
        if self.depth.is_multiple_of(64) {
            self.word = self.outer.pop().unwrap_or_default();
        }
    }

    /// Whether the innermost one is an object; `None` if none is open.
    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.word & 1 == 1)
    }
}

/// Where the run of plain bytes from `from` on ends: at a quote, a backslash, a control character or the text's end.
fn plain_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = chunk(bytes, at) {
        let stops = stops_in(u64::from_le_bytes(word));
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
        // Names and most values have ended by now; what has not may be a picture.
        if at == from + 32 {
            while chunk(bytes, at).is_some_and(is_plain) {
                at += BLOCK;
            }
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| !is_stop(**byte)).count()
}

/// How many bytes [`is_plain`] looks at together.
const BLOCK: usize = 64;

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn is_stop(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

/// Whether no byte is a stop. Without branches, so that the compiler makes vector instructions of it.
fn is_plain(block: [u8; BLOCK]) -> bool {
    let stop = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
    block.into_iter().fold(0, |found, byte| found | stop(byte)) == 0
}

/// Sets the highest bit of the lowest byte of `word` that is a stop; of higher bytes it may be wrong.
fn stops_in(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES << 7;
    // A byte below `limit` borrows from its highest bit, which it has not set itself; the borrow may go on upwards.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_plain_bytes_ends_at_the_first_stop_wherever_it_stands() {
        for stop in (0..=u8::MAX).filter(|byte| is_stop(*byte)) {
            for length in [0, 1, 7, 8, 31, 32, 33, 95, 96, 97, 159, 160, 200] {
                // Neighbours of the stops, and bytes with the highest bit.
                let plain = [
                    0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0x9f, 0xa2, 0xdc, 0xff,
                ];
                let mut text: Vec<u8> = plain.iter().copied().cycle().take(length).collect();
                assert_eq!(plain_end(&text, 0), length);
                text.extend([stop, b'"', 0, b'x']);
                text.extend([b'x'; 100]);
                for from in [0, 1.min(length), length / 2, length] {
                    assert_eq!(plain_end(&text, from), length, "{stop} from {from}");
                }
            }
        }
        assert_eq!(plain_end(b"", 1), 1);
    }

    #[test]
    fn a_nesting_gives_back_what_was_put_in() {
        let kinds: Vec<bool> = (0_u32..300)
            .map(|n| n.wrapping_mul(2_654_435_761) >> 31 == 1)
            .collect();
        let mut open = Nesting::default();
        for depth in [1, 63, 64, 65, 128, 129, 300] {
            kinds[..depth].iter().for_each(|kind| open.push(*kind));
            for kind in kinds[..depth].iter().rev() {
                assert_eq!(open.innermost(), Some(*kind), "{depth}");
                open.pop();
            }
            assert_eq!((open.innermost(), open.outer.len()), (None, 0));
        }
    }

    #[test]
    fn a_flaw_says_what_and_where() {
        for (text, expect) in [
            ("", "it ends too early at line 1 column 1"),
            ("{\"a\":1,\n \"b\"", "it ends too early at line 2 column 5"),
            ("{\"a\":\n\n nul}", "a value is expected at line 3 column 5"),
            (
                "{'a':1}",
                "a name in double quotes is expected at line 1 column 2",
            ),
            (
                "{\"a\":1,}",
                "a name in double quotes is expected at line 1 column 8",
            ),
            ("{\"a\" 1}", "a colon is expected at line 1 column 6"),
            (
                "{\"a\":1]",
                "a comma or a closing brace is expected at line 1 column 7",
            ),
            (
                "{\"a\":{\"b\":1]}",
                "a comma or a closing brace is expected at line 1 column 12",
            ),
            (
                "{\"a\":[1}",
                "a comma or a closing bracket is expected at line 1 column 8",
            ),
            ("{\"a\":01}", "a number is malformed at line 1 column 7"),
            ("{\"a\":-}", "a number is malformed at line 1 column 7"),
            ("{\"a\":1.}", "a number is malformed at line 1 column 8"),
            (
                "{\"a\":\"\\x\"}",
                "a string has an invalid escape at line 1 column 8",
            ),
            (
                "{\"a\":\"\\u12g4\"}",
                "a string has an invalid escape at line 1 column 11",
            ),
            (
                "{\"a\":\"\t\"}",
                "a string has a control character that is not escaped at line 1 column 7",
            ),
            ("{}\r\n{}", "more follows after its end at line 2 column 1"),
            ("[]]", "more follows after its end at line 1 column 3"),
        ] {
            match fields(text, |_, _| ()) {
                Err(Refused::NotJson(flaw)) => assert_eq!(flaw.to_string(), expect, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_last_value_of_each_name_is_picked_as_it_stands() {
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
