//! Finds the strings of a JSON text, which may be cut off, without building a tree and without recursion.
//!
//! It never panics: text that is not JSON yields some strings or none. Must never know what an id is.

use std::borrow::Cow;
use std::ops::Range;

use crate::read::json_text::string_end;

/// Maximum depth to which the path to a string is tracked.
const MAX_DEPTH: usize = 16;
/// In a path: any element of an array.
pub(super) const ANY: &str = "[]";

/// One level of a path.
#[derive(Clone, Debug, Default)]
enum Step {
    /// An object whose key has not been read yet.
    #[default]
    Unknown,
    /// A key: its byte range in the text, quotes included.
    Key(Range<usize>),
    /// An element of an array.
    Element,
}

/// The innermost field that a string belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NearestField<'t> {
    /// The string is in no object.
    None,
    /// Its name.
    Named(Cow<'t, str>),
    /// Only the provider can read its name, which has no quotes, or the string is nested too deep.
    Unreadable,
}

/// The path to a string.
#[derive(Debug)]
pub(super) struct JsonPath<'t> {
    text: &'t [u8],
    depth: usize,
    steps: [Step; MAX_DEPTH],
}

impl JsonPath<'_> {
    /// Whether this is exactly the path: `["response", "id"]`, `["files", ANY]`.
    pub(super) fn is(&self, path: &[&str]) -> bool {
        self.depth == path.len()
            && path
                .iter()
                .enumerate()
                .all(|(level, name)| self.leads(level, name))
    }

    /// Whether the path begins at this top-level field.
    pub(super) fn is_below(&self, field: &str) -> bool {
        self.depth > 0 && self.leads(0, field)
    }

    /// The field whose value it is, or which holds the arrays around it.
    pub(super) fn field(&self) -> NearestField<'_> {
        let Some(steps) = self.steps.get(..self.depth) else {
            return NearestField::Unreadable;
        };
        let is_array = |step: &&Step| matches!(step, Step::Element);
        match steps.iter().rfind(|step| !is_array(step)) {
            None => NearestField::None,
            Some(Step::Key(raw)) => NearestField::Named(unescaped(self.text, raw.clone())),
            Some(_) => NearestField::Unreadable,
        }
    }

    fn leads(&self, level: usize, name: &str) -> bool {
        match self.steps.get(level) {
            Some(Step::Element) => name == ANY,
            _ => self.key(level).is_some_and(|key| key == name),
        }
    }

    fn key(&self, level: usize) -> Option<Cow<'_, str>> {
        match self.steps.get(level)? {
            Step::Key(raw) => Some(unescaped(self.text, raw.clone())),
            _ => None,
        }
    }

    /// The next value may have a key that only the provider can read, such as one without quotes.
    fn forget_key(&mut self) {
        let level = self.depth.checked_sub(1);
        let step = level.and_then(|level| self.steps.get_mut(level));
        if let Some(step @ Step::Key(_)) = step {
            *step = Step::Unknown;
        }
    }

    fn set(&mut self, level: Option<usize>, step: Step) {
        if let Some(slot) = level.and_then(|level| self.steps.get_mut(level)) {
            *slot = step;
        }
    }
}

/// A string as written in the text. Most are never decoded: prose is long, and names no object.
#[derive(Debug)]
pub(super) struct Raw<'t> {
    text: &'t [u8],
    /// Byte range, quotes included.
    at: Range<usize>,
}

impl<'t> Raw<'t> {
    /// Whether the decoded string has more than this many bytes, however it is escaped.
    pub(super) fn is_longer_than(&self, bytes: usize) -> bool {
        // `\u0061` is the longest way to write a byte.
        self.at.len() - 2 > 6 * bytes
    }

    /// Its byte range in the text, quotes included.
    pub(super) fn range(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The string without quotes and escapes; empty if an escape is broken.
    pub(super) fn read(&self) -> Cow<'t, str> {
        unescaped(self.text, self.at.clone())
    }
}

/// Calls `take` with every string that is not a key, and with the path to it.
pub(super) fn strings(text: &[u8], mut take: impl FnMut(&JsonPath<'_>, &Raw<'_>)) {
    let mut path = JsonPath {
        text,
        depth: 0,
        steps: Default::default(),
    };
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                // Past its closing quote.
                let end = string_end(text, at + 1).at + 1;
                if end > text.len() {
                    return;
                }
                let raw = at..end;
                at = end;
                if text[at..].trim_ascii_start().starts_with(b":") {
                    path.set(path.depth.checked_sub(1), Step::Key(raw));
                } else {
                    take(&path, &Raw { text, at: raw });
                }
                continue;
            }
            b'{' | b'[' => {
                let step = if *byte == b'{' {
                    Step::Unknown
                } else {
                    Step::Element
                };
                path.set(Some(path.depth), step);
                path.depth += 1;
            }
            b'}' | b']' => path.depth = path.depth.saturating_sub(1),
            b',' => path.forget_key(),
            _ => {}
        }
        at += 1;
    }
}

/// Calls `take` with the strings at these paths. If a path leads through no array, only the first string there counts.
pub(super) fn strings_at(text: &[u8], paths: &[&[&str]], mut take: impl FnMut(&str)) {
    let mut found = vec![false; paths.len()];
    strings(text, |here, value| {
        for (path, found) in paths.iter().zip(&mut found) {
            if here.is(path) && (!*found || path.contains(&ANY)) {
                *found = true;
                take(&value.read());
            }
        }
    });
}

/// The string without quotes and escapes; empty if an escape is broken.
fn unescaped(text: &[u8], raw: Range<usize>) -> Cow<'_, str> {
    let inner = &text[raw.start + 1..raw.end - 1];
    if inner.contains(&b'\\') {
        return Cow::Owned(serde_json::from_slice(&text[raw]).unwrap_or_default());
    }
    String::from_utf8_lossy(inner)
}
