//! Google Gemini: its own API, and its OpenAI-compatible one below `/v1beta/openai`.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use std::time::Duration;

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::paths;
use crate::dialect::{Dialect, ListCall, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, class_of_status, loggable_code, retry_after};
use crate::protocol::{ListedModel, Protocol};

/// The root of its OpenAI-compatible endpoints.
const OPENAI_ROOT: &str = "/v1beta/openai";

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
    request_id_headers: &["x-request-id"],
    list_models: Some(ListCall {
        path: "/v1beta/models",
        query: "pageSize=1000",
        headers: &[],
        field: "models",
        read_model,
    }),
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
    let class = class_of(response.status, &body);
    let wait = match class {
        Class::RateLimited => rate_limit_wait(&body, response),
        class => body.stated_wait(class, response),
    };
    let reason = reason(&body).filter(|reason| reason.starts_with("API_KEY"));
    let code = reason
        .or(body.status.as_deref())
        .unwrap_or_else(|| body.code_or_kind());
    Fault::of(class)
        .with_wait(wait)
        .with_code(loggable_code(code))
}

fn class_of(status: u16, body: &ErrorBody) -> Class {
    if status < 400 {
        return Class::Success;
    }
    if body.is_content_filter() {
        return Class::CallerFault;
    }
    if reason(body) == Some("API_KEY_INVALID")
        || body.begins("api key not valid")
        || body.begins("api key expired")
    {
        return Class::Rejected;
    }
    let unpaid = status == 402 || body.code.as_deref() == Some("402");
    let name = body.status.as_deref().or(body.code.as_deref());
    // The Interactions API writes the same names in lower case, and as the code.
    match name.unwrap_or_default().to_ascii_uppercase().as_str() {
        "RESOURCE_EXHAUSTED" if unpaid || is_prepay_spent(body) => Class::Exhausted,
        "PAYMENT_REQUIRED" => Class::Exhausted,
        "RESOURCE_EXHAUSTED" => Class::RateLimited,
        "UNAUTHENTICATED" => Class::Rejected,
        "PERMISSION_DENIED" | "FAILED_PRECONDITION" => Class::Forbidden,
        "INVALID_ARGUMENT" | "NOT_FOUND" | "OUT_OF_RANGE" => Class::CallerFault,
        "INTERNAL" | "UNAVAILABLE" | "DEADLINE_EXCEEDED" => Class::UpstreamTrouble,
        _ => match class_of_status(status) {
            Class::RateLimited if is_prepay_spent(body) => Class::Exhausted,
            class => class,
        },
    }
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
