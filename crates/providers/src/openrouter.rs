//! OpenRouter, which passes calls on to everybody's models: whose refusal it is stands in the error's `metadata`.
//!
//! This module must never know what a request asks for: only how answers look.

use std::time::{Duration, SystemTime};

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use crate::answer::{Answer, shown};
use crate::compatible::Compatible;
use crate::dialect::Refusal;
use crate::openai::{self, OPENAI_COMPATIBLE};
use crate::wait;

/// What `metadata.reason` means, or a code that says the same. One request above the whole budget is that request's
/// own fault: the account serves smaller ones, and a caller must not put it to sleep by asking for too much.
const REASONS: &[(&str, Class)] = &[
    ("weight_exceeds_budget", Class::CallerFault),
    ("in_flight_budget_exhausted", Class::RateLimited),
];

/// What `metadata.limit_source` means.
const LIMIT_SOURCES: &[(&str, Class)] = &[
    ("openrouter_in_flight_budget", Class::RateLimited),
    (FREE_TIER_DAY, Class::RateLimited),
    ("openrouter_credits", Class::Exhausted),
    ("openrouter_key_limit", Class::Exhausted),
    ("openrouter_guardrail_budget", Class::Exhausted),
    ("openrouter_workspace_budget", Class::Exhausted),
];
const FREE_TIER_DAY: &str = "openrouter_free_tier_daily";

/// What `error_type` means, the same in all of its protocols.
const ERROR_TYPES: &[(&str, Class)] = &[
    ("authentication", Class::Rejected),
    ("permission_denied", Class::Forbidden),
    ("payment_required", Class::Exhausted),
    ("rate_limit_exceeded", Class::RateLimited),
    ("provider_overloaded", Class::UpstreamTrouble),
    ("provider_unavailable", Class::UpstreamTrouble),
    ("timeout", Class::UpstreamTrouble),
    ("server", Class::UpstreamTrouble),
    ("unmapped", Class::UpstreamTrouble),
    ("context_length_exceeded", Class::CallerFault),
    ("max_tokens_exceeded", Class::CallerFault),
    ("token_limit_exceeded", Class::CallerFault),
    ("string_too_long", Class::CallerFault),
    ("invalid_request", Class::CallerFault),
    ("invalid_prompt", Class::CallerFault),
    ("not_found", Class::CallerFault),
    ("precondition_failed", Class::CallerFault),
    ("payload_too_large", Class::CallerFault),
    ("unprocessable", Class::CallerFault),
    ("content_policy_violation", Class::CallerFault),
    ("refusal", Class::CallerFault),
    ("invalid_image", Class::CallerFault),
    ("image_too_large", Class::CallerFault),
    ("image_too_small", Class::CallerFault),
    ("unsupported_image_format", Class::CallerFault),
    ("image_not_found", Class::CallerFault),
    ("image_download_failed", Class::CallerFault),
];

/// openrouter.ai.
pub(crate) static OPENROUTER: Compatible = Compatible {
    name: "openrouter",
    env_keys: &["OPENROUTER_API_KEY"],
    env_base_url: Some("OPENROUTER_BASE_URL"),
    base_url: Some("https://openrouter.ai/api/v1"),
    request_id_headers: &["x-generation-id", "x-request-id"],
    classify,
    ..OPENAI_COMPATIBLE
};

/// What an answer of OpenRouter's means.
fn classify(refusal: &Refusal<'_>) -> Fault {
    let (answer, fault) = openai::judge(refusal, own_class);
    let now = refusal.now;
    let retry_after = || {
        wait::retry_after(refusal.headers, now)
            .or_else(|| told_wait(&answer.error["availability"]["retry_after"], now))
    };
    let wait = match fault.class {
        Class::RateLimited => retry_after()
            .or_else(|| wait::reset_header(refusal.headers, now))
            .or_else(|| quoted_reset(&answer, now))
            .or_else(|| day_wait(&answer, now))
            .or(fault.wait),
        Class::Exhausted => future(&answer.error["metadata"]["resets_at"], now).or(fault.wait),
        Class::UpstreamTrouble => retry_after(),
        _ => None,
    };
    let names = [reason(&answer), limit_source(&answer), error_type(&answer)];
    let code = names.into_iter().flatten().find_map(shown);
    let code = code.or_else(|| fault.code.clone());
    fault.with_wait(wait).with_code(code)
}

fn own_class(refusal: &Refusal<'_>, answer: &Answer) -> Option<Class> {
    let status = refusal.status;
    let metadata = &answer.error["metadata"];
    let can_wait = || wait::retry_after(refusal.headers, refusal.now).is_some();
    // No provider of the model fits what the request demands, with this key or another.
    let is_hopeless = answer.error["availability"]["retryable"] == false;
    if is_hopeless || (status == 403 && is_blocked(answer)) {
        return Some(Class::CallerFault);
    }
    look_up(REASONS, reason(answer))
        .or_else(|| look_up(REASONS, answer.code.as_deref()))
        .or_else(|| look_up(LIMIT_SOURCES, limit_source(answer)))
        .or_else(|| match status {
            // A budget that is spent until it resets.
            403 if !metadata["resets_at"].is_null() => Some(Class::Exhausted),
            // What a provider says is about OpenRouter's key there, not about ours.
            401..=403 | 429 if is_from_provider(answer) => Some(Class::UpstreamTrouble),
            402 if can_wait() => Some(Class::RateLimited),
            _ => None,
        })
        .or_else(|| look_up(ERROR_TYPES, error_type(answer)))
}

fn look_up(names: &[(&str, Class)], name: Option<&str>) -> Option<Class> {
    let found = names.iter().find(|(known, _)| Some(*known) == name);
    found.map(|(_, class)| *class)
}

fn reason(answer: &Answer) -> Option<&str> {
    answer.error["metadata"]["reason"].as_str()
}

fn limit_source(answer: &Answer) -> Option<&str> {
    answer.error["metadata"]["limit_source"].as_str()
}

/// Where each of its protocols has the type: chat completions, messages, responses, events of responses.
fn error_type(answer: &Answer) -> Option<&str> {
    let places = [
        &answer.error["metadata"],
        &answer.error,
        &answer.around,
        &answer.around["response"],
    ];
    places
        .into_iter()
        .find_map(|place| place["error_type"].as_str())
}

/// Whether a moderator or a guardrail stopped the request for what it says.
fn is_blocked(answer: &Answer) -> bool {
    const SIGNS: &[&str] = &["reasons", "flagged_input", "patterns"];
    let metadata = &answer.error["metadata"];
    SIGNS.iter().any(|sign| !metadata[*sign].is_null()) || answer.begins("request blocked")
}

/// Whether the provider behind OpenRouter refused, by OpenRouter's own key there.
fn is_from_provider(answer: &Answer) -> bool {
    let metadata = &answer.error["metadata"];
    let is_named = !metadata["provider_code"].is_null() || !metadata["provider_name"].is_null();
    (is_named || answer.begins("provider returned error")) && metadata["is_byok"] != true
}

/// The reset header where the body quotes it.
fn quoted_reset(answer: &Answer, now: SystemTime) -> Option<Duration> {
    let headers = answer.error["metadata"]["headers"].as_object()?;
    let mut resets = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-ratelimit-reset"));
    resets.find_map(|(_, value)| future(value, now))
}

/// The free calls of a day are counted by the day in UTC.
fn day_wait(answer: &Answer, now: SystemTime) -> Option<Duration> {
    let is_day = limit_source(answer) == Some(FREE_TIER_DAY)
        || answer.begins("rate limit exceeded: free-models-per-day");
    is_day.then(|| wait::until_midnight_utc(now)).flatten()
}

/// The wait until an instant; one that has passed tells nothing.
fn future(value: &Value, now: SystemTime) -> Option<Duration> {
    told_wait(value, now).filter(|wait| *wait > Duration::ZERO)
}

fn told_wait(value: &Value, now: SystemTime) -> Option<Duration> {
    match value {
        Value::String(text) => wait::parse_wait(text, now),
        Value::Number(number) => wait::parse_wait(&number.to_string(), now),
        _ => None,
    }
}
