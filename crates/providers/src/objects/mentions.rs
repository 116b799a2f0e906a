//! Where a request names objects: its path, its query, its body, be it JSON or a form.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode_str;

use super::json::{self, Place, Raw};
use super::names::{MAX_TEXT, is_name_or_address, possible, segments, spelt};
use super::table::table;
use crate::protocol::{self, Protocol};

/// The longest line of a form that may be an id.
const MAX_LINE: usize = 8 * 1024;

/// How an id stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mention {
    /// The text looks like an id; it may be anything.
    Perhaps,
    /// It stands where ids stand, such as `file_id`.
    Named,
    /// The request is about this object.
    Needed,
}

/// Calls `mention` with every id that `path` and `query` name.
pub fn in_path(
    protocol: Protocol,
    path: &str,
    query: Option<&str>,
    mut mention: impl FnMut(Mention, &str),
) {
    let table = table(protocol);
    let all = segments(path);
    let mut rest = &all[..];
    let mut how = Mention::Needed;
    while let Some((collection, after)) = table.find(rest) {
        rest = after;
        let Some((id, after)) = after.split_first() else {
            break;
        };
        if table.verbs.contains(&&**id) {
            continue;
        }
        if let Some(id) = spelt(protocol, collection.at, id) {
            mention(how, &id);
        }
        how = Mention::Named;
        rest = after;
    }
    for segment in &all {
        possible(protocol, segment, &mut |id| mention(Mention::Perhaps, id));
    }
    let query = query.unwrap_or_default();
    if protocol == Protocol::Gemini {
        for id in query.split('&').filter_map(protocol::upload_id) {
            mention(Mention::Needed, &id);
        }
    }
    in_pairs(protocol, query, &mut mention);
}

/// Calls `mention` with every id in a body: those in the fields for it, and every string that looks like one.
/// Read as JSON whatever it says it is; as a form too where `headers` say so.
pub fn in_body(
    protocol: Protocol,
    headers: &HeaderMap,
    body: &[u8],
    mut mention: impl FnMut(Mention, &str),
) {
    let media_type = headers.get_all(CONTENT_TYPE).iter();
    let media_type: Vec<u8> = media_type
        .flat_map(|value| value.as_bytes().to_ascii_lowercase())
        .collect();
    let says = |what: &[u8]| memchr::memmem::find(&media_type, what).is_some();
    // What such a form has of JSON is a file's, most likely, and a file may say anything.
    let is_of_files = media_type.starts_with(b"multipart/") && !says(b"json");
    json::strings(body, |place, text| {
        in_json(protocol, place, text, &mut |how, id| {
            mention(if is_of_files { Mention::Perhaps } else { how }, id);
        });
    });
    if says(b"urlencoded") {
        in_pairs(protocol, &String::from_utf8_lossy(body), &mut mention);
    }
    if says(b"multipart/") {
        in_parts(protocol, body, &mut mention);
    }
}

fn in_json(
    protocol: Protocol,
    place: &Place<'_>,
    text: &Raw<'_>,
    mention: &mut impl FnMut(Mention, &str),
) {
    let fields = table(protocol).fields;
    let field = fields.iter().find(|field| place.is(&[field]));
    let conversation = || place.is(&["conversation", "id"]) && fields.contains(&"conversation");
    if let Some(field) = field {
        needed(protocol, field, &text.read(), mention);
    } else if conversation() {
        needed(protocol, "conversation", &text.read(), mention);
    } else if !text.is_longer_than(MAX_TEXT) && !is_free_text(protocol, place) {
        let text = text.read();
        possible(protocol, &text, &mut |id| {
            if let Some(how) = by_place(protocol, place, &text) {
                mention(how, id);
            }
        });
    }
}

/// What the place of a text says of the ids in it. `None`: nothing takes them for ids there.
fn by_place(protocol: Protocol, place: &Place<'_>, text: &str) -> Option<Mention> {
    let how = by_field(place.nearest_key().as_deref());
    (may_be_meant(protocol, how, text) && !is_of_a_call(protocol, place)).then_some(how)
}

/// Callers choose Gemini's names themselves, and any text with a slash may have one inside.
fn may_be_meant(protocol: Protocol, how: Mention, text: &str) -> bool {
    protocol != Protocol::Gemini || how != Mention::Perhaps || is_name_or_address(text)
}

/// What a model may call, how it does and what comes of it: Gemini looks for no names there.
fn is_of_a_call(protocol: Protocol, place: &Place<'_>) -> bool {
    const FIELDS: [&[&str]; 6] = [
        &["functionCall"],
        &["function_call"],
        &["functionDeclarations"],
        &["function_declarations"],
        &["functionResponse", "response"],
        &["function_response", "response"],
    ];
    protocol == Protocol::Gemini && FIELDS.iter().any(|fields| place.is_inside(fields))
}

/// What people and models write, and the caller's own notes.
fn is_free_text(protocol: Protocol, place: &Place<'_>) -> bool {
    place
        .own_key()
        .is_some_and(|key| matches!(&*key, "text" | "content"))
        || (protocol != Protocol::Gemini && place.is_below("metadata"))
}

/// What the name of a field says of its value.
fn by_field(field: Option<&str>) -> Mention {
    // What a caller calls its own things by.
    const OWN: [&str; 2] = ["custom_id", "user_id"];
    const ENDS: [&str; 7] = [
        "id",
        "ids",
        "Uri",
        "uri",
        "fileName",
        "StoreNames",
        "store_names",
    ];
    let field = field.unwrap_or_default();
    let means_an_id = field == "container" || ENDS.iter().any(|end| field.ends_with(end));
    if means_an_id && !OWN.contains(&field) {
        Mention::Named
    } else {
        Mention::Perhaps
    }
}

fn needed(protocol: Protocol, field: &str, text: &str, mention: &mut impl FnMut(Mention, &str)) {
    let collection: &[&str] = match field {
        "previousInteractionId" | "previous_interaction_id" => &["interactions"],
        "cachedContent" | "cached_content" => &["cachedContents"],
        _ => &[],
    };
    if let Some(id) = spelt(protocol, collection, text) {
        mention(Mention::Needed, &id);
    }
    // An address may hold more than one name, and whichever the provider takes must be the caller's.
    possible(protocol, text, &mut |id| mention(Mention::Named, id));
}

/// `a=b&c=d`: a query or a form.
fn in_pairs(protocol: Protocol, pairs: &str, mention: &mut impl FnMut(Mention, &str)) {
    for pair in pairs.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        let (name, value) = (decoded(name), decoded(value));
        in_field(protocol, &name, &value, mention);
        possible(protocol, &name, &mut |id| mention(Mention::Perhaps, id));
    }
}

/// A field of a form, or a parameter: `file_id`, `file_ids[]`, `conversation[id]`.
fn in_field(protocol: Protocol, name: &str, value: &str, mention: &mut impl FnMut(Mention, &str)) {
    let whole = name.strip_suffix("[id]").unwrap_or(name);
    if table(protocol).fields.contains(&whole) {
        return needed(protocol, whole, value, mention);
    }
    let inner = whole.rsplit(['[', ']']).find(|part| !part.is_empty());
    in_list(protocol, by_field(inner), value, mention);
}

/// `a,b`, or one value alone.
fn in_list(
    protocol: Protocol,
    how: Mention,
    values: &str,
    mention: &mut impl FnMut(Mention, &str),
) {
    for value in values.split(',') {
        let value = value.trim();
        if may_be_meant(protocol, how, value) {
            possible(protocol, value, &mut |id| mention(how, id));
        }
    }
}

/// The lines of a multipart form: ids in its fields, and what may be ids in its files. Each line is looked at: where a
/// part ends and what is a file is for the provider to judge, and no id may hide where the two of us differ.
fn in_parts(protocol: Protocol, body: &[u8], mention: &mut impl FnMut(Mention, &str)) {
    let mut part = Part::default();
    let mut is_head = false;
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.starts_with(b"--") {
            (part, is_head) = (Part::default(), true);
        } else if line.is_empty() {
            is_head = false;
        }
        if line.len() > MAX_LINE {
            continue;
        }
        let line = String::from_utf8_lossy(line);
        if is_head {
            part.learn(&line);
        }
        match part.field() {
            "" => in_list(protocol, Mention::Perhaps, &line, mention),
            name => in_field(protocol, name, &line, mention),
        }
    }
}

/// What the head of a part says of it.
#[derive(Default)]
struct Part {
    name: String,
    is_file: bool,
    /// How often it is said.
    said: usize,
}

impl Part {
    /// Takes `Content-Disposition: form-data; name="…"` out of the head.
    fn learn(&mut self, line: &str) {
        let Some((header, value)) = line.split_once(':') else {
            return;
        };
        if !header.trim().eq_ignore_ascii_case("content-disposition") {
            return;
        }
        self.said += 1;
        for (name, value) in parameters(value) {
            match &*name.to_ascii_lowercase() {
                "name" => value.clone_into(&mut self.name),
                "filename" | "filename*" => self.is_file = !value.is_empty(),
                _ => {}
            }
        }
    }

    /// The name of the field; empty for a file, whose lines are no values of a field.
    fn field(&self) -> &str {
        if self.is_file && self.said == 1 {
            ""
        } else {
            &self.name
        }
    }
}

/// `a=b; c="d"`, without the quotes.
fn parameters(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut is_quoted = false;
    let parts = text.split(move |c| {
        is_quoted ^= c == '"';
        c == ';' && !is_quoted
    });
    let pairs = parts.filter_map(|part| part.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
