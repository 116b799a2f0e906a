//! Passes over JSON text from string to string and from bracket to bracket, without parsing it.
//!
//! Of an object or a list that is skipped, only its own kind of bracket and the quotes of strings matter. So pictures and
//! embeddings of many MiB cost next to nothing. Must never judge whether a text is JSON: of one that is not, it finds
//! something or nothing.

use memchr::{memchr, memchr2, memchr3};

/// A byte of each sign, in a word of eight.
const ONES: u64 = u64::from_ne_bytes([1; 8]);
const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
/// Number of words that are searched one by one before memchr is called, which costs as much as all of them. Most strings
/// are names and short values.
const WORDS: usize = 4;
/// Number of bytes outside of strings that are looked at one by one before memchr is called.
const NEAR: usize = 8;

/// The brackets of an object.
pub(crate) const OBJECT: [u8; 2] = [b'{', b'}'];
/// The brackets of a list.
pub(crate) const LIST: [u8; 2] = [b'[', b']'];

/// Where a string ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StringEnd {
    /// The offset of its last quote. If the text ends before: the length of the text, or one more if its last byte is a
    /// backslash that escapes the next one.
    pub(crate) at: usize,
    pub(crate) has_escape: bool,
}

/// The end of the string whose content begins or goes on at `start`.
pub(crate) fn string_end(text: &[u8], start: usize) -> StringEnd {
    let (mut at, mut has_escape) = (start, false);
    while let Some(found) = quote_or_backslash(text, at) {
        at = found;
        if text[at] == b'"' {
            return StringEnd { at, has_escape };
        }
        has_escape = true;
        at += 2;
    }
    let at = at.max(text.len());
    StringEnd { at, has_escape }
}

#[inline]
fn quote_or_backslash(text: &[u8], start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let (words, _) = rest.as_chunks();
    let near = &words[..words.len().min(WORDS)];
    for (index, word) in near.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES);
        if found != 0 {
            return Some(start + 8 * index + found.trailing_zeros() as usize / 8);
        }
    }
    let searched = 8 * near.len();
    memchr2(b'"', b'\\', &rest[searched..]).map(|found| start + searched + found)
}

/// The highest bit of each byte that is 0; and maybe of bytes above the lowest of these (H. S. Warren, "Hacker's Delight",
/// 6-1).
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// The next quote or bracket of one kind. Those of small objects are close to each other.
#[inline]
pub(crate) fn quote_or_bracket(text: &[u8], start: usize, [open, close]: [u8; 2]) -> Option<usize> {
    let rest = text.get(start..)?;
    let (near, far) = rest.split_at(rest.len().min(NEAR));
    let is_sign = |byte: &u8| *byte == b'"' || *byte == open || *byte == close;
    let found = near.iter().position(is_sign);
    let found = found.or_else(|| Some(near.len() + memchr3(b'"', open, close, far)?))?;
    Some(start + found)
}

/// The offset just past the bracket that closes an object or a list, of which `start` is inside; `None` if the text ends
/// before. `brackets`: its kind.
pub(crate) fn nested_end(text: &[u8], start: usize, brackets: [u8; 2]) -> Option<usize> {
    let [open, close] = brackets;
    let first = start + memchr(close, text.get(start..)?)?;
    if is_flat(&text[start..first], open) {
        return Some(first + 1);
    }
    let (mut at, mut depth) = (start, 1_usize);
    while depth > 0 {
        let sign = quote_or_bracket(text, at, brackets)?;
        at = sign + 1;
        match text[sign] {
            b'"' => at = string_end(text, at).at + 1,
            byte if byte == open => depth += 1,
            _ => depth -= 1,
        }
    }
    Some(at)
}

/// Whether what follows a text is outside of strings, and no bracket was opened. Most small objects and lists are flat.
/// Without an early exit, so that it is vectorized.
fn is_flat(text: &[u8], open: u8) -> bool {
    let (mut is_odd, mut is_other) = (0, 0);
    for byte in text {
        is_odd ^= u8::from(*byte == b'"');
        is_other |= u8::from(*byte == open) | u8::from(*byte == b'\\');
    }
    is_odd | is_other == 0
}

/// Reads an object field by field. Each method returns `None` where the text ends or is no JSON.
pub(crate) struct JsonText<'t> {
    text: &'t [u8],
    at: usize,
}

/// A field's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'t> {
    /// As written between its quotes.
    pub(crate) written: &'t [u8],
    pub(crate) has_escape: bool,
}

impl<'t> JsonText<'t> {
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Takes a sign, and blanks before it.
    #[inline]
    pub(crate) fn take(&mut self, sign: u8) -> Option<()> {
        let is_next = self.sign()? == sign;
        self.at += 1;
        is_next.then_some(())
    }

    /// Reads an object: calls `on_field` with each name and with its value as written.
    pub(crate) fn object(&mut self, mut on_field: impl FnMut(Name<'t>, &'t [u8])) -> Option<()> {
        self.take(b'{')?;
        if self.sign()? == b'}' {
            return self.take(b'}');
        }
        loop {
            let name = self.name()?;
            on_field(name, self.value()?);
            match self.sign()? {
                b',' => self.at += 1,
                _ => return self.take(b'}'),
            }
        }
    }

    /// Skips what follows a value, up to the end of its object.
    pub(crate) fn skip_rest(&mut self) -> Option<()> {
        self.at = nested_end(self.text, self.at, OBJECT)?;
        Some(())
    }

    /// Whether nothing but blanks follows.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.sign().is_none()
    }

    /// Takes a name and its colon.
    fn name(&mut self) -> Option<Name<'t>> {
        self.take(b'"')?;
        let start = self.at;
        let end = string_end(self.text, start);
        let written = self.text.get(start..end.at)?;
        self.at = end.at + 1;
        self.take(b':')?;
        Some(Name {
            written,
            has_escape: end.has_escape,
        })
    }

    fn value(&mut self) -> Option<&'t [u8]> {
        let sign = self.sign()?;
        let start = self.at;
        self.at = match sign {
            b'"' => string_end(self.text, start + 1).at + 1,
            b'{' => nested_end(self.text, start + 1, OBJECT)?,
            b'[' => nested_end(self.text, start + 1, LIST)?,
            _ => self.scalar_end()?,
        };
        self.text.get(start..self.at)
    }

    /// The first byte of what follows, after blanks.
    #[inline]
    fn sign(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// The end of a number, `true`, `false` or `null`.
    fn scalar_end(&self) -> Option<usize> {
        let is_inside =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let length = self.text[self.at..]
            .iter()
            .position(|byte| !is_inside(byte))?;
        (length > 0).then_some(self.at + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a string, byte by byte.
    fn slow_string_end(text: &[u8], start: usize) -> (usize, bool) {
        let (mut at, mut has_escape) = (start, false);
        while at < text.len() && text[at] != b'"' {
            let is_escape = text[at] == b'\\';
            has_escape |= is_escape;
            at += 1 + usize::from(is_escape);
        }
        (at, has_escape)
    }

    /// The end of an object or a list, byte by byte.
    fn slow_nested_end(text: &[u8], start: usize, [open, close]: [u8; 2]) -> Option<usize> {
        let (mut at, mut depth) = (start, 1);
        while depth > 0 {
            match *text.get(at)? {
                b'"' => at = slow_string_end(text, at + 1).0,
                byte if byte == open => depth += 1,
                byte if byte == close => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        Some(at)
    }

    #[test]
    fn strings_and_brackets_end_where_they_do_byte_by_byte() {
        let pieces = [
            "\"", "\\", "{", "}", "[", "]", "é", "\u{1}", ",", ":1", "a", "name", "\"\":",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let (mut ended, mut nested, mut escaped) = (0, 0, 0);
        for _ in 0..200_000 {
            let text: String = (0..random.usize(0..30))
                .map(|_| match random.u8(0..3) {
                    0 => "some text".get(..random.usize(0..9)).unwrap_or_default(),
                    _ => pieces[random.usize(..pieces.len())],
                })
                .collect();
            let text = text.as_bytes();
            let start = random.usize(..=text.len());
            let end = string_end(text, start);
            let slow = slow_string_end(text, start);
            assert_eq!((end.at, end.has_escape), slow, "{start}: {text:?}");
            for brackets in [OBJECT, LIST] {
                let end = nested_end(text, start, brackets);
                let slow = slow_nested_end(text, start, brackets);
                assert_eq!(end, slow, "{start}: {text:?}");
                nested += usize::from(end.is_some());
            }
            ended += usize::from(end.at < text.len());
            escaped += usize::from(end.has_escape);
        }
        assert!(
            ended > 20_000 && nested > 20_000 && escaped > 20_000,
            "{ended} {nested} {escaped}"
        );
    }

    #[test]
    fn an_object_is_read_field_by_field_or_not_at_all() {
        let read = |text: &str| {
            let (mut json, mut fields) = (JsonText::new(text.as_bytes()), Vec::new());
            json.object(|name, value| {
                let [name, value] = [name.written, value].map(String::from_utf8_lossy);
                fields.push(format!("{name}={value}"));
            })
            .map(|()| (fields.join(" "), json.is_at_end()))
        };
        for (text, expect) in [
            ("{}", Some("")),
            (" { } ", Some("")),
            (
                " { \"a\" : 1 ,\"b\":\"}\\\"\", \"c\" : {\"d\":[1]}\n,\"\":null } ",
                Some("a=1 b=\"}\\\"\" c={\"d\":[1]} =null"),
            ),
            (
                "{\"a\":[{\"b\":\"]\"},[]],\"c\":-1.5e+3}",
                Some("a=[{\"b\":\"]\"},[]] c=-1.5e+3"),
            ),
            ("{\"a\":1,}", None),
            ("{\"a\":}", None),
            ("{\"a\" 1}", None),
            ("{\"a\":1 \"b\":2}", None),
            ("{\"a\":1", None),
            ("{\"a\":\"", None),
            ("{\"a", None),
            ("{,}", None),
            ("[]", None),
            ("", None),
        ] {
            let expect = expect.map(|fields| (fields.to_owned(), true));
            assert_eq!(read(text), expect, "{text}");
        }
        assert_eq!(read("{}{}"), Some((String::new(), false)));
    }
}
