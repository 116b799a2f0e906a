//! Strings of a JSON text that may be cut off, found without a tree and without recursion.
//!
//! Total: text that is no JSON yields something or nothing, and never a panic. Must never know what an id is.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// The path to a string is known down to this depth.
const MAX_DEPTH: usize = 16;
/// Stands for any element of an array in a path.
pub(super) const ANY: &str = "[]";

/// What leads one level down.
#[derive(Clone, Debug, Default)]
enum Step {
    /// An object whose key has not come.
    #[default]
    Unknown,
    /// A key: where it stands in the text, quotes included.
    Key(Range<usize>),
    /// An element of an array.
    Element,
}

/// Where a string stands.
#[derive(Debug)]
pub(super) struct Place<'t> {
    text: &'t [u8],
    depth: usize,
    steps: [Step; MAX_DEPTH],
}

impl Place<'_> {
    /// Whether it stands just there: `["response", "id"]`, `["files", ANY]`.
    pub(super) fn is(&self, path: &[&str]) -> bool {
        self.depth == path.len()
            && path
                .iter()
                .enumerate()
                .all(|(level, name)| self.leads(level, name))
    }

    /// Whether it stands in or below this top-level field.
    pub(super) fn is_below(&self, field: &str) -> bool {
        self.depth > 0 && self.leads(0, field)
    }

    /// Whether it stands below these keys, one right below the other, wherever they stand.
    pub(super) fn is_inside(&self, fields: &[&str]) -> bool {
        let above = self.steps.len().min(self.depth);
        (0..above).any(|first| {
            let mut levels = (first..above).zip(fields);
            above - first >= fields.len() && levels.all(|(level, name)| self.leads(level, name))
        })
    }

    /// The key of which it is the value; `None` in an array, and where it stands too deep.
    pub(super) fn own_key(&self) -> Option<Cow<'_, str>> {
        self.key(self.depth.checked_sub(1)?)
    }

    /// The key of which it, or the innermost arrays that it stands in, is the value; `None` where it stands too deep.
    pub(super) fn nearest_key(&self) -> Option<Cow<'_, str>> {
        let inner = self.steps.get(..self.depth)?;
        let level = inner
            .iter()
            .rposition(|step| !matches!(step, Step::Element))?;
        self.key(level)
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

    /// What comes next may have a key that only the provider can read, such as one without quotes.
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

/// A string as it stands in the text. Most are never read: what people write is long, and names nothing.
#[derive(Debug)]
pub(super) struct Raw<'t> {
    text: &'t [u8],
    /// Quotes included.
    at: Range<usize>,
}

impl<'t> Raw<'t> {
    /// Whether it can be no text of at most this many bytes, however it is escaped.
    pub(super) fn is_longer_than(&self, bytes: usize) -> bool {
        // `\u0061` is the longest way to write a byte.
        self.at.len() - 2 > 6 * bytes
    }

    /// The string without its quotes and escapes; empty where it has broken ones.
    pub(super) fn read(&self) -> Cow<'t, str> {
        unescaped(self.text, self.at.clone())
    }
}

/// Calls `take` with every string that is no key, and where it stands.
pub(super) fn strings(text: &[u8], mut take: impl FnMut(&Place<'_>, &Raw<'_>)) {
    let mut place = Place {
        text,
        depth: 0,
        steps: Default::default(),
    };
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                let Some(end) = string_end(text, at) else {
                    return;
                };
                let raw = at..end;
                at = end;
                if text[at..].trim_ascii_start().starts_with(b":") {
                    place.set(place.depth.checked_sub(1), Step::Key(raw));
                } else {
                    take(&place, &Raw { text, at: raw });
                }
                continue;
            }
            b'{' | b'[' => {
                let step = if *byte == b'{' {
                    Step::Unknown
                } else {
                    Step::Element
                };
                place.set(Some(place.depth), step);
                place.depth += 1;
            }
            b'}' | b']' => place.depth = place.depth.saturating_sub(1),
            b',' => place.forget_key(),
            _ => {}
        }
        at += 1;
    }
}

/// Calls `take` with the strings at these places; of a place without an array with the first one only.
pub(super) fn strings_at(text: &[u8], places: &[&[&str]], mut take: impl FnMut(&str)) {
    let mut found = vec![false; places.len()];
    strings(text, |here, value| {
        for (place, found) in places.iter().zip(&mut found) {
            if here.is(place) && (!*found || place.contains(&ANY)) {
                *found = true;
                take(&value.read());
            }
        }
    });
}

/// Just past the closing quote of the string that begins at `start`.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// The string without its quotes and escapes; empty where it has broken ones.
fn unescaped(text: &[u8], raw: Range<usize>) -> Cow<'_, str> {
    let inner = &text[raw.start + 1..raw.end - 1];
    if inner.contains(&b'\\') {
        return Cow::Owned(serde_json::from_slice(&text[raw]).unwrap_or_default());
    }
    String::from_utf8_lossy(inner)
}
