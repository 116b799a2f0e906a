//! OpenAI's protocol: its endpoints, and our own answers in its form.
//!
//! Must never know which providers speak it.

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::collections::{self, Collection, is_form, is_json};
use super::{Endpoint, ListedModel, Lookup, ModelIn, OwnError, Protocol, Repeat};

/// The collections of objects, below the version.
const COLLECTIONS: [Collection; 13] = [
    Collection::new("v1/files"),
    Collection::new("v1/batches").hiding_model(),
    Collection::new("v1/conversations").without_list(),
    Collection::new("v1/uploads").without_list(),
    Collection::new("v1/vector_stores"),
    Collection::new("v1/containers"),
    Collection::new("v1/fine_tuning/jobs").hiding_model(),
    Collection::new("v1/assistants").hiding_model(),
    Collection::new("v1/threads").without_list().hiding_model(),
    Collection::new("v1/evals").hiding_model(),
    Collection::new("v1/skills"),
    Collection::new("v1/chat/completions")
        .without_creation()
        .without_list(),
    Collection::new("v1/videos").hiding_model(),
];

pub(super) fn lookup(method: &Method, path: &str, headers: &HeaderMap) -> Option<Lookup> {
    let post = |model| Endpoint::post(Protocol::OpenAi, model);
    let form = |model| Endpoint {
        json: false,
        ..post(model)
    };
    let hiding = |endpoint| Endpoint {
        hides_model: true,
        ..endpoint
    };
    let endpoint = match path {
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/embeddings"
        | "/v1/audio/speech"
        | "/v1/rerank" => post(ModelIn::Body),
        "/v1/responses" => Endpoint {
            repeat: Repeat::NeverIfStored,
            requires_objects: true,
            hides_model: true,
            ..post(ModelIn::BodyOrPrompt)
        },
        "/v1/responses/compact" => Endpoint {
            requires_objects: true,
            ..post(ModelIn::Body)
        },
        "/v1/responses/input_tokens" => Endpoint {
            requires_objects: true,
            generates: false,
            ..post(ModelIn::OptionalBody)
        },
        "/v1/moderations" => post(ModelIn::OptionalBody),
        "/v1/images/generations" => hiding(post(ModelIn::OptionalBody)),
        "/v1/images/edits" if is_json(headers) => hiding(post(ModelIn::OptionalBody)),
        "/v1/images/edits" | "/v1/images/variations" => hiding(form(ModelIn::OptionalForm)),
        "/v1/audio/transcriptions" | "/v1/audio/translations" => form(ModelIn::Form),
        "/v1/videos" if is_form(headers) && *method == Method::POST => Endpoint {
            model: ModelIn::OptionalForm,
            hides_model: true,
            ..collections::creation(Protocol::OpenAi)
        },
        _ => return of_response(method, path.strip_prefix("/v1/responses/")?),
    };
    Some(endpoint.only_for("POST", method))
}

/// The endpoints of objects that are not OpenAI's alone come last: other protocols have the same paths.
pub(super) fn lookup_object(method: &Method, path: &str, headers: &HeaderMap) -> Option<Lookup> {
    let (collection, below) = COLLECTIONS
        .iter()
        .find_map(|collection| Some((collection, collection.below(path)?)))?;
    Some(collection.lookup(Protocol::OpenAi, method, below, headers))
}

/// A stored response, by what follows `/v1/responses/`.
fn of_response(method: &Method, below: &str) -> Option<Lookup> {
    if below.split('/').any(str::is_empty) {
        return None;
    }
    let endpoint = collections::of_object(Protocol::OpenAi, method);
    let action = below.split_once('/').map(|(_, action)| action);
    Some(match *method {
        _ if action == Some("cancel") => endpoint.only_for("POST", method),
        Method::GET | Method::DELETE => Lookup::Endpoint(endpoint),
        _ => Lookup::MethodNotAllowed(Protocol::OpenAi, "GET, DELETE"),
    })
}

pub(super) fn error(error: &OwnError<'_>) -> Value {
    let kind = match error.status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        503 => "service_unavailable_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let mut body =
        json!({"message": error.message, "type": kind, "param": null, "code": error.code});
    if let Some(dimension) = error.dimension {
        body["dimension"] = dimension.into();
    }
    json!({ "error": body })
}

pub(super) fn model_list(models: &[ListedModel]) -> Value {
    json!({"object": "list", "data": models.iter().map(model_object).collect::<Vec<_>>()})
}

pub(super) fn model_object(model: &ListedModel) -> Value {
    json!({"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by})
}
