//! Tavily: a search API. It has no models, and only research is streamed.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::{Class, Fault};

use super::paths;
use crate::dialect::{Dialect, ListCall};
use crate::errors::{ErrorBody, ErrorResponse, class_of_status, retry_after, shown};
use crate::protocol::{ListedModel, Protocol};

/// api.tavily.com.
pub(crate) struct Tavily;

impl Dialect for Tavily {
    fn name(&self) -> &'static str {
        "tavily"
    }

    fn env_keys(&self) -> &'static [&'static str] {
        &["TAVILY_API_KEY"]
    }

    fn env_base_url(&self) -> Option<&'static str> {
        Some("TAVILY_BASE_URL")
    }

    fn default_base_url(&self) -> Option<&'static str> {
        Some("https://api.tavily.com")
    }

    fn default_models(&self) -> &'static [&'static str] {
        &[]
    }

    fn protocols(&self) -> &'static [Protocol] {
        &[Protocol::Tavily]
    }

    fn upstream_path(&self, _protocol: Protocol, base_path: &str, path: &str) -> String {
        paths::kept_path(base_path, path)
    }

    fn credential(&self, _protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        paths::bearer(secret)
    }

    fn account_headers(&self) -> &'static [&'static str] {
        // The access mode asks for service without a key, which contradicts a pool's key.
        &["x-tavily-access-mode", "x-project-id"]
    }

    fn is_private_header(&self, name: &str) -> bool {
        name == "x-project-id" || paths::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        &["x-request-id"]
    }

    fn classify(&self, response: &ErrorResponse<'_>) -> Fault {
        classify(response)
    }

    fn list_models(&self) -> Option<ListCall> {
        None
    }

    fn parse_models(&self, _body: &[u8]) -> Option<Vec<ListedModel>> {
        None
    }
}

/// Classifies an error response in Tavily's form, by its status alone.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    let class = match response.status {
        // A URL that is not supported or a feature outside the plan, never a bad key.
        403 => Class::CallerFault,
        432 | 433 => Class::Exhausted,
        status => class_of_status(status),
    };
    let in_body = || {
        let seconds = &body.error["retry_after_seconds"];
        (class == Class::RateLimited)
            .then(|| retry_after::parse_wait(&seconds.to_string(), response.now))
            .flatten()
    };
    let wait = body.stated_wait(class, response).or_else(in_body);
    Fault::of(class)
        .with_wait(wait)
        .with_code(shown(body.code_or_kind()))
}
