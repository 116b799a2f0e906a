//! Tavily's protocol: its endpoints, and our own errors in its form.
//!
//! Must never know the pools that answer it.

use http::Method;
use serde_json::{Value, json};

use super::{Endpoint, Lookup, ModelIn, OwnError, Protocol, Repeat};

pub(super) fn lookup(method: &Method, path: &str) -> Option<Lookup> {
    // Research names a model, but only one of Tavily's sizes: it never chooses a pool.
    let post = |repeat| Endpoint {
        repeat,
        generates: false,
        ..Endpoint::post(Protocol::Tavily, ModelIn::Nowhere)
    };
    let found = match path {
        "/search" | "/extract" | "/crawl" | "/map" => post(Repeat::Safe).only_for("POST", method),
        "/research" => post(Repeat::Never).only_for("POST", method),
        "/usage" => Endpoint::get(Protocol::Tavily).only_for("GET", method),
        _ => {
            let id = path.strip_prefix("/research/")?;
            if id.is_empty() || id.contains('/') {
                return None;
            }
            let endpoint = Endpoint {
                by_object: true,
                ..Endpoint::get(Protocol::Tavily)
            };
            endpoint.only_for("GET", method)
        }
    };
    Some(found)
}

/// Tavily's SDKs show only the message in `detail.error`.
pub(super) fn error(error: &OwnError<'_>) -> Value {
    let mut detail = json!({"error": error.message, "code": error.code});
    if let Some(dimension) = error.dimension {
        detail["dimension"] = dimension.into();
    }
    json!({ "detail": detail })
}
