//! Strings of a JSON text that may be cut off, found without a tree and without recursion.
//!
//! Total: text that is no JSON yields something or nothing, and never a panic. Must never know what an id is.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// Where a string stands: the keys that lead to it, of the first two levels.
#[derive(Debug, Default)]
pub(super) struct Place {
    depth: usize,
    keys: [Option<String>; 2],
}

impl Place {
    /// The top-level field in or below which it stands.
    pub(super) fn field(&self) -> Option<&str> {
        self.keys[0].as_deref()
    }

    /// The field inside that one; `None` where the string is the top-level field's own value.
    pub(super) fn inner(&self) -> Option<&str> {
        match self.depth {
            0 | 1 => None,
            2 => Some(self.keys[1].as_deref().unwrap_or_default()),
            _ => Some(""),
        }
    }
}

/// Calls `take` with every string that is no key, and where it stands.
pub(super) fn strings(text: &[u8], mut take: impl FnMut(&Place, &str)) {
    let mut place = Place::default();
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
                    if let Some(slot) = place
                        .depth
                        .checked_sub(1)
                        .and_then(|n| place.keys.get_mut(n))
                    {
                        *slot = Some(unescaped(text, raw).into_owned());
                    }
                } else {
                    take(&place, &unescaped(text, raw));
                }
                continue;
            }
            b'{' | b'[' => {
                if let Some(slot) = place.keys.get_mut(place.depth) {
                    *slot = None;
                }
                place.depth += 1;
            }
            b'}' | b']' => place.depth = place.depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
}

/// The first string at a place such as `response.id`; `None` where there is none, or the text ends before.
pub(super) fn string_at(text: &[u8], place: &[&str]) -> Option<String> {
    let mut found = None;
    strings(text, |here, value| {
        let matches = match place {
            [field] => here.depth == 1 && here.field() == Some(field),
            [field, inner] => {
                here.depth == 2 && here.field() == Some(field) && here.inner() == Some(inner)
            }
            _ => false,
        };
        if matches && found.is_none() {
            found = Some(value.to_owned());
        }
    });
    found
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
