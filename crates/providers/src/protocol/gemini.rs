//! Gemini's generateContent protocol: its endpoints, and our own answers in its form.
//!
//! Must never know which providers speak it.

use std::ops::Range;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Endpoint, ListedModel, Lookup, ModelIn, OwnError, Protocol, Repeat, protocol_of_headers,
};

/// Methods that cost money at worst; any other may create a task or an object.
const REPEATABLE: &[&str] = &[
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "predict",
];

/// Maximum length of an upload's id, in bytes.
const MAX_UPLOAD_ID: usize = 1024;

/// Finds a POST to `…/models/{model}:{method}`, or a path of files. Other methods of the former belong to the model
/// lists.
pub(super) fn lookup(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Lookup> {
    if let Some(endpoint) = of_files(method, path, headers, query) {
        return Some(Lookup::Endpoint(endpoint));
    }
    if method != Method::POST || !under_models(path)?.contains(':') {
        return None;
    }
    let Some((model, call)) = split_call(path) else {
        return Some(Lookup::Unknown(Protocol::Gemini));
    };
    Some(Lookup::Endpoint(Endpoint {
        repeat: if REPEATABLE.contains(&call) {
            Repeat::Safe
        } else {
            Repeat::Never
        },
        generates: call != "countTokens",
        stream_by_path: call == "streamGenerateContent",
        ..Endpoint::post(Protocol::Gemini, ModelIn::Path(model))
    }))
}

/// The paths without a pool's name that Google's SDK calls to upload and use a file. `/v1/files` is OpenAI's too.
fn of_files(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Endpoint> {
    let is_google = || protocol_of_headers(headers, query) == Protocol::Gemini;
    let files = path
        .strip_prefix("/v1beta/files")
        .or_else(|| path.strip_prefix("/v1/files").filter(|_| is_google()));
    let by_object = match (path, files) {
        ("/upload/v1beta/files" | "/upload/v1/files", _) => query.and_then(upload_id).is_some(),
        (_, Some("")) => false,
        (_, below) if below?.strip_prefix('/')?.is_empty() => return None,
        _ => true,
    };
    let repeat = match *method {
        Method::GET | Method::HEAD => Repeat::Safe,
        _ => Repeat::Never,
    };
    Some(Endpoint {
        repeat,
        by_object,
        native: true,
        ..Endpoint::get(Protocol::Gemini)
    })
}

/// The first `upload_id=…` of a query, decoded. It identifies the upload in the later steps (`x-goog-upload-url`).
pub fn upload_id(query: &str) -> Option<String> {
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
    let value = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (decoded(name) == "upload_id").then(|| decoded(value))
    })?;
    let fits = (1..=MAX_UPLOAD_ID).contains(&value.len());
    (fits && value.bytes().all(|byte| byte.is_ascii_graphic()))
        .then(|| format!("upload_id={value}"))
}

/// The model's range in `…/models/{model}:{method}`, and the method. The last colon separates them.
pub(super) fn split_call(path: &str) -> Option<(Range<usize>, &str)> {
    let rest = under_models(path)?;
    let (model, call) = rest.rsplit_once(':')?;
    if model.is_empty() || call.is_empty() || rest.contains('/') {
        return None;
    }
    let start = path.len() - rest.len();
    Some((start..start + model.len(), call))
}

/// What follows `/v1beta/models/` or `/v1/models/`.
pub(super) fn under_models(path: &str) -> Option<&str> {
    path.strip_prefix("/v1beta/models/")
        .or_else(|| path.strip_prefix("/v1/models/"))
}

pub(super) fn error(error: &OwnError<'_>) -> Value {
    let status = match error.status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        405 => "UNIMPLEMENTED",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        502 | 503 => "UNAVAILABLE",
        408 | 504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.code.to_ascii_uppercase(),
        "domain": "keypool",
        "metadata": {"code": error.code},
    });
    json!({"error": {"code": error.status, "message": error.message, "status": status, "details": [info]}})
}

pub(super) fn model_list(models: &[ListedModel]) -> Value {
    json!({"models": models.iter().map(model_object).collect::<Vec<_>>()})
}

pub(super) fn model_object(model: &ListedModel) -> Value {
    json!({
        "name": format!("models/{}", model.id),
        "displayName": model.display_name.as_ref().unwrap_or(&model.id),
        "supportedGenerationMethods": methods_of(&model.id),
    })
}

/// The methods of a model, derived from its name: other providers' lists do not have them, and clients filter by them.
fn methods_of(id: &str) -> &'static [&'static str] {
    if id.contains("embed") {
        &["embedContent", "batchEmbedContents", "countTokens"]
    } else if id.contains("imagen") {
        &["predict"]
    } else if id.contains("veo-") {
        &["predictLongRunning"]
    } else {
        &["generateContent", "streamGenerateContent", "countTokens"]
    }
}
