//! Tavily: a search API. It has no models, and only research is streamed.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use keypool_core::fault::{Class, Fault};

use super::paths;
use crate::dialect::Dialect;
use crate::errors::{ErrorBody, ErrorResponse, decide, retry_after};
use crate::protocol::Protocol;
use crate::usage::ImageRule;

/// api.tavily.com.
pub(crate) static TAVILY: Dialect = Dialect {
    name: "tavily",
    env_keys: &["TAVILY_API_KEY"],
    env_base_url: Some("TAVILY_BASE_URL"),
    default_base_url: Some("https://api.tavily.com"),
    openai_base: None,
    default_models: &[],
    default_max_concurrent: None,
    protocols: &[Protocol::Tavily],
    openai_root: None,
    // The access mode asks for service without a key, which contradicts a pool's key.
    account_headers: &["x-tavily-access-mode", "x-tavily-orgid", "x-project-id"],
    needs_include_usage: false,
    image_rule: ImageRule::OpenAi,
    request_id_headers: &["x-request-id"],
    list_models: None,
    upstream_path: |_, base_path, path| paths::kept_path(base_path, path),
    credential: |_, secret| paths::bearer(secret),
    is_private_header: |name| name == "x-project-id" || paths::is_private_everywhere(name),
    classify,
};

/// Classifies an error response in Tavily's form, which has no codes.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    let fault = decide(response.status, &body, || match response.status {
        // A URL that is not supported or a feature outside the plan, never a bad key.
        403 => Some(Class::CallerFault),
        432 | 433 => Some(Class::Exhausted),
        _ => None,
    });
    let class = fault.class;
    let in_body = || {
        let seconds = &body.error["retry_after_seconds"];
        (class == Class::RateLimited)
            .then(|| retry_after::parse_wait(&seconds.to_string(), response.now))
            .flatten()
    };
    let wait = body.stated_wait(class, response).or_else(in_body);
    fault.with_wait(wait)
}
