//! The mock provider of the demo and of tests: one host that speaks every protocol, each with its own error form.
//!
//! Must never know the mock's fault script: it reads the mock's responses as it reads a provider's.

use keypool_core::fault::Fault;
use serde_json::Value;

use super::openai::{self, OPENAI_COMPATIBLE};
use super::{anthropic, ark, gemini, paths, tavily};
use crate::dialect::Dialect;
use crate::errors::{ErrorResponse, json};
use crate::protocol::Protocol;
use crate::quota::QuotaCall;

/// The built-in mock provider.
pub(crate) static MOCK: Dialect = Dialect {
    name: "mock",
    protocols: &[
        Protocol::OpenAi,
        Protocol::Anthropic,
        Protocol::Gemini,
        Protocol::Tavily,
    ],
    account_headers: &[
        "openai-organization",
        "openai-project",
        "anthropic-organization-id",
        "anthropic-workspace-id",
        "anthropic-user-profile-id",
        "x-goog-user-project",
        "x-tavily-access-mode",
        "x-tavily-orgid",
        "x-project-id",
        "x-project-name",
    ],
    request_id_headers: &["x-request-id", "request-id"],
    // In Tavily's form, without its allowance: the mock may be asked at any time.
    quota: Some(QuotaCall {
        refreshed_as: None,
        allowance: None,
        ..tavily::QUOTA
    }),
    upstream_path: |_, base_path, path| paths::kept_path(base_path, path),
    credential: |protocol, secret| match protocol {
        Protocol::OpenAi | Protocol::Tavily => paths::bearer(secret),
        Protocol::Anthropic => paths::plain("x-api-key", secret),
        Protocol::Gemini => paths::plain("x-goog-api-key", secret),
    },
    is_private_header: |name| anthropic::is_private(name) || paths::is_private_everywhere(name),
    classify: |response| {
        let reader = reader(response.status, &json(response.body).unwrap_or_default());
        reader(response)
    },
    ..OPENAI_COMPATIBLE
};

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
        let name = |protocol| (MOCK.credential)(protocol, "mock-key").unwrap().0;
        assert_eq!(name(Protocol::OpenAi), "authorization");
        assert_eq!(name(Protocol::Tavily), "authorization");
        assert_eq!(name(Protocol::Anthropic), "x-api-key");
        assert_eq!(name(Protocol::Gemini), "x-goog-api-key");
    }
}
