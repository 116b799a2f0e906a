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
    request_id_headers: &["x-request-id"],
    list_models: Some(ListCall {
        path: "/v1/models",
        query: "",
        headers: &[],
        field: "data",
        read_model,
    }),
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
    let mut fault = decide(response.status, &body, || own(response, &body));
    // Waiting never helps a request above the whole limit. Some providers answer it with 413.
    let is_above_limit = response.status == 413 || exceeds_whole_limit(&body.message);
    if fault.class == Class::RateLimited && is_above_limit {
        fault.class = Class::CallerFault;
        fault.is_recognized = true;
    }
    let wait = match fault.class {
        Class::RateLimited => retry_after::retry_after(response.headers, response.now)
            .or_else(|| reset_wait(response))
            .or_else(|| retry_after::wait_in_sentence(&body.message)),
        class => body.stated_wait(class, response),
    };
    (body, fault.with_wait(wait))
}

/// `Request too large … Limit 10000, Requested 12000`.
fn exceeds_whole_limit(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    let figures = number_after(&lower, "limit ").zip(number_after(&lower, "requested "));
    lower.starts_with("request too large")
        || figures.is_some_and(|(limit, requested)| requested > limit)
}

/// The number after the last `word` that is followed by one. Commas between digits and a `~` for an estimate are skipped.
/// The last one counts because the model's name, which the caller chose, comes before the figures.
fn number_after(text: &str, word: &str) -> Option<u64> {
    text.rmatch_indices(word).find_map(|(at, _)| {
        let figure = text[at + word.len()..].trim_start_matches('~');
        let digits = figure
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == ',');
        digits
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .ok()
    })
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
    fn a_request_above_the_limit_differs_from_a_full_window() {
        for (message, expect) in [
            (
                "Request too large for gpt-x on tokens per min (TPM): Limit 10000, Requested 12000.",
                true,
            ),
            (
                "Rate limit reached on TPM: Limit 30,000, Used 0, Requested 31,000. Try again in 2s.",
                true,
            ),
            (
                "Rate limit reached on TPM: Limit 7000, Used 0, Requested ~12903. Try again in 50s.",
                true,
            ),
            (
                "Rate limit reached on RPM: Limit 3, Used 3, Requested 1. Please try again in 20s.",
                false,
            ),
            (
                "Rate limit reached for `request too large, limit 1, requested 2` on RPM: Limit 3, Used 3, Requested 1.",
                false,
            ),
            ("Limit 0 or so", false),
            ("", false),
        ] {
            assert_eq!(exceeds_whole_limit(message), expect, "{message}");
        }
    }

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
