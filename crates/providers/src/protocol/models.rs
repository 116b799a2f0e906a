//! The model lists, whose paths OpenAI, Anthropic and Gemini share.
//!
//! Must never know which models there are.

use http::{HeaderMap, Method};

use super::{Endpoint, Lookup, ModelsCall, gemini, guess};

pub(super) fn lookup(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Lookup> {
    let call = match path {
        "/v1/models" | "/v1beta/models" => ModelsCall::List,
        _ => {
            let id = gemini::under_models(path)?;
            if id.split('/').any(str::is_empty) {
                return None;
            }
            ModelsCall::One(path.len() - id.len()..path.len())
        }
    };
    let protocol = guess(path, headers, query);
    let endpoint = Endpoint {
        models: Some(call),
        ..Endpoint::get(protocol)
    };
    Some(match endpoint.only_for("GET", method) {
        Lookup::MethodNotAllowed(..) if gemini::split_call(path).is_some() => {
            Lookup::MethodNotAllowed(protocol, "GET, POST")
        }
        found => found,
    })
}
