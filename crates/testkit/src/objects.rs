//! Objects that keys create: files, batches, conversations, tasks, cached contents.
//!
//! An object exists only for the keys of the organisation that created it. This module must never know of sockets or
//! steps.

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;

use crate::answer::{Answer, ApiError, Kind as ErrorKind, Protocol, quoted, rfc3339};
use crate::call::{Call, decoded};
use crate::state::Progress;

/// One kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The path below the version.
    collection: &'static str,
    /// The prefix of its ids.
    prefix: &'static str,
    /// The value of `object` or `type`.
    object: &'static str,
}

const fn kind(collection: &'static str, prefix: &'static str, object: &'static str) -> Kind {
    Kind {
        collection,
        prefix,
        object,
    }
}

const OPENAI: [Kind; 7] = [
    kind("/files", "file-", "file"),
    kind("/batches", "batch_", "batch"),
    kind("/conversations", "conv_", "conversation"),
    kind("/vector_stores", "vs_", "vector_store"),
    kind("/videos", "video_", "video"),
    kind("/contents/generations/tasks", "cgt-", "task"),
    // Created elsewhere: only the paths below one are served here.
    kind("/responses", "resp_", "response"),
];
const ANTHROPIC: [Kind; 2] = [
    kind("/messages/batches", "msgbatch_", "message_batch"),
    kind("/files", "file_", "file"),
];
const GEMINI: [Kind; 2] = [
    kind("/cachedContents", "cachedContents/", "cachedContent"),
    kind("/files", "files/", "file"),
];

/// The endpoint of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Create(Kind),
    Get(Kind, String),
    Delete(Kind, String),
    /// `cancel`, `content`, `results`, …
    Below(Kind, String, String),
}

impl Endpoint {
    /// The endpoint of a path without its version prefix.
    pub(crate) fn of(protocol: Protocol, method: &Method, path: &str) -> Option<Self> {
        let kinds: &[Kind] = match protocol {
            Protocol::OpenAi | Protocol::Ark => &OPENAI,
            Protocol::Anthropic => &ANTHROPIC,
            Protocol::Gemini => &GEMINI,
            Protocol::Tavily => &[],
        };
        let path = path.strip_prefix("/upload").unwrap_or(path);
        let of_kind = |kind: &&Kind| {
            let below = path.strip_prefix(kind.collection);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        };
        let kind = *kinds.iter().find(of_kind)?;
        let rest = path[kind.collection.len()..].trim_start_matches('/');
        if rest.is_empty() {
            let created_here = kind.object != "response";
            return (*method == Method::POST && created_here).then_some(Endpoint::Create(kind));
        }
        let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
        let id = match protocol {
            Protocol::Gemini => [kind.prefix, &decoded(id)].concat(),
            _ => decoded(id),
        };
        match *method {
            _ if !below.is_empty() => Some(Endpoint::Below(kind, id, below.to_owned())),
            _ if kind.object == "response" => None,
            Method::GET => Some(Endpoint::Get(kind, id)),
            Method::DELETE => Some(Endpoint::Delete(kind, id)),
            _ => None,
        }
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    let json = |text| Answer::json(call.protocol, call.state, text);
    match endpoint {
        Endpoint::Create(kind) => create(*kind, call).map(json),
        Endpoint::Get(kind, id) => {
            known(call, id)?;
            Ok(json(object_json(*kind, call, id)))
        }
        Endpoint::Delete(kind, id) => {
            known(call, id)?;
            call.state.delete(id);
            let (id, object) = (quoted(id), kind.object);
            Ok(json(format!(
                r#"{{"id":{id},"object":"{object}","deleted":true}}"#
            )))
        }
        Endpoint::Below(_, id, below) if below == "content" || below == "results" => {
            known(call, id)?;
            let text = Bytes::from_static(b"{\"custom_id\":\"made-up\"}\n");
            let kind = HeaderValue::from_static("application/octet-stream");
            Ok(Answer::whole(call.protocol, call.state, kind, text))
        }
        Endpoint::Below(kind, id, below) => {
            known(call, id)?;
            let (id, object, below) = (quoted(id), kind.object, quoted(below));
            Ok(json(format!(
                r#"{{"id":{id},"object":"{object}","below":{below},"data":[]}}"#
            )))
        }
    }
}

#[derive(Default, Deserialize)]
struct Body {
    input_file_id: Option<String>,
}

/// The response to the last step of an upload: the new file.
pub(crate) fn uploaded(call: &Call<'_>, progress: &Progress) -> Answer {
    let [_, file] = GEMINI;
    let id = call.state.id(file.prefix);
    call.state.own(&id, call.key);
    let (size, mime_type) = (progress.received, quoted(&progress.mime_type));
    let more = format!(r#"{{"sizeBytes":"{size}","mimeType":{mime_type},"#);
    let object_json = object_json(file, call, &id).replacen('{', &more, 1);
    Answer::json(
        call.protocol,
        call.state,
        format!(r#"{{"file":{object_json}}}"#),
    )
}

fn create(kind: Kind, call: &Call<'_>) -> Result<String, ApiError> {
    if kind.object == "batch" {
        let body: Body = call.parse()?;
        let file = body
            .input_file_id
            .ok_or_else(|| ApiError::invalid("Missing required parameter: 'input_file_id'."))?;
        known(call, &file)?;
    }
    let id = call.state.id(kind.prefix);
    call.state.own(&id, call.key);
    if kind.object == "batch" {
        call.state.own(&output_of(&id), call.key);
    }
    let object_json = object_json(kind, call, &id);
    let in_file = call.protocol == Protocol::Gemini && kind.object == "file";
    Ok(if in_file {
        format!(r#"{{"file":{object_json}}}"#)
    } else {
        object_json
    })
}

/// The id of the file with a batch's results.
fn output_of(batch: &str) -> String {
    batch.replacen("batch_", "file-out", 1)
}

fn object_json(kind: Kind, call: &Call<'_>, id: &str) -> String {
    let (object, created) = (kind.object, call.state.unix());
    let quoted_id = quoted(id);
    match (call.protocol, object) {
        (Protocol::Gemini, _) => {
            let time = rfc3339(created);
            let uri = quoted(&format!(
                "https://generativelanguage.googleapis.com/v1beta/{id}"
            ));
            format!(r#"{{"name":{quoted_id},"uri":{uri},"createTime":"{time}","state":"ACTIVE"}}"#)
        }
        (Protocol::Anthropic, "message_batch") => {
            let time = rfc3339(created);
            let results = quoted(&format!(
                "https://api.anthropic.com/v1/messages/batches/{id}/results"
            ));
            format!(
                r#"{{"id":{quoted_id},"type":"{object}","processing_status":"ended","created_at":"{time}","results_url":{results}}}"#
            )
        }
        (Protocol::Anthropic, _) => {
            let time = rfc3339(created);
            format!(r#"{{"id":{quoted_id},"type":"{object}","created_at":"{time}"}}"#)
        }
        (_, "batch") => {
            let output = quoted(&output_of(id));
            format!(
                r#"{{"id":{quoted_id},"object":"batch","status":"completed","created_at":{created},"output_file_id":{output},"error_file_id":null}}"#
            )
        }
        _ => format!(
            r#"{{"id":{quoted_id},"object":"{object}","created_at":{created},"status":"completed"}}"#
        ),
    }
}

fn known(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    if call.state.owns(id, call.key) {
        Ok(())
    } else {
        // Ark's `NotFound` for a model is another error.
        let kind = match call.protocol {
            Protocol::Ark => ErrorKind::Other,
            _ => ErrorKind::NotFound,
        };
        Err(ApiError::new(404, kind, format!("No such object: {id}")))
    }
}
