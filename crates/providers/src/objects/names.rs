//! The canonical spelling of ids, and which ids a value holds.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::table::table;
use crate::protocol::Protocol;

/// Maximum length of an id, in bytes.
pub(super) const MAX_ID: usize = 256;
/// Maximum length of a value that may hold an id or the address of an object, in bytes.
pub(super) const MAX_TEXT: usize = 8 * 1024;
/// Maximum number of times an address is percent-decoded. An address inside another is encoded once more.
const MAX_DECODED: usize = 3;
/// Characters that end a part of an address.
const ENDS: [char; 7] = ['/', '\\', '?', '#', '&', '=', ';'];

/// Whether a text has the length and the characters of an id.
pub(super) fn fits(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The id in its one canonical spelling; `None` if the text holds no id.
///
/// A Gemini id includes its collection (`files/abc`). `collection` completes an id that is written without one.
pub(super) fn canonical_id(protocol: Protocol, collection: &[&str], text: &str) -> Option<String> {
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

/// Calls `take` with every id that a value may hold: the value itself, or the names inside an address.
pub(super) fn candidate_ids(protocol: Protocol, text: &str, take: &mut impl FnMut(&str)) {
    if text.len() > MAX_TEXT {
        return;
    }
    if protocol == Protocol::Gemini {
        return names_in(text, take);
    }
    let id = text.strip_prefix("ms://").unwrap_or(text);
    if fits(id) {
        take(id);
    }
}

/// Calls `take` with Gemini's names in a text, such as `files/abc` in `https://…/v1beta/files/abc?alt=media`, however
/// it is encoded.
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

/// The path's segments, percent-decoded once. Encoded slashes and backslashes end a segment too.
pub(super) fn segments(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let segments = decoded.split(['/', '\\']);
    segments
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}
