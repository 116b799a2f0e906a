//! Finds the ids in a request: in its path, and in fields of its query and its body that hold ids.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode_str;

use super::json::{self, JsonPath, NearestField};
use super::names::{MAX_TEXT, candidate_ids, canonical_id, segments};
use super::table::table;
use crate::protocol::{self, Protocol};
use crate::read::multipart::{LoosePart, each_part};

/// How a request refers to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefKind {
    /// The id is in the path or in a field for ids, such as `file_id`.
    IdField,
    /// The request is about this object, and needs it.
    Required,
}

/// Calls `found` with every id in `path` and `query`.
pub fn in_path(
    protocol: Protocol,
    path: &str,
    query: Option<&str>,
    mut found: impl FnMut(RefKind, &str),
) {
    let table = table(protocol);
    let all = segments(path);
    let mut rest = &all[..];
    let mut kind = RefKind::Required;
    while let Some((collection, after)) = table.find(rest) {
        rest = after;
        let Some((id, after)) = after.split_first() else {
            break;
        };
        if table.verbs.contains(&&**id) {
            continue;
        }
        if let Some(id) = canonical_id(protocol, collection.at, id) {
            found(kind, &id);
        }
        kind = RefKind::IdField;
        rest = after;
    }
    // A provider may have paths that the table does not know.
    for segment in &all {
        candidate_ids(protocol, segment, &mut |id| found(RefKind::IdField, id));
    }
    let query = query.unwrap_or_default();
    if protocol == Protocol::Gemini {
        for id in query.split('&').filter_map(protocol::upload_id) {
            found(RefKind::Required, &id);
        }
    }
    in_pairs(protocol, query, &mut found);
}

/// Calls `found` with every id in a field for ids of a body.
///
/// A form is read as a form where `headers` say so; every other body is read as JSON, whatever it says it is.
pub fn in_body(
    protocol: Protocol,
    headers: &HeaderMap,
    body: &[u8],
    mut found: impl FnMut(RefKind, &str),
) {
    let media_type = headers.get_all(CONTENT_TYPE).iter();
    let media_type: Vec<u8> = media_type
        .flat_map(|value| value.as_bytes().to_ascii_lowercase())
        .collect();
    let says = |what: &[u8]| memchr::memmem::find(&media_type, what).is_some();
    // In a multipart form, JSON is the content of a file or of a field. Fields are read below.
    if !media_type.starts_with(b"multipart/") || says(b"json") {
        in_json(protocol, body, &mut found);
    }
    if says(b"urlencoded") {
        in_pairs(protocol, &String::from_utf8_lossy(body), &mut found);
    }
    if says(b"multipart/") {
        each_part(body, |part| in_part(protocol, part, &mut found));
    }
}

fn in_json(protocol: Protocol, text: &[u8], found: &mut impl FnMut(RefKind, &str)) {
    json::strings(text, |path, text| {
        if let Some(field) = required_field(protocol, path) {
            required(protocol, field, &text.read(), found);
        } else if !text.is_longer_than(MAX_TEXT) && holds_ids(protocol, path) {
            candidate_ids(protocol, &text.read(), &mut |id| {
                found(RefKind::IdField, id)
            });
        }
    });
}

/// The top-level field at `path` that names the object a request is about.
fn required_field(protocol: Protocol, path: &JsonPath<'_>) -> Option<&'static str> {
    let fields = table(protocol).required_fields;
    let is_at = |field: &&&str| path.is(&[field]) || path.is(&[field, "id"]);
    fields.iter().find(is_at).copied()
}

fn holds_ids(protocol: Protocol, path: &JsonPath<'_>) -> bool {
    // OpenAI's `metadata` holds the caller's own notes, as Anthropic's does.
    if protocol != Protocol::Gemini && path.is_below("metadata") {
        return false;
    }
    match path.field() {
        NearestField::Named(name) => is_id_field(protocol, &name),
        NearestField::Unreadable => true,
        NearestField::None => false,
    }
}

/// Whether the name of a field says that it holds ids.
fn is_id_field(protocol: Protocol, name: &str) -> bool {
    // What callers name their own things by.
    const NOT_OBJECTS: &[&str] = &["custom_id", "customId", "user_id", "userId"];
    const NAMES: &[&str] = &["id", "ids", "uri"];
    const ENDS: &[&str] = &["_id", "_ids", "Id", "Ids", "_uri", "Uri"];
    let table = table(protocol);
    (NAMES.contains(&name) || ENDS.iter().any(|end| name.ends_with(end)))
        && !NOT_OBJECTS.contains(&name)
        || table.required_fields.contains(&name)
        || table.id_fields.contains(&name)
}

fn required(protocol: Protocol, field: &str, text: &str, found: &mut impl FnMut(RefKind, &str)) {
    let collection: &[&str] = match field {
        "previousInteractionId" | "previous_interaction_id" => &["interactions"],
        "cachedContent" | "cached_content" => &["cachedContents"],
        _ => &[],
    };
    if let Some(id) = canonical_id(protocol, collection, text) {
        found(RefKind::Required, &id);
    }
    // An address may hold more than one name, and the caller must own whichever the provider takes.
    candidate_ids(protocol, text, &mut |id| found(RefKind::IdField, id));
}

/// Reads `a=b&c=d`: a query or a form.
fn in_pairs(protocol: Protocol, pairs: &str, found: &mut impl FnMut(RefKind, &str)) {
    for (name, value) in pairs.split('&').filter_map(|pair| pair.split_once('=')) {
        if let Some(field) = FormField::named(protocol, &decoded(name)) {
            field.ids(protocol, &decoded(value), found);
        }
    }
}

/// Reads a part of a multipart form. If its name is that of a field for ids, it is read line by line, even if it is a
/// file.
fn in_part(protocol: Protocol, part: &LoosePart<'_>, found: &mut impl FnMut(RefKind, &str)) {
    // A file is data, so it never needs an object.
    let mut found = |kind: RefKind, id: &str| {
        found(if part.is_file { RefKind::IdField } else { kind }, id);
    };
    if !part.is_file {
        in_json(protocol, part.value, &mut found);
    }
    let fields = part.names.iter();
    for field in fields.filter_map(|name| FormField::named(protocol, name)) {
        for line in part.value.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line.trim_ascii());
            field.ids(protocol, &line, &mut found);
        }
    }
}

/// A field of a form, or a parameter of a query, that holds ids.
enum FormField<'n> {
    /// It names the object that the request is about.
    Required(&'n str),
    /// It holds one id, or several with commas between.
    Ids,
}

impl<'n> FormField<'n> {
    /// Reads names such as `file_id`, `file_ids[]`, `input[0][file_id]`, `conversation[id]` and `filter.task_ids`.
    fn named(protocol: Protocol, name: &'n str) -> Option<Self> {
        // Where a page of a list begins or ends.
        const CURSORS: &[&str] = &["after", "before"];
        let whole = name.strip_suffix("[id]").unwrap_or(name);
        if table(protocol).required_fields.contains(&whole) {
            return Some(Self::Required(whole));
        }
        // A number is the index of an element.
        let is_name = |part: &&str| part.bytes().any(|byte| !byte.is_ascii_digit());
        let own_name = name.rsplit(['[', ']', '.']).find(is_name)?;
        (is_id_field(protocol, own_name) || CURSORS.contains(&name)).then_some(Self::Ids)
    }

    fn ids(&self, protocol: Protocol, value: &str, found: &mut impl FnMut(RefKind, &str)) {
        match self {
            Self::Required(field) => required(protocol, field, value, found),
            Self::Ids => {
                for value in value.split(',') {
                    candidate_ids(protocol, value.trim(), &mut |id| {
                        found(RefKind::IdField, id)
                    });
                }
            }
        }
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
