//! OpenAI: its rules, which every OpenAI-like provider starts from.
//!
//! This module must never know how another provider departs from them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use crate::answer::{Answer, class_of_status, json, shown};
use crate::dialect::{Dialect, ListCall, Refusal};
use crate::protocol::{ListedModel, Protocol};
use crate::{upstream, wait};

/// Request headers of OpenAI's that choose an organisation or project.
pub(crate) const ACCOUNT_HEADERS: &[&str] = &["openai-organization", "openai-project"];
/// The list call of every OpenAI-like provider.
pub(crate) const LIST_MODELS: ListCall = ListCall {
    path: "/v1/models",
    query: "",
    headers: &[],
};

/// Codes (or types) of an account whose money or quota is spent.
const SPENT: [&str; 7] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_not_active",
    "billing_hard_limit_reached",
];
/// Codes (or types) of a provider in trouble.
const TROUBLE: [&str; 5] = [
    "slow_down",
    "server_is_overloaded",
    "service_unavailable_error",
    "server_error",
    "overloaded_error",
];

/// api.openai.com.
pub(crate) struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn env_keys(&self) -> &'static [&'static str] {
        &["OPENAI_API_KEY"]
    }

    fn env_base_url(&self) -> Option<&'static str> {
        Some("OPENAI_BASE_URL")
    }

    fn default_base_url(&self) -> Option<&'static str> {
        Some("https://api.openai.com/v1")
    }

    fn default_models(&self) -> &'static [&'static str] {
        &[
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
        ]
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
        ACCOUNT_HEADERS
    }

    fn is_private_header(&self, name: &str) -> bool {
        upstream::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        &["x-request-id"]
    }

    fn classify(&self, refusal: &Refusal<'_>) -> Fault {
        classify(refusal)
    }

    fn list_models(&self) -> Option<ListCall> {
        Some(LIST_MODELS)
    }

    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        parse_models(body, self.name())
    }
}

/// What an answer in OpenAI's form means.
pub(crate) fn classify(refusal: &Refusal<'_>) -> Fault {
    judge(refusal, |_, _| None).1
}

/// What an answer means by a provider's `own` rules, and by OpenAI's where those say nothing; with the answer, for
/// what else the provider reads in it. `own` is not asked about successes and content filters.
pub(crate) fn judge(
    refusal: &Refusal<'_>,
    own: fn(&Refusal<'_>, &Answer) -> Option<Class>,
) -> (Answer, Fault) {
    let answer = Answer::read(refusal.body);
    let has_rules = refusal.status >= 400 && !answer.is_content_filter();
    let class = has_rules
        .then(|| own(refusal, &answer))
        .flatten()
        .unwrap_or_else(|| class_of(refusal.status, &answer));
    let fault = fault(class, &answer, refusal);
    (answer, fault)
}

/// The fault of `class` with the wait that OpenAI's headers or message state, and the code.
fn fault(class: Class, answer: &Answer, refusal: &Refusal<'_>) -> Fault {
    let wait = match class {
        Class::RateLimited => wait::retry_after(refusal.headers, refusal.now)
            .or_else(|| reset_wait(refusal))
            .or_else(|| wait::span_in(&answer.message)),
        _ => answer.stated_wait(class, refusal),
    };
    Fault::of(class)
        .with_wait(wait)
        .with_code(shown(answer.code_or_kind()))
}

fn class_of(status: u16, answer: &Answer) -> Class {
    if status < 400 {
        return Class::Success;
    }
    if answer.is_content_filter() {
        return Class::CallerFault;
    }
    let by_name = [&answer.code, &answer.kind]
        .into_iter()
        .flatten()
        .find_map(|name| class_of_name(name));
    let class = by_name.unwrap_or_else(|| class_of_status(status));
    match class {
        // Waiting never helps a request above the whole limit; 413 is how some providers say so.
        Class::RateLimited if status == 413 || exceeds_whole_limit(&answer.message) => {
            Class::CallerFault
        }
        class => class,
    }
}

/// The class of a code or type that decides by itself. `invalid_request_error` does not: a bad key has it too.
fn class_of_name(name: &str) -> Option<Class> {
    match name {
        name if SPENT.contains(&name) => Some(Class::Exhausted),
        name if TROUBLE.contains(&name) => Some(Class::UpstreamTrouble),
        "invalid_api_key" | "authentication_error" => Some(Class::Rejected),
        "rate_limit_exceeded" | "rate_limit_error" => Some(Class::RateLimited),
        _ => None,
    }
}

/// `Request too large … Limit 10000, Requested 12000`.
fn exceeds_whole_limit(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    let figures = number_after(&lower, "limit ").zip(number_after(&lower, "requested "));
    lower.starts_with("request too large")
        || figures.is_some_and(|(limit, requested)| requested > limit)
}

/// The number behind the last `word` that a number follows; commas between its digits are passed over, and a `~` that
/// marks an estimate. The figures stand behind the model's name, which is the caller's.
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

/// The longest reset among the dimensions of which nothing remains: the others speak of limits not reached.
fn reset_wait(refusal: &Refusal<'_>) -> Option<Duration> {
    let text = |headers: &'_ HeaderMap, kind: &str, dimension: &str| {
        let value = headers.get(format!("x-ratelimit-{kind}-{dimension}"))?;
        value.to_str().ok().map(str::to_owned)
    };
    let resets = refusal.headers.iter().filter_map(|(name, remaining)| {
        let dimension = name.as_str().strip_prefix("x-ratelimit-remaining-")?;
        // A limit of 0 or below is one that the provider does not know.
        let limit = text(refusal.headers, "limit", dimension)
            .and_then(|limit| limit.trim().parse::<i64>().ok());
        let spent = remaining.to_str().ok()?.trim().parse::<f64>().ok()? == 0.0
            && limit.is_none_or(|limit| limit > 0);
        let reset = spent
            .then(|| text(refusal.headers, "reset", dimension))
            .flatten()?;
        wait::parse_wait(&reset, refusal.now)
    });
    resets.max()
}

/// Reads `{"data":[{"id",…}]}`; entries without an id are left out.
pub(crate) fn parse_models(body: &[u8], provider: &str) -> Option<Vec<ListedModel>> {
    let list = json(body)?;
    let entries = list["data"].as_array()?;
    Some(
        entries
            .iter()
            .filter_map(|entry| listed(entry, provider))
            .collect(),
    )
}

fn listed(entry: &Value, provider: &str) -> Option<ListedModel> {
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
    fn a_request_above_the_whole_limit_is_told_from_a_full_window() {
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
            parse_models(body, "openai").unwrap(),
            [
                model("gpt-x", "system", 1_700_000_000, None),
                model("vendor/y", "openai", 0, Some("Y")),
                model("z", "openai", 0, None)
            ]
        );
        assert_eq!(parse_models(br#"{"data":[]}"#, "openai"), Some(Vec::new()));
        for bad in [&b"{}"[..], b"", b"<html>", br#"{"data":{}}"#] {
            assert_eq!(parse_models(bad, "openai"), None);
        }
    }
}
