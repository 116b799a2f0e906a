//! Google Gemini: its own API, and its OpenAI-compatible one below `/v1beta/openai`.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use std::time::Duration;

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::paths;
use crate::dialect::{Dialect, ListCall, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, class_in, decide, loggable_code, retry_after};
use crate::protocol::{ListedModel, Protocol};
use crate::usage::ImageRule;

/// The root of its OpenAI-compatible endpoints.
const OPENAI_ROOT: &str = "/v1beta/openai";

/// Meaning of the `reason` that a refusal gives beside its general status. These are about the whole key; a key that may
/// not be used from our address or place stays valid.
const REASONS: &[(&str, Class)] = &[
    ("API_KEY_INVALID", Class::Rejected),
    ("API_KEY_EXPIRED", Class::Rejected),
    ("API_KEY_SERVICE_BLOCKED", Class::Rejected),
    ("API_KEY_HTTP_REFERRER_BLOCKED", Class::Rejected),
    ("API_KEY_ANDROID_APP_BLOCKED", Class::Rejected),
    ("API_KEY_IOS_APP_BLOCKED", Class::Rejected),
    ("API_KEY_IP_ADDRESS_BLOCKED", Class::Forbidden),
    ("CONSUMER_INVALID", Class::Rejected),
    ("CONSUMER_SUSPENDED", Class::Rejected),
    ("GCP_SUSPENDED", Class::Rejected),
    ("USER_PROJECT_DENIED", Class::Rejected),
    ("SERVICE_DISABLED", Class::Rejected),
    ("SERVICE_NOT_VISIBLE", Class::Rejected),
    ("ACCOUNT_STATE_INVALID", Class::Rejected),
    ("CREDENTIALS_MISSING", Class::Rejected),
    ("ACCESS_TOKEN_EXPIRED", Class::Rejected),
    ("ACCESS_TOKEN_TYPE_UNSUPPORTED", Class::Rejected),
    ("BILLING_DISABLED", Class::Exhausted),
    ("LOCATION_POLICY_VIOLATED", Class::Forbidden),
    ("LOCATION_TAX_POLICY_VIOLATED", Class::Forbidden),
    ("ORG_RESTRICTION_VIOLATION", Class::Forbidden),
    ("SECURITY_POLICY_VIOLATED", Class::Forbidden),
];

/// How messages about a dead key begin: some responses have no `reason`.
const DEAD_KEYS: &[&str] = &[
    "api key not valid",
    "api key expired",
    "your api key was reported as leaked",
    "your project has been denied access",
    "generative language api has not been used in project",
];

/// generativelanguage.googleapis.com.
pub(crate) static GEMINI: Dialect = Dialect {
    name: "gemini",
    env_keys: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
    env_base_url: Some("GEMINI_BASE_URL"),
    default_base_url: Some("https://generativelanguage.googleapis.com"),
    openai_base: Some(OpenAiBase {
        hosts: &["generativelanguage.googleapis.com"],
        path: OPENAI_ROOT,
    }),
    default_models: &[
        "gemini-*",
        "gemma-*",
        "learnlm-*",
        "imagen-*",
        "veo-*",
        "lyria-*",
        "text-embedding-004",
        "embedding-001",
        "aqa",
    ],
    default_max_concurrent: None,
    protocols: &[Protocol::Gemini, Protocol::OpenAi],
    openai_root: Some(OPENAI_ROOT),
    account_headers: &[
        "x-goog-user-project",
        "openai-organization",
        "openai-project",
    ],
    needs_include_usage: true,
    image_rule: ImageRule::Gemini,
    request_id_headers: &["x-request-id"],
    list_models: Some(ListCall {
        path: "/v1beta/models",
        query: "pageSize=1000",
        headers: &[],
        field: "models",
        read_model,
    }),
    quota: None,
    upstream_path,
    credential: |protocol, secret| match protocol {
        Protocol::OpenAi => paths::bearer(secret),
        _ => paths::plain("x-goog-api-key", secret),
    },
    is_private_header: |name| name == "x-goog-user-project" || paths::is_private_everywhere(name),
    classify,
};

fn upstream_path(protocol: Protocol, base_path: &str, path: &str) -> String {
    // What clients of OpenAI's protocol use as the base leads to the same host.
    let base_path = base_path.strip_suffix(OPENAI_ROOT).unwrap_or(base_path);
    match protocol {
        Protocol::OpenAi if !paths::is_below(path, OPENAI_ROOT) => {
            let path = [OPENAI_ROOT, paths::without_v1(path)].concat();
            paths::kept_path(base_path, &path)
        }
        // The version of an upload is its second segment.
        _ if paths::is_below(path, "/upload") => {
            paths::kept_path(paths::without_version(base_path), path)
        }
        _ => paths::kept_path(base_path, path),
    }
}

/// Classifies an error response in Gemini's form.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    let fault = decide(response.status, &body, || own_class(response.status, &body));
    let wait = match fault.class {
        Class::RateLimited => rate_limit_wait(&body, response),
        class => body.stated_wait(class, response),
    };
    let reason = reason(&body).filter(|reason| class_in(REASONS, reason).is_some());
    let code = reason
        .or(body.status.as_deref())
        .unwrap_or_else(|| body.code_or_kind());
    fault.with_wait(wait).with_code(loggable_code(code))
}

fn own_class(status: u16, body: &ErrorBody) -> Option<Class> {
    let by_reason = reason(body).and_then(|reason| class_in(REASONS, reason));
    if by_reason.is_some() {
        return by_reason;
    }
    if DEAD_KEYS.iter().any(|words| body.states(words)) {
        return Some(Class::Rejected);
    }
    let is_unpaid = status == 402 || body.code.as_deref() == Some("402");
    let name = body.status.as_deref().or(body.code.as_deref());
    // The Interactions API writes the same names in lower case, and as the code.
    match name.unwrap_or_default().to_ascii_uppercase().as_str() {
        "RESOURCE_EXHAUSTED" if is_unpaid || is_prepay_spent(body) => Some(Class::Exhausted),
        "RESOURCE_EXHAUSTED" => Some(Class::RateLimited),
        "FAILED_PRECONDITION" if is_about_account(body) => Some(Class::Forbidden),
        "NOT_FOUND" if body.states("this model ") && body.says("no longer available to new") => {
            Some(Class::Forbidden)
        }
        "NOT_FOUND" | "OUT_OF_RANGE" => Some(Class::CallerFault),
        "INTERNAL" | "UNAVAILABLE" | "DEADLINE_EXCEEDED" => Some(Class::UpstreamTrouble),
        _ => (status == 429 && is_prepay_spent(body)).then_some(Class::Exhausted),
    }
}

/// Whether an account lacks something, such as billing. The other precondition is the state of an object, such as a file
/// that is still being processed.
fn is_about_account(body: &ErrorBody) -> bool {
    [
        "user location",
        "free tier",
        "please enable billing",
        "billing",
        "your project",
        "gemini api free tier",
    ]
    .iter()
    .any(|words| body.states(words))
}

/// Whether the money is spent. Only this text says so: "exceeded your current quota" is in every rate limit.
fn is_prepay_spent(body: &ErrorBody) -> bool {
    body.says("prepayment credits are depleted")
}

/// A daily limit resets at midnight in California, whatever delay the response states.
fn rate_limit_wait(body: &ErrorBody, response: &ErrorResponse<'_>) -> Option<Duration> {
    if details(body).any(has_daily_violation) {
        return retry_after::until_midnight_pacific(response.now);
    }
    let delay = details(body).find_map(|detail| detail["retryDelay"].as_str());
    delay
        .and_then(|delay| retry_after::parse_wait(delay, response.now))
        .or_else(|| retry_after::wait_in_sentence(&body.message))
        .or_else(|| retry_after::retry_after(response.headers, response.now))
}

fn has_daily_violation(detail: &Value) -> bool {
    let violations = detail["violations"].as_array().into_iter().flatten();
    violations
        .filter_map(|violation| violation["quotaId"].as_str())
        .any(|id| id.contains("PerDay"))
}

fn reason(body: &ErrorBody) -> Option<&str> {
    details(body).find_map(|detail| detail["reason"].as_str())
}

fn details(body: &ErrorBody) -> impl Iterator<Item = &Value> {
    body.error["details"].as_array().into_iter().flatten()
}

fn read_model(entry: &Value, provider: &str) -> Option<ListedModel> {
    let name = entry["name"].as_str()?;
    let id = name.strip_prefix("models/").unwrap_or(name);
    (!id.is_empty()).then(|| ListedModel {
        id: id.to_owned(),
        owned_by: provider.to_owned(),
        created: 0,
        display_name: entry["displayName"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_calls_go_to_the_compatible_root() {
        for (base, path, expect) in [
            (
                "",
                "/v1/chat/completions",
                "/v1beta/openai/chat/completions",
            ),
            ("", "/chat/completions", "/v1beta/openai/chat/completions"),
            (
                "",
                "/v1beta/openai/chat/completions",
                "/v1beta/openai/chat/completions",
            ),
            (
                "/v1beta",
                "/v1beta/openai/embeddings",
                "/v1beta/openai/embeddings",
            ),
            (
                "/v1beta/openai",
                "/v1beta/openai/embeddings",
                "/v1beta/openai/embeddings",
            ),
            ("/v1beta", "/v1/embeddings", "/v1beta/openai/embeddings"),
            ("/v1", "/v1/embeddings", "/v1beta/openai/embeddings"),
            (
                "/proxy/v1beta/openai",
                "/v1/embeddings",
                "/proxy/v1beta/openai/embeddings",
            ),
            (
                "/v1beta/openai",
                "/v1/embeddings",
                "/v1beta/openai/embeddings",
            ),
            (
                "/proxy",
                "/v1/embeddings",
                "/proxy/v1beta/openai/embeddings",
            ),
        ] {
            assert_eq!(
                (GEMINI.upstream_path)(Protocol::OpenAi, base, path),
                expect,
                "{base} + {path}"
            );
        }
    }

    #[test]
    fn calls_of_its_own_keep_their_path() {
        for (base, path, expect) in [
            (
                "",
                "/v1/models/x:generateContent",
                "/v1/models/x:generateContent",
            ),
            (
                "/v1beta",
                "/v1beta/models/x:countTokens",
                "/v1beta/models/x:countTokens",
            ),
            ("", "/upload/v1beta/files", "/upload/v1beta/files"),
            ("/v1beta", "/upload/v1beta/files", "/upload/v1beta/files"),
            (
                "/proxy/v1beta/openai",
                "/v1beta/models/x:countTokens",
                "/proxy/v1beta/models/x:countTokens",
            ),
            (
                "/v1beta",
                "/v1/models/x:generateContent",
                "/v1/models/x:generateContent",
            ),
        ] {
            assert_eq!(
                (GEMINI.upstream_path)(Protocol::Gemini, base, path),
                expect,
                "{base} + {path}"
            );
        }
    }

    #[test]
    fn the_credential_follows_the_protocol() {
        let name = |protocol| (GEMINI.credential)(protocol, "AQ.x").unwrap().0;
        assert_eq!(name(Protocol::Gemini), "x-goog-api-key");
        assert_eq!(name(Protocol::OpenAi), "authorization");
    }

    #[test]
    fn a_model_list_is_read() {
        let body =
            br#"{"models":[{"name":"models/gemini-x","displayName":"Gemini X"},{"name":"models/"},
            {"name":"tunedModels/mine"},{}]}"#;
        let models = GEMINI.parse_models(body).unwrap();
        let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(ids, ["gemini-x", "tunedModels/mine"]);
        assert_eq!(
            (
                models[0].owned_by.as_str(),
                models[0].display_name.as_deref()
            ),
            ("gemini", Some("Gemini X"))
        );
        assert_eq!(GEMINI.parse_models(br#"{"data":[]}"#), None);
    }
}
