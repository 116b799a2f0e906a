//! Anthropic: its Messages API, and its OpenAI-compatible endpoint at the same host.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use std::time::Duration;

use jiff::Timestamp;
use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::paths;
use crate::dialect::{Dialect, ListCall, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, decide, loggable_code, retry_after};
use crate::protocol::{ListedModel, Protocol};
use crate::usage::ImageRule;

/// Cooldown after a rate limit without a stated wait. A reset header can only shorten it.
const UNSTATED: Duration = Duration::from_secs(60);

/// api.anthropic.com.
pub(crate) static ANTHROPIC: Dialect = Dialect {
    name: "anthropic",
    env_keys: &["ANTHROPIC_API_KEY"],
    env_base_url: Some("ANTHROPIC_BASE_URL"),
    default_base_url: Some("https://api.anthropic.com"),
    openai_base: Some(OpenAiBase {
        hosts: &["api.anthropic.com"],
        path: "/v1",
    }),
    default_models: &["claude-*"],
    default_max_concurrent: None,
    protocols: &[Protocol::Anthropic, Protocol::OpenAi],
    openai_root: None,
    account_headers: &[
        "anthropic-organization-id",
        "anthropic-workspace-id",
        "anthropic-user-profile-id",
        "openai-organization",
        "openai-project",
    ],
    needs_include_usage: true,
    image_rule: ImageRule::Anthropic,
    request_id_headers: &["request-id", "x-request-id"],
    list_models: Some(ListCall {
        path: "/v1/models",
        query: "limit=1000",
        headers: &[("anthropic-version", "2023-06-01")],
        field: "data",
        read_model,
    }),
    quota: None,
    upstream_path: |_, base_path, path| paths::kept_path(base_path, path),
    credential: |protocol, secret| match protocol {
        Protocol::OpenAi => paths::bearer(secret),
        _ => paths::plain("x-api-key", secret),
    },
    is_private_header: |name| is_private(name) || paths::is_private_everywhere(name),
    classify,
};

/// Whether one of Anthropic's own response headers reveals the account or its limits.
pub(crate) fn is_private(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("anthropic-") else {
        return false;
    };
    rest.starts_with("ratelimit-")
        || rest.starts_with("priority-")
        || matches!(rest, "organization-id" | "workspace-id" | "user-profile-id")
        || ["-limit", "-remaining", "-reset"]
            .iter()
            .any(|end| rest.ends_with(end))
}

/// Classifies an error response in Anthropic's form.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    let error_code = body.error["details"]["error_code"]
        .as_str()
        .or(body.code.as_deref())
        .unwrap_or_default();
    let kind = body.kind.as_deref().unwrap_or_default();
    let fault = decide(response.status, &body, || {
        class_of_name(error_code)
            .or_else(|| class_of_name(kind))
            .or_else(|| is_spent(&body).then_some(Class::Exhausted))
    });
    let class = fault.class;
    let stated = body.stated_wait(class, response);
    let wait = match class {
        Class::RateLimited => stated.or_else(|| reset_bound(response)),
        Class::Exhausted if error_code == "enforced_spend_limit_reached" => {
            stated.or_else(|| retry_after::until_next_month(response.now))
        }
        _ => stated,
    };
    fault
        .with_wait(wait)
        .with_code(loggable_code(error_code).or_else(|| loggable_code(kind)))
}

/// The class of an error code or type that only Anthropic has, or that means something else at other providers.
fn class_of_name(name: &str) -> Option<Class> {
    Some(match name {
        "enforced_spend_limit_reached" | "contract_spend_limit_reached" => Class::Exhausted,
        name if name.starts_with("linked_organization_") => Class::Exhausted,
        "organization_on_hold" => Class::Rejected,
        "ramp_limit_exceeded" => Class::RateLimited,
        "api_error" | "timeout_error" => Class::UpstreamTrouble,
        "request_body_too_large_after_decoding" => Class::CallerFault,
        _ => return None,
    })
}

/// Whether the money is spent. The type is then `invalid_request_error` too, and only the message says so.
///
/// An unknown field is quoted at the beginning of a message (`{field}: Extra inputs are not permitted`).
fn is_spent(body: &ErrorBody) -> bool {
    body.states("your credit balance is too low") || body.states("you have reached your")
}

/// The upper bound of the wait: a reset header says when a bucket is full again. The latest reset of the empty buckets
/// counts; if rounding hides which ones are empty, the latest of all.
fn reset_bound(response: &ErrorResponse<'_>) -> Option<Duration> {
    let value = |name: &str| {
        response
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let mut empty = None;
    let mut any = None;
    for name in response.headers.keys() {
        let Some(bucket) = name
            .as_str()
            .strip_suffix("-reset")
            .filter(|name| name.starts_with("anthropic-"))
        else {
            continue;
        };
        let reset =
            value(name.as_str()).and_then(|text| retry_after::parse_wait(text, response.now));
        any = any.max(reset);
        if value(&format!("{bucket}-remaining")) == Some("0") {
            empty = empty.max(reset);
        }
    }
    empty.or(any).map(|bound| bound.min(UNSTATED))
}

fn read_model(entry: &Value, provider: &str) -> Option<ListedModel> {
    let id = entry["id"].as_str().filter(|id| !id.is_empty())?;
    let created = entry["created_at"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    Some(ListedModel {
        id: id.to_owned(),
        owned_by: provider.to_owned(),
        created: created.map_or(0, Timestamp::as_second),
        display_name: entry["display_name"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_list_is_read() {
        let body = br#"{"data":[{"type":"model","id":"claude-x","display_name":"Claude X",
            "created_at":"2026-02-04T00:00:00Z"},{"id":"claude-y"},{}],"has_more":false}"#;
        let models = ANTHROPIC.parse_models(body).unwrap();
        assert_eq!(models.len(), 2);
        assert_eq!(
            (models[0].id.as_str(), models[0].created),
            ("claude-x", 1_770_163_200)
        );
        assert_eq!(
            (
                models[0].owned_by.as_str(),
                models[0].display_name.as_deref()
            ),
            ("anthropic", Some("Claude X"))
        );
        assert_eq!(
            (models[1].created, models[1].display_name.as_deref()),
            (0, None)
        );
        assert_eq!(ANTHROPIC.parse_models(b"{}"), None);
    }

    #[test]
    fn the_credential_follows_the_protocol() {
        let name = |protocol| (ANTHROPIC.credential)(protocol, "sk-ant-x").unwrap().0;
        assert_eq!(name(Protocol::Anthropic), "x-api-key");
        assert_eq!(name(Protocol::OpenAi), "authorization");
    }
}
