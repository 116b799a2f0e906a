//! OpenAI: its rules, which every OpenAI-like provider starts from.
//!
//! Must never know how another provider departs from them.

use std::time::Duration;

use http::HeaderMap;
use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::paths;
use crate::dialect::{Dialect, ListCall, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, decide, retry_after};
use crate::protocol::{ListedModel, Protocol};
use crate::usage::ImageRule;

/// Any server that speaks OpenAI's protocol and takes a bearer key. Other providers start from this one.
pub(crate) const OPENAI_COMPATIBLE: Dialect = Dialect {
    name: "openai-compatible",
    env_keys: &[],
    env_base_url: None,
    default_base_url: None,
    openai_base: None,
    default_models: &["*"],
    default_max_concurrent: None,
    protocols: &[Protocol::OpenAi],
    openai_root: None,
    account_headers: &["openai-organization", "openai-project"],
    needs_include_usage: true,
    image_rule: ImageRule::OpenAi,
    request_id_headers: &["x-request-id"],
    list_models: Some(ListCall {
        path: "/v1/models",
        query: "",
        headers: &[],
        field: "data",
        read_model,
    }),
    quota: None,
    upstream_path: |_, base_path, path| paths::versioned_path(base_path, path),
    credential: |_, secret| paths::bearer(secret),
    is_private_header: paths::is_private_everywhere,
    classify,
};

/// api.openai.com.
pub(crate) static OPENAI: Dialect = Dialect {
    name: "openai",
    env_keys: &["OPENAI_API_KEY"],
    env_base_url: Some("OPENAI_BASE_URL"),
    default_base_url: Some("https://api.openai.com/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &["api.openai.com", "*.api.openai.com"],
        path: "/v1",
    }),
    default_models: &[
        "gpt-*",
        "chatgpt-*",
        "o1",
        "o1-*",
        "o3",
        "o3-*",
        "o4-*",
        "codex-*",
        "computer-use-*",
        "text-embedding-3-*",
        "text-embedding-ada-*",
        "text-moderation-*",
        "omni-moderation-*",
        "whisper-1",
        "tts-*",
        "dall-e-*",
        "sora-*",
        "babbage-*",
        "davinci-*",
        "ft:*",
    ],
    ..OPENAI_COMPATIBLE
};

/// Classifies an error response in OpenAI's form.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    judge(response, |_, _| None).1
}

/// Classifies an error response by a provider's `own` rules, then by the common ones. Also returns the body, in case the
/// provider needs more of it. `own` is not called for successes, content filters and comparisons with what is left.
pub(crate) fn judge(
    response: &ErrorResponse<'_>,
    own: fn(&ErrorResponse<'_>, &ErrorBody) -> Option<Class>,
) -> (ErrorBody, Fault) {
    let body = ErrorBody::read(response.body);
    let fault = decide(response.status, &body, || own(response, &body));
    let wait = match fault.class {
        Class::RateLimited => retry_after::retry_after(response.headers, response.now)
            .or_else(|| reset_wait(response))
            .or_else(|| retry_after::wait_in_sentence(&body.message)),
        class => body.stated_wait(class, response),
    };
    (body, fault.with_wait(wait))
}

/// The longest reset among the dimensions with nothing left. The other limits are not reached.
fn reset_wait(response: &ErrorResponse<'_>) -> Option<Duration> {
    let text = |headers: &'_ HeaderMap, kind: &str, dimension: &str| {
        let value = headers.get(format!("x-ratelimit-{kind}-{dimension}"))?;
        value.to_str().ok().map(str::to_owned)
    };
    let resets = response.headers.iter().filter_map(|(name, remaining)| {
        let dimension = name.as_str().strip_prefix("x-ratelimit-remaining-")?;
        // A limit of 0 or below means that the provider does not know it.
        let limit = text(response.headers, "limit", dimension)
            .and_then(|limit| limit.trim().parse::<i64>().ok());
        let spent = remaining.to_str().ok()?.trim().parse::<f64>().ok()? == 0.0
            && limit.is_none_or(|limit| limit > 0);
        let reset = spent
            .then(|| text(response.headers, "reset", dimension))
            .flatten()?;
        retry_after::parse_wait(&reset, response.now)
    });
    resets.max()
}

fn read_model(entry: &Value, provider: &str) -> Option<ListedModel> {
    let id = entry["id"].as_str().filter(|id| !id.is_empty())?;
    let display_name = entry["display_name"].as_str().or(entry["name"].as_str());
    Some(ListedModel {
        id: id.to_owned(),
        owned_by: entry["owned_by"].as_str().unwrap_or(provider).to_owned(),
        created: entry["created"].as_i64().unwrap_or(0),
        display_name: display_name.filter(|name| *name != id).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_list_is_read() {
        let body = br#"{"object":"list","data":[
            {"id":"gpt-x","object":"model","created":1700000000,"owned_by":"system"},
            {"id":"vendor/y","name":"Y"}, {"id":"z","name":"z","created":"soon"}, {"object":"model"}, 7]}"#;
        let model = |id: &str, owned_by: &str, created, display_name: Option<&str>| ListedModel {
            id: id.to_owned(),
            owned_by: owned_by.to_owned(),
            created,
            display_name: display_name.map(str::to_owned),
        };
        assert_eq!(
            OPENAI.parse_models(body).unwrap(),
            [
                model("gpt-x", "system", 1_700_000_000, None),
                model("vendor/y", "openai", 0, Some("Y")),
                model("z", "openai", 0, None)
            ]
        );
        assert_eq!(OPENAI.parse_models(br#"{"data":[]}"#), Some(Vec::new()));
        for bad in [&b"{}"[..], b"", b"<html>", br#"{"data":{}}"#] {
            assert_eq!(OPENAI.parse_models(bad), None);
        }
    }
}
