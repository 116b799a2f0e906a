//! Objects that a provider keeps for the account that made them: files, batches, stored responses, tasks and the like.
//! Which calls make them, read them and end them, and where requests and answers name them.
//!
//! An id is spelt here as a request's body or path spells it; Gemini's with its collection (`files/abc`).
//! Sources: the endpoint lists of the providers' own SDKs; SiliconFlow's video API (`/video/submit`, `requestId`). Must never know a key, a pool or a caller.

mod json;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use crate::protocol::Protocol;
use crate::scan;

/// The longest id.
const MAX_ID: usize = 256;
/// The most ids taken from one answer.
const MAX_IDS: usize = 16;

/// A protocol's table.
struct Table {
    /// Where objects live: the segments of the path before an id.
    collections: &'static [&'static [&'static str]],
    /// What may follow a collection and is no id: these calls make something too.
    verbs: &'static [&'static str],
    /// Top-level fields of a request that name an object.
    fields: &'static [&'static str],
    /// Where an answer to a call that makes something has its id.
    made: &'static [&'static [&'static str]],
    /// Collections whose objects name further ones that the provider made: read with `GET`.
    yields: &'static [&'static [&'static str]],
}

const OPENAI: Table = Table {
    collections: &[
        &["responses"],
        &["files"],
        &["batches"],
        &["conversations"],
        &["uploads"],
        &["vector_stores"],
        &["containers"],
        &["videos"],
        &["fine_tuning", "jobs"],
        &["chat", "completions"],
        &["contents", "generations", "tasks"],
        &["context", "create"],
        &["batch", "jobs"],
        &["video", "submit"],
        &["assistants"],
        &["threads"],
        &["evals"],
        &["skills"],
    ],
    verbs: &[
        "input_tokens",
        "compact",
        "models",
        "runs",
        "edits",
        "extensions",
        "characters",
    ],
    fields: &[
        "previous_response_id",
        "conversation",
        "input_file_id",
        "context_id",
        "requestId",
        "training_file",
        "validation_file",
    ],
    made: &[
        &["response", "id"],
        &["id"],
        &["file", "id"],
        &["requestId"],
    ],
    yields: &[&["batches"], &["batch", "jobs"]],
};

const ANTHROPIC: Table = Table {
    collections: &[&["messages", "batches"], &["files"], &["skills"]],
    verbs: &[],
    fields: &[],
    made: &[&["id"]],
    yields: &[],
};

const GEMINI: Table = Table {
    collections: &[
        &["files"],
        &["cachedContents"],
        &["batches"],
        &["operations"],
        &["interactions"],
        &["tunedModels"],
        &["fileSearchStores"],
    ],
    verbs: &[],
    fields: &["cachedContent", "cached_content", "previous_interaction_id"],
    made: &[
        &["name"],
        &["file", "name"],
        &["id"],
        &["interaction", "id"],
    ],
    yields: &[&["operations"], &["batches"]],
};

const TAVILY: Table = Table {
    collections: &[&["research"]],
    verbs: &[],
    fields: &[],
    made: &[&["request_id"]],
    yields: &[],
};

/// Gemini's calls of a model that make a task.
const GEMINI_TASKS: [&str; 3] = [
    "predictLongRunning",
    "batchGenerateContent",
    "asyncBatchEmbedContent",
];

fn table(protocol: Protocol) -> &'static Table {
    match protocol {
        Protocol::OpenAi => &OPENAI,
        Protocol::Anthropic => &ANTHROPIC,
        Protocol::Gemini => &GEMINI,
        Protocol::Tavily => &TAVILY,
    }
}

/// What the answer to a call tells of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tells {
    /// It made them.
    Made,
    /// It shows one, which may name others that the provider made for it.
    Yields,
    /// This one is gone.
    Gone(String),
}

/// How an id stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// The request is about this object.
    Needed,
    /// The text looks like an id; it may be anything.
    Perhaps,
}

/// What the answer to `method` on `path` tells of objects; `None`: nothing.
/// `path`: percent-encoded as sent, from the provider's root or from its version on. `store`: as the body has it.
pub fn tells(
    protocol: Protocol,
    method: &Method,
    path: &str,
    store: Option<bool>,
) -> Option<Tells> {
    let segments = segments(path);
    if *method == Method::POST && protocol == Protocol::Gemini {
        let verb = segments.last()?.rsplit_once(':').map(|(_, verb)| verb);
        if verb.is_some_and(|verb| GEMINI_TASKS.contains(&verb)) {
            return Some(Tells::Made);
        }
    }
    let (collection, rest) = collection(table(protocol), &segments)?;
    match (method, rest) {
        (&Method::POST, []) => match collection {
            ["responses"] => (store != Some(false)).then_some(Tells::Made),
            ["chat", "completions"] => (store == Some(true)).then_some(Tells::Made),
            _ => Some(Tells::Made),
        },
        (&Method::POST, [verb]) if table(protocol).verbs.contains(&&**verb) => Some(Tells::Made),
        (&Method::POST, [_, verb]) if verb == "remix" || verb == "complete" => Some(Tells::Made),
        (&Method::GET, [_]) if table(protocol).yields.contains(&collection) => Some(Tells::Yields),
        (&Method::DELETE, [id]) => Some(Tells::Gone(spelt(protocol, collection, id)?)),
        _ => None,
    }
}

/// The ids in an answer, or in the first event of a stream. The text may be cut off.
pub fn told(protocol: Protocol, tells: &Tells, path: &str, answer: &[u8]) -> Vec<String> {
    let table = table(protocol);
    let segments = segments(path);
    let here = collection(table, &segments).map_or(&[][..], |(collection, _)| collection);
    let mut ids = Vec::new();
    match tells {
        Tells::Made => {
            for place in table.made {
                let id = json::string_at(answer, place);
                ids.extend(id.and_then(|id| spelt(protocol, here, &id)));
            }
        }
        Tells::Yields => json::strings(answer, |place, id| {
            let of_provider = match protocol {
                Protocol::Gemini => true,
                _ => place.field().is_some_and(|field| {
                    field.ends_with("_file_id") || matches!(field, "output_file" | "error_file")
                }),
            };
            if of_provider && ids.len() < MAX_IDS {
                ids.extend(spelt(protocol, &[], id).filter(|id| looks_like_an_id(protocol, id)));
            }
        }),
        Tells::Gone(_) => {}
    }
    ids.truncate(MAX_IDS);
    ids
}

/// The id of an upload in several steps, which Gemini gives as a parameter of the address for the next step.
pub fn upload_session(headers: &HeaderMap) -> Option<String> {
    let next = headers.get("x-goog-upload-url")?.to_str().ok()?;
    let (_, query) = next.split_once('?')?;
    query.split('&').find_map(upload_id)
}

fn upload_id(pair: &str) -> Option<String> {
    let value = pair.strip_prefix("upload_id=")?;
    let value = percent_decode_str(value).decode_utf8().ok()?;
    fits(&value).then(|| format!("upload_id={value}"))
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
    while let Some((collection, after)) = collection(table, rest) {
        rest = after;
        let Some((id, after)) = after.split_first() else {
            break;
        };
        if table.verbs.contains(&&**id) {
            continue;
        }
        if let Some(id) = spelt(protocol, collection, id) {
            mention(how, &id);
        }
        how = Mention::Perhaps;
        rest = after;
    }
    for segment in &all {
        perhaps(protocol, segment, &mut mention);
    }
    for pair in query.unwrap_or_default().split('&') {
        if let Some(id) = upload_id(pair) {
            mention(Mention::Perhaps, &id);
        }
        let value = pair.split_once('=').map_or(pair, |(_, value)| value);
        let value = percent_decode_str(value).decode_utf8_lossy();
        value
            .split(',')
            .for_each(|id| perhaps(protocol, id, &mut mention));
    }
}

/// Calls `mention` with every id in a JSON body: those in the fields for it, and every string that looks like one.
pub fn in_body(protocol: Protocol, body: &[u8], mut mention: impl FnMut(Mention, &str)) {
    let table = table(protocol);
    json::strings(body, |place, text| {
        let named = match (place.field(), place.inner()) {
            (Some(field), None) => table.fields.contains(&field).then_some(field),
            (Some("conversation"), Some("id")) => Some("conversation"),
            _ => None,
        };
        match named {
            Some(field) => {
                let collection: &[&str] = match field {
                    "previous_interaction_id" => &["interactions"],
                    "cachedContent" | "cached_content" => &["cachedContents"],
                    _ => &[],
                };
                if let Some(id) = spelt(protocol, collection, text) {
                    mention(Mention::Needed, &id);
                }
            }
            None => perhaps(protocol, text, &mut mention),
        }
    });
}

/// Whether a body says that the call runs on after its answer (`background`), or adds to a conversation.
pub fn makes_though_not_stored(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    scan::pick(text, ["background", "conversation"]).is_some_and(|[background, conversation]| {
        background == Some("true") || conversation.is_some_and(|named| named != "null")
    })
}

fn perhaps(protocol: Protocol, text: &str, mention: &mut impl FnMut(Mention, &str)) {
    if text.len() > 4 * MAX_ID || !looks_like_an_id(protocol, text) {
        return;
    }
    if let Some(id) = spelt(protocol, &[], text) {
        mention(Mention::Perhaps, &id);
    }
}

/// Whether a string is worth looking up.
fn looks_like_an_id(protocol: Protocol, text: &str) -> bool {
    match protocol {
        Protocol::Gemini => text.contains('/'),
        _ => fits(text) && text.len() > 3 && text.contains(['-', '_']),
    }
}

fn fits(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An id in its one spelling. Gemini's stand as `files/abc` in bodies, and inside addresses and longer names.
fn spelt(protocol: Protocol, collection: &[&str], text: &str) -> Option<String> {
    if protocol != Protocol::Gemini {
        return fits(text).then(|| text.to_owned());
    }
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
    let (of, id) = match self::collection(&GEMINI, &parts) {
        Some((of, [id, ..])) => (of, id.as_str()),
        _ if parts.len() == 1 => (collection, text),
        _ => return None,
    };
    let id = id.split(':').next().unwrap_or_default();
    let id = format!("{}/{id}", of.first()?);
    (fits(&id) && !id.ends_with('/')).then_some(id)
}

/// The path's segments, decoded once; encoded slashes and backslashes end a segment too.
fn segments(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let segments = decoded.split(['/', '\\']);
    segments
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first collection among the segments, and what follows it.
fn collection<'s>(
    table: &Table,
    segments: &'s [String],
) -> Option<(&'static [&'static str], &'s [String])> {
    (0..segments.len()).find_map(|at| {
        let here = &segments[at..];
        let found = table.collections.iter().find(|names| {
            names.len() <= here.len() && names.iter().zip(here).all(|(n, s)| n == s)
        })?;
        Some((*found, &here[found.len()..]))
    })
}

#[cfg(test)]
mod tests;
