//! Gemini's generateContent protocol: its endpoints, and our own answers in its form.
//!
//! Must never know which providers speak it.

use std::ops::Range;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::collections::{self, Collection};
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

/// The collections that only Gemini has, below the version.
const OWN: [Collection; 4] = [
    Collection::new("cachedContents").naming_model(),
    Collection::new("tunedModels").hiding_model(),
    Collection::new("fileSearchStores"),
    Collection::new("operations").without_creation(),
];
/// Collections whose paths other protocols have too, below their version `v1`.
const SHARED: [Collection; 2] = [
    Collection::new("files"),
    Collection::new("batches").without_creation(),
];

/// Finds a POST to `…/models/{model}:{method}`, or a call of an object. Other methods of the former belong to the model
/// lists.
pub(super) fn lookup(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Lookup> {
    if let Some(found) = of_object(method, path, headers, query) {
        return Some(found);
    }
    if method != Method::POST || !under_models(path)?.contains(':') {
        return None;
    }
    let Some((model, call)) = split_call(path) else {
        return Some(Lookup::Unknown(Protocol::Gemini));
    };
    Some(Lookup::Endpoint(Endpoint {
        json: true,
        ..of_method(call, ModelIn::Path(model))
    }))
}

/// A POST of a method of a model.
fn of_method(call: &str, model: ModelIn) -> Endpoint {
    Endpoint {
        repeat: if REPEATABLE.contains(&call) {
            Repeat::Safe
        } else {
            Repeat::Never
        },
        generates: call != "countTokens",
        stream_by_path: call == "streamGenerateContent",
        ..Endpoint::post(Protocol::Gemini, model)
    }
}

/// A call of an object, or of a collection of objects.
fn of_object(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Lookup> {
    let gemini = Protocol::Gemini;
    if let Some(below) = path.strip_prefix("/upload") {
        return of_upload(method, below, query);
    }
    let is_beta = path.starts_with("/v1beta/");
    let rest = path
        .strip_prefix("/v1beta")
        .or_else(|| path.strip_prefix("/v1"))?;
    if rest == "/interactions" && *method == Method::POST {
        return Some(Lookup::Endpoint(Endpoint {
            json: true,
            generates: true,
            repeat: Repeat::NeverIfStored,
            hides_model: true,
            model: collections::optional_model(headers),
            ..collections::creation(gemini)
        }));
    }
    if let Some(call) = method_of_tuned_model(rest).filter(|_| *method == Method::POST) {
        return Some(Lookup::Endpoint(Endpoint {
            by_object: true,
            objects: true,
            hides_model: true,
            json: false,
            ..of_method(call, ModelIn::Nowhere)
        }));
    }
    if is_operation_of_model(rest) {
        let endpoint = collections::of_object(gemini, method);
        return Some(Lookup::Endpoint(endpoint));
    }
    let is_googles = is_beta || protocol_of_headers(headers, query) == gemini;
    let interactions = Collection::new("interactions");
    let shared = SHARED.iter().filter(|_| is_googles);
    let (collection, below) = OWN
        .iter()
        .chain(shared)
        .chain([&interactions])
        .find_map(|collection| Some((collection, collection.below(rest)?)))?;
    Some(collection.lookup(gemini, method, below, headers))
}

/// An upload: to the files, or to a store. `below` follows `/upload`.
fn of_upload(method: &Method, below: &str, query: Option<&str>) -> Option<Lookup> {
    let rest = below
        .strip_prefix("/v1beta")
        .or_else(|| below.strip_prefix("/v1"))?;
    let is_of_store = Collection::new("fileSearchStores").below(rest).is_some();
    Some(Lookup::Endpoint(match rest {
        "/files" if query.and_then(upload_id).is_none() => creation_of_file(method),
        "/files" => collections::of_object(Protocol::Gemini, method),
        _ if is_of_store && rest.contains(':') => collections::of_object(Protocol::Gemini, method),
        _ => return None,
    }))
}

fn creation_of_file(method: &Method) -> Endpoint {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    Endpoint {
        repeat: if is_read { Repeat::Safe } else { Repeat::Never },
        ..collections::creation(Protocol::Gemini)
    }
}

/// The method in `/tunedModels/{id}:{method}`.
fn method_of_tuned_model(rest: &str) -> Option<&str> {
    let (id, call) = rest.strip_prefix("/tunedModels/")?.split_once(':')?;
    let is_call = !id.is_empty() && !call.is_empty() && !rest[1..].contains("//");
    (is_call && !id.contains('/') && !call.contains(['/', ':'])).then_some(call)
}

/// `/models/{model}/operations/{id}`: a task of a model, which is an object and not a model whose name has slashes.
pub(super) fn is_operation_of_model(rest: &str) -> bool {
    let Some(below) = rest.strip_prefix("/models/") else {
        return false;
    };
    let mut segments = below.split('/');
    segments
        .by_ref()
        .next()
        .is_some_and(|model| !model.is_empty())
        && segments.by_ref().next() == Some("operations")
        && segments.by_ref().next().is_some_and(|id| !id.is_empty())
        && segments.next().is_none()
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
    let mut info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.code.to_ascii_uppercase(),
        "domain": "keypool",
        "metadata": {"code": error.code},
    });
    if let Some(dimension) = error.dimension {
        info["metadata"]["dimension"] = dimension.into();
    }
    let mut details = vec![info];
    // Google's own programs wait as long as this says.
    details.extend(error.retry_after.map(|seconds| {
        json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{seconds}s"),
        })
    }));
    json!({"error": {"code": error.status, "message": error.message, "status": status, "details": details}})
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
