//! OpenRouter, which passes calls on to other providers: the error's `metadata` says which side refused.
//!
//! Must never know what a request asks for, only what responses look like.

use std::time::{Duration, SystemTime};

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::openai::{self, OPENAI_COMPATIBLE};
use super::paths;
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, class_in, loggable_code, retry_after};
use crate::quota::{QuotaCall, QuotaError, QuotaFigures, optional_amount, smaller};

/// Meaning of `metadata.reason`, or of a code that says the same. An account that a request is too expensive for still
/// serves smaller ones.
const REASONS: &[(&str, Class)] = &[
    ("weight_exceeds_budget", Class::TooExpensive),
    ("in_flight_budget_exhausted", Class::RateLimited),
];

/// Meaning of `metadata.limit_source`.
const LIMIT_SOURCES: &[(&str, Class)] = &[
    ("openrouter_in_flight_budget", Class::RateLimited),
    (FREE_TIER_DAY, Class::RateLimited),
    ("openrouter_credits", Class::Exhausted),
    ("openrouter_key_limit", Class::Exhausted),
    ("openrouter_guardrail_budget", Class::Exhausted),
    ("openrouter_workspace_budget", Class::Exhausted),
];
const FREE_TIER_DAY: &str = "openrouter_free_tier_daily";

/// Meaning of `error_type`, which is the same in all of its protocols.
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
    ("response", Class::CallerFault),
    ("invalid_image", Class::CallerFault),
    ("image_too_large", Class::CallerFault),
    ("image_too_small", Class::CallerFault),
    ("unsupported_image_format", Class::CallerFault),
    ("image_not_found", Class::CallerFault),
    ("image_download_failed", Class::CallerFault),
];

/// openrouter.ai.
pub(crate) static OPENROUTER: Dialect = Dialect {
    name: "openrouter",
    env_keys: &["OPENROUTER_API_KEY"],
    env_base_url: Some("OPENROUTER_BASE_URL"),
    default_base_url: Some("https://openrouter.ai/api/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &["openrouter.ai"],
        path: "/api/v1",
    }),
    // In the last chunk; it ignores the field.
    needs_include_usage: false,
    request_id_headers: &["x-generation-id", "x-request-id"],
    quota: Some(QuotaCall {
        path: |base_path| paths::versioned_path(base_path, "/v1/key"),
        refreshed_as: None,
        allowance: None,
        read: read_key,
    }),
    classify,
    ..OPENAI_COMPATIBLE
};

/// Reads what the key may still spend. Newer responses also have the budget that applies to it, which may be smaller. The
/// credits of the account are for management keys only.
fn read_key(body: &Value, _authority: &str) -> Result<QuotaFigures, QuotaError> {
    let data = &body["data"];
    let budget = &data["effective_budget"]["remaining_usd"];
    let limit = optional_amount(&data["limit"])?;
    let left = smaller(
        optional_amount(&data["limit_remaining"])?,
        optional_amount(budget)?,
    );
    let has_figures = data.get("limit_remaining").is_some() || !budget.is_null();
    if !has_figures || (limit.is_some() && left.is_none()) {
        return Err(QuotaError::NoFigures);
    }
    QuotaFigures::new(left, limit, "USD")
}

/// Classifies an error response of OpenRouter.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    let (body, fault) = openai::judge(response, own_class);
    let now = response.now;
    let retry_after = || {
        retry_after::retry_after(response.headers, now)
            .or_else(|| told_wait(&body.error["availability"]["retry_after"], now))
    };
    let wait = match fault.class {
        Class::RateLimited => retry_after()
            .or_else(|| retry_after::reset_header(response.headers, now))
            .or_else(|| quoted_reset(&body, now))
            .or_else(|| day_wait(&body, now))
            .or(fault.wait),
        Class::Exhausted => future(&body.error["metadata"]["resets_at"], now).or(fault.wait),
        Class::UpstreamTrouble => retry_after(),
        _ => None,
    };
    let names = [reason(&body), limit_source(&body), error_type(&body)];
    let code = names.into_iter().flatten().find_map(loggable_code);
    let code = code.or_else(|| fault.code.clone());
    fault.with_wait(wait).with_code(code)
}

fn own_class(response: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    let status = response.status;
    let metadata = &body.error["metadata"];
    let can_wait = || retry_after::retry_after(response.headers, response.now).is_some();
    // No provider of the model can serve what the request demands, with this key or another.
    let is_hopeless = body.error["availability"]["retryable"] == false;
    if is_hopeless || (status == 403 && is_blocked(body)) {
        return Some(Class::CallerFault);
    }
    // The account's own settings exclude every provider of the model.
    if status == 404 && body.states("no endpoints found matching your data policy") {
        return Some(Class::Forbidden);
    }
    let look_up = |names, name: Option<&str>| class_in(names, name?);
    look_up(REASONS, reason(body))
        .or_else(|| look_up(REASONS, body.code.as_deref()))
        .or_else(|| look_up(LIMIT_SOURCES, limit_source(body)))
        .or_else(|| match status {
            // The budget is spent until it resets.
            403 if !metadata["resets_at"].is_null() => Some(Class::Exhausted),
            // The provider's error is about OpenRouter's key there, not about ours.
            401..=403 | 429 if is_from_provider(body) => Some(Class::UpstreamTrouble),
            402 if can_wait() => Some(Class::RateLimited),
            _ => None,
        })
        .or_else(|| look_up(ERROR_TYPES, error_type(body)))
}

fn reason(body: &ErrorBody) -> Option<&str> {
    body.error["metadata"]["reason"].as_str()
}

fn limit_source(body: &ErrorBody) -> Option<&str> {
    body.error["metadata"]["limit_source"].as_str()
}

/// The type, where each of its protocols has it: chat completions, messages, responses, events of responses.
fn error_type(body: &ErrorBody) -> Option<&str> {
    let places = [
        &body.error["metadata"],
        &body.error,
        &body.around,
        &body.around["response"],
    ];
    places
        .into_iter()
        .find_map(|place| place["error_type"].as_str())
}

/// Whether a moderator or a guardrail stopped the request because of its content.
fn is_blocked(body: &ErrorBody) -> bool {
    const SIGNS: &[&str] = &["reasons", "flagged_input", "patterns"];
    let metadata = &body.error["metadata"];
    SIGNS.iter().any(|sign| !metadata[*sign].is_null()) || body.begins("request blocked")
}

/// Whether the provider behind OpenRouter refused OpenRouter's own key.
fn is_from_provider(body: &ErrorBody) -> bool {
    let metadata = &body.error["metadata"];
    let is_named = !metadata["provider_code"].is_null() || !metadata["provider_name"].is_null();
    (is_named || body.begins("provider returned error")) && metadata["is_byok"] != true
}

/// The reset header, if the body quotes it.
fn quoted_reset(body: &ErrorBody, now: SystemTime) -> Option<Duration> {
    let headers = body.error["metadata"]["headers"].as_object()?;
    let mut resets = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-ratelimit-reset"));
    resets.find_map(|(_, value)| future(value, now))
}

/// Free calls are counted per day in UTC.
fn day_wait(body: &ErrorBody, now: SystemTime) -> Option<Duration> {
    let is_day = limit_source(body) == Some(FREE_TIER_DAY)
        || body.begins("rate limit exceeded: free-models-per-day");
    is_day
        .then(|| retry_after::until_midnight_utc(now))
        .flatten()
}

/// The wait until an instant; `None` if it has passed.
fn future(value: &Value, now: SystemTime) -> Option<Duration> {
    told_wait(value, now).filter(|wait| *wait > Duration::ZERO)
}

fn told_wait(value: &Value, now: SystemTime) -> Option<Duration> {
    match value {
        Value::String(text) => retry_after::parse_wait(text, now),
        Value::Number(number) => retry_after::parse_wait(&number.to_string(), now),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is left and the limit.
    fn read(data: Value) -> Result<(Option<f64>, Option<f64>), QuotaError> {
        let body = json!({ "data": data }).to_string();
        let figures = OPENROUTER.parse_quota("openrouter.ai", body.as_bytes())?;
        assert_eq!(&*figures.unit, "USD");
        Ok((figures.remaining, figures.limit))
    }

    #[test]
    fn a_key_has_what_its_limit_leaves_it() {
        let key = json!({"label": "sk-or-v1-a", "limit": 100, "limit_remaining": 74.5, "limit_reset": "monthly",
            "usage": 25.5, "usage_daily": 2, "is_free_tier": false});
        assert_eq!(read(key), Ok((Some(74.5), Some(100.0))));
        let spent = json!({"limit": 10, "limit_remaining": -0.01});
        assert_eq!(read(spent), Ok((Some(0.0), Some(10.0))));
        let free =
            json!({"limit": null, "limit_remaining": null, "usage": 3, "is_free_tier": true});
        assert_eq!(read(free), Ok((None, None)));
    }

    #[test]
    fn the_budget_that_applies_bounds_what_a_key_has_left() {
        for (left, budget, expect) in [
            (json!(74.5), json!(5), Some(5.0)),
            (json!(4), json!(5), Some(4.0)),
            (json!(null), json!("5"), Some(5.0)),
            (json!(null), json!(null), None),
        ] {
            let key = json!({"limit": null, "limit_remaining": left, "effective_budget": {"remaining_usd": budget}});
            assert_eq!(read(key.clone()), Ok((expect, None)), "{key}");
        }
    }

    #[test]
    fn a_key_without_figures_has_no_quota() {
        for data in [
            json!(null),
            json!([]),
            json!({}),
            json!({"usage": 3}),
            json!({"limit": 10, "usage": 3}),
            json!({"limit": 10, "limit_remaining": null}),
            json!({"limit": null, "limit_remaining": {}}),
            json!({"effective_budget": 5}),
        ] {
            assert_eq!(read(data.clone()), Err(QuotaError::NoFigures), "{data}");
        }
        let body = br#"{"error":{"code":500,"message":"no"},"data":{"limit_remaining":1}}"#;
        let figures = OPENROUTER.parse_quota("openrouter.ai", body);
        assert_eq!(figures, Err(QuotaError::ErrorInBody));
    }
}
