//! Anthropic's Messages protocol: its endpoints, and our own answers in its form.
//!
//! Must never know which providers speak it.

use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::collections::Collection;
use super::{Endpoint, ListedModel, Lookup, ModelIn, OwnError, Protocol, protocol_of_headers};

const BATCHES: Collection = Collection::new("v1/messages/batches").hiding_model();
/// Collections whose paths other protocols have too.
const SHARED: [Collection; 2] = [Collection::new("v1/files"), Collection::new("v1/skills")];

pub(super) fn lookup(method: &Method, path: &str, headers: &HeaderMap) -> Option<Lookup> {
    let generates = match path {
        "/v1/messages" => true,
        "/v1/messages/count_tokens" => false,
        _ => return of_object(method, path, headers),
    };
    let endpoint = Endpoint {
        generates,
        ..Endpoint::post(Protocol::Anthropic, ModelIn::Body)
    };
    Some(endpoint.only_for("POST", method))
}

fn of_object(method: &Method, path: &str, headers: &HeaderMap) -> Option<Lookup> {
    let is_own = protocol_of_headers(headers, None) == Protocol::Anthropic;
    let shared = SHARED.iter().filter(|_| is_own);
    let (collection, below) = std::iter::once(&BATCHES)
        .chain(shared)
        .find_map(|collection| Some((collection, collection.below(path)?)))?;
    Some(collection.lookup(Protocol::Anthropic, method, below, headers))
}

pub(super) fn error(error: &OwnError<'_>) -> Value {
    let kind = match error.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    // SDKs read the code from `details`; people and other programs look for it next to the message.
    let mut details = json!({"error_code": error.code});
    if let Some(dimension) = error.dimension {
        details["dimension"] = dimension.into();
    }
    json!({"type": "error", "error": {"type": kind, "message": error.message, "code": error.code, "details": details}})
}

pub(super) fn model_list(models: &[ListedModel]) -> Value {
    json!({
        "data": models.iter().map(model_object).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": models.first().map(|model| &model.id),
        "last_id": models.last().map(|model| &model.id),
    })
}

pub(super) fn model_object(model: &ListedModel) -> Value {
    // Anthropic gives the epoch too if it knows no date.
    let created = Timestamp::from_second(model.created).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "type": "model",
        "id": model.id,
        "display_name": model.display_name.as_ref().unwrap_or(&model.id),
        "created_at": created.to_string(),
    })
}
