//! What every provider with OpenAI's protocol and a bearer key has in common, and the one such provider that is nobody
//! in particular.
//!
//! Nothing here may ask which provider it is: what differs is a field.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::Fault;

use crate::dialect::{Dialect, ListCall, Refusal};
use crate::protocol::{ListedModel, Protocol};
use crate::{openai, upstream};

/// One provider with OpenAI's protocol.
pub(crate) struct Compatible {
    pub(crate) name: &'static str,
    pub(crate) env_keys: &'static [&'static str],
    pub(crate) env_base_url: Option<&'static str>,
    pub(crate) base_url: Option<&'static str>,
    pub(crate) models: &'static [&'static str],
    /// Response headers of its own that name the account.
    pub(crate) private_headers: &'static [&'static str],
    pub(crate) request_id_headers: &'static [&'static str],
    pub(crate) classify: fn(&Refusal<'_>) -> Fault,
}

/// Any server that speaks OpenAI's protocol. Others are this one with differences.
pub(crate) const OPENAI_COMPATIBLE: Compatible = Compatible {
    name: "openai-compatible",
    env_keys: &[],
    env_base_url: None,
    base_url: None,
    models: &["*"],
    private_headers: &[],
    request_id_headers: &["x-request-id"],
    classify: openai::classify,
};

impl Dialect for Compatible {
    fn name(&self) -> &'static str {
        self.name
    }

    fn env_keys(&self) -> &'static [&'static str] {
        self.env_keys
    }

    fn env_base_url(&self) -> Option<&'static str> {
        self.env_base_url
    }

    fn default_base_url(&self) -> Option<&'static str> {
        self.base_url
    }

    fn default_models(&self) -> &'static [&'static str] {
        self.models
    }

    fn protocols(&self) -> &'static [Protocol] {
        &[Protocol::OpenAi]
    }

    fn upstream_path(&self, _protocol: Protocol, base_path: &str, path: &str) -> String {
        upstream::versioned_path(base_path, path)
    }

    fn credential(&self, _protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        upstream::bearer(secret)
    }

    fn account_headers(&self) -> &'static [&'static str] {
        openai::ACCOUNT_HEADERS
    }

    fn is_private_header(&self, name: &str) -> bool {
        self.private_headers.contains(&name) || upstream::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        self.request_id_headers
    }

    fn classify(&self, refusal: &Refusal<'_>) -> Fault {
        (self.classify)(refusal)
    }

    fn list_models(&self) -> Option<ListCall> {
        Some(openai::LIST_MODELS)
    }

    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        openai::parse_models(body, self.name)
    }
}
