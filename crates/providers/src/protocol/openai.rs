//! OpenAI's protocol: its endpoints, and our own answers in its form.
//!
//! Must never know which providers speak it.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::{Endpoint, ListedModel, Lookup, ModelIn, OwnError, Protocol, Repeat};

pub(super) fn lookup(method: &Method, path: &str, headers: &HeaderMap) -> Option<Lookup> {
    let post = |model| Endpoint::post(Protocol::OpenAi, model);
    let endpoint = match path {
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/embeddings"
        | "/v1/images/generations"
        | "/v1/audio/speech"
        | "/v1/rerank" => post(ModelIn::Body),
        "/v1/responses" => Endpoint {
            repeat: Repeat::NeverIfStored,
            ..post(ModelIn::Body)
        },
        "/v1/moderations" => post(ModelIn::OptionalBody),
        "/v1/images/edits" if is_json(headers) => post(ModelIn::Body),
        "/v1/images/edits" | "/v1/audio/transcriptions" | "/v1/audio/translations" => Endpoint {
            json: false,
            ..post(ModelIn::Form)
        },
        // They have one model, and its name may be left out.
        "/v1/images/variations" => Endpoint {
            json: false,
            ..post(ModelIn::OptionalForm)
        },
        _ => return of_response(method, path.strip_prefix("/v1/responses/")?),
    };
    Some(endpoint.only_for("POST", method))
}

/// A stored response, by what follows `/v1/responses/`.
fn of_response(method: &Method, below: &str) -> Option<Lookup> {
    let (id, rest) = below.split_once('/').unwrap_or((below, ""));
    let is_id = !id.is_empty() && !matches!(id, "compact" | "input_tokens");
    if !is_id || (below.contains('/') && rest.split('/').any(str::is_empty)) {
        return None;
    }
    let endpoint = Endpoint {
        by_object: true,
        repeat: Repeat::Never,
        ..Endpoint::get(Protocol::OpenAi)
    };
    Some(match *method {
        _ if rest == "cancel" => endpoint.only_for("POST", method),
        Method::GET => Lookup::Endpoint(Endpoint {
            repeat: Repeat::Safe,
            ..endpoint
        }),
        Method::DELETE => Lookup::Endpoint(endpoint),
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
    json!({"error": {"message": error.message, "type": kind, "param": null, "code": error.code}})
}

pub(super) fn model_list(models: &[ListedModel]) -> Value {
    json!({"object": "list", "data": models.iter().map(model_object).collect::<Vec<_>>()})
}

pub(super) fn model_object(model: &ListedModel) -> Value {
    json!({"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by})
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}
