//! Objects that the mock keeps for whoever made them: files, batches, conversations, tasks, cached contents.
//!
//! To every key but those of its maker's organisation an object does not exist. It must never know of sockets or steps.

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;

use crate::answer::{Answer, Kind as Wrong, Protocol, Trouble, quoted, rfc3339};
use crate::call::{Call, decoded};
use crate::state::Progress;

/// One kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The path below the version.
    collection: &'static str,
    /// How its ids begin.
    prefix: &'static str,
    /// What `object` or `type` says.
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
    // Made elsewhere: only what is below one is answered here.
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

/// What a path calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Make(Kind),
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
            let rest = path.strip_prefix(kind.collection);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let kind = *kinds.iter().find(of_kind)?;
        let rest = path[kind.collection.len()..].trim_start_matches('/');
        if rest.is_empty() {
            let made_here = kind.object != "response";
            return (*method == Method::POST && made_here).then_some(Endpoint::Make(kind));
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

/// The normal answer.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, Trouble> {
    let json = |text| Answer::json(call.protocol, call.state, text);
    match endpoint {
        Endpoint::Make(kind) => make(*kind, call).map(json),
        Endpoint::Get(kind, id) => {
            known(call, id)?;
            Ok(json(shown(*kind, call, id)))
        }
        Endpoint::Delete(kind, id) => {
            known(call, id)?;
            call.state.disown(id);
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

/// The answer to the last step of an upload: the new file.
pub(crate) fn uploaded(call: &Call<'_>, progress: &Progress) -> Answer {
    let [_, file] = GEMINI;
    let id = call.state.id(file.prefix);
    call.state.own(&id, call.key);
    let (size, mime_type) = (progress.received, quoted(&progress.mime_type));
    let more = format!(r#"{{"sizeBytes":"{size}","mimeType":{mime_type},"#);
    let shown = shown(file, call, &id).replacen('{', &more, 1);
    Answer::json(call.protocol, call.state, format!(r#"{{"file":{shown}}}"#))
}

fn make(kind: Kind, call: &Call<'_>) -> Result<String, Trouble> {
    if kind.object == "batch" {
        let body: Body = call.parse()?;
        let file = body
            .input_file_id
            .ok_or_else(|| Trouble::invalid("Missing required parameter: 'input_file_id'."))?;
        known(call, &file)?;
    }
    let id = call.state.id(kind.prefix);
    call.state.own(&id, call.key);
    if kind.object == "batch" {
        call.state.own(&output_of(&id), call.key);
    }
    let shown = shown(kind, call, &id);
    let in_file = call.protocol == Protocol::Gemini && kind.object == "file";
    Ok(if in_file {
        format!(r#"{{"file":{shown}}}"#)
    } else {
        shown
    })
}

/// The file that a batch's results are in.
fn output_of(batch: &str) -> String {
    batch.replacen("batch_", "file-out", 1)
}

fn shown(kind: Kind, call: &Call<'_>, id: &str) -> String {
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

fn known(call: &Call<'_>, id: &str) -> Result<(), Trouble> {
    if call.state.owns(id, call.key) {
        Ok(())
    } else {
        // Ark's `NotFound` of a model is another.
        let wrong = match call.protocol {
            Protocol::Ark => Wrong::Other,
            _ => Wrong::NotFound,
        };
        Err(Trouble::new(404, wrong, format!("No such object: {id}")))
    }
}
