//! The mock provider of the demo and of tests: one host that speaks every protocol, each with its own error form.
//!
//! Must never know the mock's fault script: it reads the mock's responses as it reads a provider's.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::Fault;
use serde_json::Value;

use super::{anthropic, ark, gemini, openai, openai_compatible, paths, tavily};
use crate::dialect::{Dialect, ListCall};
use crate::errors::{ErrorResponse, json};
use crate::protocol::{ListedModel, Protocol};

/// The built-in mock provider.
pub(crate) struct Mock;

impl Dialect for Mock {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn env_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn env_base_url(&self) -> Option<&'static str> {
        None
    }

    fn default_base_url(&self) -> Option<&'static str> {
        None
    }

    fn default_models(&self) -> &'static [&'static str] {
        &["*"]
    }

    fn protocols(&self) -> &'static [Protocol] {
        &[
            Protocol::OpenAi,
            Protocol::Anthropic,
            Protocol::Gemini,
            Protocol::Tavily,
        ]
    }

    fn upstream_path(&self, _protocol: Protocol, base_path: &str, path: &str) -> String {
        paths::kept_path(base_path, path)
    }

    fn credential(&self, protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        match protocol {
            Protocol::OpenAi | Protocol::Tavily => paths::bearer(secret),
            Protocol::Anthropic => paths::plain("x-api-key", secret),
            Protocol::Gemini => paths::plain("x-goog-api-key", secret),
        }
    }

    fn account_headers(&self) -> &'static [&'static str] {
        &[
            "openai-organization",
            "openai-project",
            "anthropic-organization-id",
            "anthropic-workspace-id",
            "anthropic-user-profile-id",
            "x-goog-user-project",
            "x-tavily-access-mode",
            "x-project-id",
        ]
    }

    fn is_private_header(&self, name: &str) -> bool {
        anthropic::is_private(name) || paths::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        &["x-request-id", "request-id"]
    }

    fn classify(&self, response: &ErrorResponse<'_>) -> Fault {
        let reader = reader(response.status, &json(response.body).unwrap_or_default());
        reader(response)
    }

    fn list_models(&self) -> Option<ListCall> {
        Some(openai_compatible::LIST_MODELS)
    }

    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        openai_compatible::parse_models(body, self.name())
    }
}

/// The provider whose form an error has.
fn reader(status: u16, body: &Value) -> fn(&ErrorResponse<'_>) -> Fault {
    let error = &body["error"];
    let code_starts_upper = error["code"]
        .as_str()
        .is_some_and(|code| code.starts_with(|c: char| c.is_ascii_uppercase()));
    if matches!(status, 432 | 433)
        || body.get("detail").is_some()
        || error.get("retry_after_seconds").is_some()
    {
        tavily::classify
    } else if body["type"] == "error" && error.is_object() {
        anthropic::classify
    } else if error["status"].is_string() {
        gemini::classify
    } else if code_starts_upper {
        ark::classify
    } else {
        openai::classify
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_is_that_of_the_protocols_own_provider() {
        let name = |protocol| Mock.credential(protocol, "mock-key").unwrap().0;
        assert_eq!(name(Protocol::OpenAi), "authorization");
        assert_eq!(name(Protocol::Tavily), "authorization");
        assert_eq!(name(Protocol::Anthropic), "x-api-key");
        assert_eq!(name(Protocol::Gemini), "x-goog-api-key");
    }
}
