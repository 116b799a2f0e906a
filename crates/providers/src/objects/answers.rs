//! What a response says about objects. Only the fields in which a provider says what it created are read, since a
//! response may repeat anything that the caller sent.

use http::{HeaderMap, HeaderValue, Method};

use super::json;
use super::names::{canonical_id, segments};
use super::table::{Field, table};
use crate::protocol::{self, Protocol};
use crate::read::json_scan;

/// Maximum number of ids taken from one response.
pub(super) const MAX_IDS: usize = 16;

/// Methods of Gemini's models that create a task.
const GEMINI_TASKS: &[&str] = &[
    "predictLongRunning",
    "batchGenerateContent",
    "asyncBatchEmbedContent",
];

/// Actions on an object that create another: a remix of a video, the file of an upload, a conversation from some point.
const MAKING: &[&str] = &["remix", "complete", "restart"];

/// What a successful call does to the objects of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEffect {
    /// It creates objects.
    Creates,
    /// It may begin an upload in several steps.
    BeginsUpload,
    /// It reads this object, which may list others that the provider created for it.
    Lists(String),
    /// It deletes this object.
    Deletes(String),
}

/// The effect of `method` on `path`; `None` if it has none.
///
/// `path` is percent-encoded as sent, and begins at the provider's root or at its version. `store` is the body's field.
pub fn object_effect(
    protocol: Protocol,
    method: &Method,
    path: &str,
    store: Option<bool>,
) -> Option<ObjectEffect> {
    let segments = segments(path);
    let is_upload = protocol == Protocol::Gemini && segments.first()? == "upload";
    if *method == Method::POST && protocol == Protocol::Gemini {
        let verb = segments.last()?.rsplit_once(':').map(|(_, verb)| verb);
        if verb.is_some_and(|verb| GEMINI_TASKS.contains(&verb)) {
            return Some(ObjectEffect::Creates);
        }
    }
    let Some((collection, rest)) = table(protocol).find(&segments) else {
        return is_upload.then_some(ObjectEffect::BeginsUpload);
    };
    match (method, rest) {
        (&Method::POST, []) => match collection.at {
            ["responses"] => (store != Some(false)).then_some(ObjectEffect::Creates),
            ["chat", "completions"] => (store == Some(true)).then_some(ObjectEffect::Creates),
            _ => Some(ObjectEffect::Creates),
        },
        // The last piece of an upload in several steps.
        (&Method::PUT, []) if is_upload => Some(ObjectEffect::Creates),
        (&Method::POST | &Method::PUT, _) if is_upload => Some(ObjectEffect::BeginsUpload),
        (&Method::POST, [verb]) if table(protocol).verbs.contains(&&**verb) => {
            Some(ObjectEffect::Creates)
        }
        (&Method::POST, [_, verb]) if MAKING.contains(&&**verb) => Some(ObjectEffect::Creates),
        (&Method::GET, [id]) if !collection.shows.is_empty() => Some(ObjectEffect::Lists(
            canonical_id(protocol, collection.at, id)?,
        )),
        (&Method::DELETE, [id]) => Some(ObjectEffect::Deletes(canonical_id(
            protocol,
            collection.at,
            id,
        )?)),
        _ => None,
    }
}

/// The ids of created objects in a response, or in the first event of a stream. The text may be cut off.
pub fn created_ids(
    protocol: Protocol,
    effect: &ObjectEffect,
    path: &str,
    answer: &[u8],
) -> Vec<String> {
    // A task of a Gemini model has no collection in its path.
    const TASK: &[Field] = &[&["name"]];
    const COMPLETED: &[Field] = &[&["file", "id"]];
    let segments = segments(path);
    let found = table(protocol).find(&segments);
    let here = found.map_or(&[][..], |(collection, _)| collection.at);
    let fields = match (effect, found) {
        (ObjectEffect::Creates, Some((_, [_, verb]))) if verb == "complete" => COMPLETED,
        (ObjectEffect::Creates, Some((collection, _))) => collection.made,
        (ObjectEffect::Creates, None) => TASK,
        (ObjectEffect::Lists(_), Some((collection, _))) => collection.shows,
        _ => &[],
    };
    let mut ids = Vec::new();
    json::strings_at(answer, fields, |id| {
        if ids.len() < MAX_IDS {
            ids.extend(canonical_id(protocol, here, id));
        }
    });
    ids
}

/// The id of an upload in several steps. Gemini gives it as a parameter of the address for the next step; the first
/// address with one counts.
pub fn upload_session(headers: &HeaderMap) -> Option<String> {
    let id_in = |next: &HeaderValue| protocol::upload_id(next.to_str().ok()?.split_once('?')?.1);
    headers.get_all("x-goog-upload-url").iter().find_map(id_in)
}

/// Whether a body says that the call continues after its response (`background`), or adds to a conversation.
pub fn makes_though_not_stored(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    json_scan::pick(text, ["background", "conversation"]).is_some_and(
        |[background, conversation]| {
            background == Some("true") || conversation.is_some_and(|named| named != "null")
        },
    )
}
