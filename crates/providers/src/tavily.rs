//! Tavily: a search API; no models, no streams but for research.
//!
//! This module must never know what a request asks for: only how answers and addresses look.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::{Class, Fault};

use crate::answer::{Answer, class_of_status, shown};
use crate::dialect::{Dialect, ListCall, Refusal};
use crate::protocol::{ListedModel, Protocol};
use crate::{upstream, wait};

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
        upstream::kept_path(base_path, path)
    }

    fn credential(&self, _protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        upstream::bearer(secret)
    }

    fn account_headers(&self) -> &'static [&'static str] {
        // The access mode asks to be served without a key: beside a pool's key it contradicts itself.
        &["x-tavily-access-mode", "x-project-id"]
    }

    fn is_private_header(&self, name: &str) -> bool {
        name == "x-project-id" || upstream::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        &["x-request-id"]
    }

    fn classify(&self, refusal: &Refusal<'_>) -> Fault {
        classify(refusal)
    }

    fn list_models(&self) -> Option<ListCall> {
        None
    }

    fn parse_models(&self, _body: &[u8]) -> Option<Vec<ListedModel>> {
        None
    }
}

/// What an answer in Tavily's form means: the status alone tells.
pub(crate) fn classify(refusal: &Refusal<'_>) -> Fault {
    let answer = Answer::read(refusal.body);
    let class = match refusal.status {
        // A URL that is not supported or a feature outside the plan, never a bad key.
        403 => Class::CallerFault,
        432 | 433 => Class::Exhausted,
        status => class_of_status(status),
    };
    let in_body = || {
        let seconds = &answer.error["retry_after_seconds"];
        (class == Class::RateLimited)
            .then(|| wait::parse_wait(&seconds.to_string(), refusal.now))
            .flatten()
    };
    let wait = answer.stated_wait(class, refusal).or_else(in_body);
    Fault::of(class)
        .with_wait(wait)
        .with_code(shown(answer.code_or_kind()))
}
