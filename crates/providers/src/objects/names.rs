//! How ids are spelt, and whether a text may be one.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::table::table;
use crate::protocol::Protocol;

/// The longest id.
pub(super) const MAX_ID: usize = 256;
/// A longer text is no id and no address of an object.
pub(super) const MAX_TEXT: usize = 8 * 1024;
/// An address may be encoded once for each other address that it stands in.
const MAX_DECODED: usize = 3;
/// What ends a part of an address.
const ENDS: [char; 7] = ['/', '\\', '?', '#', '&', '=', ';'];

/// Whether a text has the length and the characters of an id.
pub(super) fn fits(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An id in its one spelling. Gemini's stand as `files/abc` in bodies, and inside longer names; `collection` is that of
/// one that stands alone.
pub(super) fn spelt(protocol: Protocol, collection: &[&str], text: &str) -> Option<String> {
    if protocol != Protocol::Gemini {
        return fits(text).then(|| text.to_owned());
    }
    let mut first = None;
    names_in(text, &mut |name| {
        first.get_or_insert_with(|| name.to_owned());
    });
    if first.is_some() || text.contains('/') {
        return first;
    }
    let id = text.split([':', '?', '#']).next().unwrap_or_default();
    name(collection.first()?, id)
}

/// Calls `take` with every id that a text of unknown meaning may be, or may hold as an address.
pub(super) fn possible(protocol: Protocol, text: &str, take: &mut impl FnMut(&str)) {
    match protocol {
        _ if text.len() > MAX_TEXT => {}
        Protocol::Gemini => names_in(text, take),
        _ if fits(text) && text.len() > 3 && text.contains(['-', '_']) => take(text),
        _ => {}
    }
}

/// Whether a text begins as one of Gemini's names does, encoded or not, or is an address.
pub(super) fn is_name_or_address(text: &str) -> bool {
    let first = text.split(ENDS).next().unwrap_or_default();
    let first = first.split('%').next().unwrap_or_default();
    // The tasks of a model stand below it.
    first == "models" || table(Protocol::Gemini).has(first) || text.contains("://")
}

/// Gemini's names in a text, such as `files/abc` in `https://…/v1beta/files/abc?alt=media`, however encoded.
fn names_in(text: &str, take: &mut impl FnMut(&str)) {
    let mut text = Cow::Borrowed(text);
    for _ in 0..=MAX_DECODED {
        let mut parts = text.split(ENDS).filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if !table(Protocol::Gemini).has(part) {
                continue;
            }
            let id = parts.peek().and_then(|id| id.split(':').next());
            if let Some(name) = id.and_then(|id| name(part, id)) {
                take(&name);
            }
        }
        if !text.contains('%') {
            return;
        }
        text = Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned());
    }
}

fn name(collection: &str, id: &str) -> Option<String> {
    let name = format!("{collection}/{id}");
    (!id.is_empty() && fits(&name)).then_some(name)
}

/// The path's segments, decoded once; encoded slashes and backslashes end a segment too.
pub(super) fn segments(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let segments = decoded.split(['/', '\\']);
    segments
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}
