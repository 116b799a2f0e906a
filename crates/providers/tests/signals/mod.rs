//! The table of error signals of all providers, each with a fixture that shows it.
//!
//! Failures without a response (a connection that fails or is reset before the first byte) are not a dialect's matter.

use std::collections::BTreeSet;

use super::{Fixtures, fixtures};

/// Signal, dialect, fixture.
type Signal = (&'static str, &'static str, &'static str);

const REJECTED: &[Signal] = &[
    ("401", "openai", "an incorrect key"),
    ("401 authentication_error", "anthropic", "an invalid key"),
    ("400 API_KEY_INVALID", "gemini", "an invalid key"),
    ("401 UNAUTHENTICATED", "gemini", "a key of the wrong type"),
    ("401", "deepseek", "an invalid key"),
    ("401", "groq", "an invalid key"),
    ("401", "mistral", "an invalid key"),
    ("401", "moonshot", "an invalid key"),
    ("401", "siliconflow", "an invalid key"),
    ("401", "openrouter", "an invalid key"),
    ("401 AuthenticationError", "ark", "an invalid key"),
    ("401 InvalidAccountStatus", "ark", "an account out of order"),
    ("401", "tavily", "an invalid key"),
];

const FORBIDDEN: &[Signal] = &[
    ("403 permission_error", "anthropic", "no permission"),
    ("403 PERMISSION_DENIED", "gemini", "no permission"),
    ("403 region", "openai", "a country that is not served"),
    ("403 AccessDenied", "ark", "no access"),
    ("403 ServiceNotOpen", "ark", "a service not opened"),
    ("404 ModelNotOpen", "ark", "a model not opened"),
    (
        "404 InvalidEndpointOrModel",
        "ark",
        "an unknown endpoint or model",
    ),
    (
        "400 FAILED_PRECONDITION",
        "gemini",
        "a region without a free tier",
    ),
    ("403", "openrouter", "no permission"),
    ("403", "moonshot", "no permission"),
    (
        "403",
        "siliconflow",
        "a model that asks for a verified name",
    ),
    ("403", "groq", "no permission"),
    ("403", "mistral", "no access to the model"),
];

const EXHAUSTED: &[Signal] = &[
    ("429 billing code", "openai", "no credit left"),
    (
        "400 credit text",
        "anthropic",
        "a credit balance that is too low",
    ),
    (
        "400 spend text",
        "anthropic",
        "the organisation's own usage limit",
    ),
    ("402", "anthropic", "a billing error"),
    (
        "429 enforced_spend_limit_reached",
        "anthropic",
        "the monthly cap of the tier",
    ),
    (
        "402 RESOURCE_EXHAUSTED",
        "gemini",
        "prepaid credit is spent",
    ),
    ("402", "deepseek", "no balance"),
    (
        "402 without Retry-After",
        "openrouter",
        "an account without credits",
    ),
    ("403 budget", "openrouter", "a guardrail's budget, spent"),
    (
        "429 exceeded_current_quota_error",
        "moonshot",
        "an account without balance",
    ),
    ("403 AccountOverdueError", "ark", "an overdue account"),
    ("403 ServiceOverdue", "ark", "an overdue service"),
    ("429 QuotaExceeded", "ark", "a spent free trial"),
    ("429 SetLimitExceeded", "ark", "the operator's own cap"),
    ("432", "tavily", "the plan's limit"),
    ("433", "tavily", "the pay-as-you-go limit"),
    ("402", "mistral", "payment required"),
];

const RATE_LIMITED: &[Signal] = &[
    ("429", "openai", "too many requests with Retry-After"),
    ("429", "anthropic", "a rate limit with retry-after"),
    ("429", "gemini", "a rate limit with a delay"),
    ("429", "deepseek", "too many calls at once"),
    ("429", "openrouter", "a rate limit that states nothing"),
    ("429", "moonshot", "too many requests in a minute"),
    ("429", "siliconflow", "too many tokens in a minute"),
    (
        "429",
        "groq",
        "too many tokens in a minute, with retry-after",
    ),
    ("429", "mistral", "a rate limit with Retry-After"),
    ("429", "ark", "a rate limit with Retry-After"),
    ("429", "tavily", "a rate limit"),
    (
        "402 with Retry-After",
        "openrouter",
        "calls in flight that fill the budget",
    ),
    ("429 PerDay", "gemini", "a spent day, in winter"),
    (
        "429 RPD",
        "groq",
        "the day's requests are spent, not the tokens",
    ),
    (
        "429 TPD",
        "groq",
        "a spent day of tokens, which no header knows",
    ),
    ("429 TPD", "moonshot", "a spent day of tokens"),
    (
        "429 free models per day",
        "openrouter",
        "the free calls of a day, no reset",
    ),
];

const TROUBLE: &[Signal] = &[
    ("529", "anthropic", "overloaded"),
    ("503 server_is_overloaded", "openai", "an overloaded server"),
    ("429 slow_down", "openai", "traffic that grew too fast"),
    ("503", "gemini", "overloaded"),
    ("429 ServerOverloaded", "ark", "overloaded"),
    (
        "429 RequestBurstTooFast",
        "ark",
        "a burst that came too fast",
    ),
    (
        "429 engine_overloaded_error",
        "moonshot",
        "an overloaded engine",
    ),
    ("503", "moonshot", "unavailable"),
    ("503", "deepseek", "overloaded"),
    ("502", "openrouter", "a provider that is down"),
    ("503", "openrouter", "a provider that is overloaded"),
    ("498", "groq", "a flexible tier that is full"),
    ("500", "openai-compatible", "a server error"),
    ("502", "openai-compatible", "an HTML page from a proxy"),
    ("504", "openai-compatible", "a time-out behind a proxy"),
    (
        "408",
        "openai-compatible",
        "a time-out waiting for the request",
    ),
    ("520-527", "openai-compatible", "a CDN's own status"),
];

const CALLER_FAULT: &[Signal] = &[
    ("400", "openai-compatible", "a malformed request"),
    ("404", "openai-compatible", "an unknown model"),
    ("405", "openai-compatible", "a method that is not allowed"),
    ("409", "openai-compatible", "a conflict"),
    ("413", "anthropic", "a request too large"),
    (
        "415",
        "openai-compatible",
        "a media type that is not supported",
    ),
    (
        "422",
        "openai-compatible",
        "parameters that cannot be processed",
    ),
    (
        "413 above the limit",
        "groq",
        "a request above the tokens of a minute",
    ),
    (
        "429 above the limit",
        "openai",
        "a request above the whole limit",
    ),
    ("moderation", "openrouter", "a moderated prompt"),
];

const TOO_EXPENSIVE: &[Signal] = &[
    (
        "402 above the budget",
        "openrouter",
        "a request too dear for the balance",
    ),
    (
        "402 can only afford",
        "openrouter",
        "a request above what is left",
    ),
    (
        "403 remaining, needed",
        "openai-compatible",
        "a request above what is left (new-api)",
    ),
];

const INTERMEDIARY: &[Signal] = &[
    (
        "403 error code: 1000",
        "openai-compatible",
        "a CDN's line of text",
    ),
    ("403 cf-mitigated", "openai-compatible", "a CDN's challenge"),
    ("403 HTML", "openai-compatible", "a proxy's page"),
    ("407", "openai-compatible", "our own proxy asks for a login"),
];

#[test]
fn every_signal_has_its_fixture() {
    for (class, signals, count) in [
        ("rejected", REJECTED, 13),
        ("forbidden", FORBIDDEN, 13),
        ("exhausted", EXHAUSTED, 17),
        ("rate_limited", RATE_LIMITED, 17),
        ("upstream_trouble", TROUBLE, 17),
        ("caller_fault", CALLER_FAULT, 10),
        ("too_expensive", TOO_EXPENSIVE, 3),
        ("intermediary_trouble", INTERMEDIARY, 4),
    ] {
        assert_eq!(signals.len(), count, "{class}");
        for (signal, dialect, fixture) in signals {
            let found = class_of(dialect, fixture);
            assert_eq!(
                found.as_deref(),
                Some(class),
                "{dialect} {signal}: {fixture}"
            );
        }
    }
}

#[test]
fn no_provider_needs_json_or_trusts_what_a_caller_says() {
    for Fixtures { dialect, .. } in fixtures() {
        let page = class_of(dialect, "an HTML page from a proxy");
        assert_eq!(page.as_deref(), Some("upstream_trouble"), "{dialect}");
        let quoted = class_of(dialect, "the caller's own words, quoted");
        // The mock quotes in the words of each provider that it imitates.
        let expect = (dialect != "mock").then_some("caller_fault");
        assert_eq!(quoted.as_deref(), expect, "{dialect}");
    }
}

#[test]
fn each_class_is_shown_for_each_provider_that_knows_it() {
    const ALL: &[&str] = &[
        "caller_fault",
        "rate_limited",
        "exhausted",
        "rejected",
        "forbidden",
        "upstream_trouble",
        "too_expensive",
    ];
    for file in fixtures() {
        let shown = file.all.iter().filter_map(|found| found["class"].as_str());
        let shown: BTreeSet<&str> = shown.collect();
        for &class in ALL {
            let never = file.never.iter().any(|never| never == class);
            assert_eq!(shown.contains(class), !never, "{}: {class}", file.dialect);
        }
    }
}

fn class_of(dialect: &'static str, fixture: &str) -> Option<String> {
    let all = Fixtures::read(dialect).all;
    let found = all.iter().find(|found| found["name"] == fixture)?;
    found["class"].as_str().map(str::to_owned)
}
