//! Every row of the providers' error tables as a fixture, and proof that no bytes make a dialect panic.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use keypool_core::fault::Class;
use keypool_providers::catalogue;
use keypool_providers::dialect::Refusal;
use keypool_providers::protocol::{Protocol, error_in_body, error_in_event};
use keypool_providers::wait::{parse_wait, retry_after};
use proptest::prelude::*;
use serde_json::Value;

mod signals;

/// Dialect, its fixtures, and how many there are: one that goes missing fails.
const FIXTURES: [(&str, &str, usize); 13] = [
    ("openai", include_str!("../fixtures/openai.json"), 42),
    ("anthropic", include_str!("../fixtures/anthropic.json"), 46),
    ("gemini", include_str!("../fixtures/gemini.json"), 41),
    ("ark", include_str!("../fixtures/ark.json"), 56),
    ("tavily", include_str!("../fixtures/tavily.json"), 19),
    ("deepseek", include_str!("../fixtures/deepseek.json"), 24),
    (
        "openrouter",
        include_str!("../fixtures/openrouter.json"),
        72,
    ),
    ("moonshot", include_str!("../fixtures/moonshot.json"), 42),
    (
        "siliconflow",
        include_str!("../fixtures/siliconflow.json"),
        34,
    ),
    ("groq", include_str!("../fixtures/groq.json"), 38),
    ("mistral", include_str!("../fixtures/mistral.json"), 34),
    (
        "openai-compatible",
        include_str!("../fixtures/openai-compatible.json"),
        31,
    ),
    ("mock", include_str!("../fixtures/mock.json"), 25),
];

/// The time of a fixture that names none.
const NOW: &str = "2026-11-22T12:00:00Z";

fn headers_of(fixture: &Value) -> HeaderMap {
    let pairs = fixture["headers"]
        .as_object()
        .expect("headers are an object");
    let parse = |(name, value): (&String, &Value)| {
        let name: HeaderName = name.parse().expect("a header name");
        (
            name,
            HeaderValue::from_str(value.as_str().expect("a string")).expect("a header value"),
        )
    };
    pairs.iter().map(parse).collect()
}

fn body_of(fixture: &Value) -> String {
    match &fixture["body"] {
        Value::String(text) => text.clone(),
        json => json.to_string(),
    }
}

/// What a dialect makes of a fixture: class, wait in milliseconds, code.
fn judged(dialect: &str, fixture: &Value) -> (&'static str, Option<u128>, Option<String>) {
    let body = body_of(fixture);
    let now: Timestamp = fixture["now"]
        .as_str()
        .unwrap_or(NOW)
        .parse()
        .expect("an RFC 3339 time");
    let fault = catalogue::find(dialect)
        .expect("a known dialect")
        .classify(&Refusal {
            status: fixture["status"]
                .as_u64()
                .and_then(|status| status.try_into().ok())
                .expect("a status"),
            headers: &headers_of(fixture),
            body: body.as_bytes(),
            now: now.into(),
        });
    (
        fault.class.as_str(),
        fault.wait.map(|wait| wait.as_millis()),
        fault.code,
    )
}

#[test]
fn every_fixture_is_judged_as_its_row_says() {
    let mut wrong = Vec::new();
    for (dialect, text, _) in FIXTURES {
        let fixtures: Vec<Value> = serde_json::from_str(text).unwrap();
        for fixture in &fixtures {
            let expect = (
                fixture["class"].as_str().unwrap(),
                fixture["wait_ms"].as_u64().map(u128::from),
                fixture["code"].as_str().map(str::to_owned),
            );
            let found = judged(dialect, fixture);
            if found != expect {
                wrong.push(format!(
                    "{dialect}: {}: found {found:?}, expected {expect:?}",
                    fixture["name"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_error_inside_a_200_is_found_and_judged_alike() {
    for (dialect, text, _) in FIXTURES {
        let fixtures: Vec<Value> = serde_json::from_str(text).unwrap();
        let inside = |fixture: &&Value| fixture["row"].as_str().unwrap().starts_with("200 with");
        for fixture in fixtures.iter().filter(inside) {
            let body = body_of(fixture);
            let status = error_in_body(body.as_bytes())
                .or_else(|| error_in_event(body.as_bytes()))
                .or_else(|| error_in_event(format!("data: {}", body.trim()).as_bytes()));
            let mut found = fixture.clone();
            found["status"] = status.into();
            assert_eq!(
                judged(dialect, &found),
                judged(dialect, fixture),
                "{dialect}: {fixture}"
            );
        }
    }
}

#[test]
fn every_complete_dialect_has_fixtures() {
    for dialect in catalogue::all() {
        let has_fixtures = FIXTURES.iter().any(|(known, ..)| *known == dialect.name());
        assert_eq!(
            dialect.incomplete().is_none(),
            has_fixtures,
            "{}",
            dialect.name()
        );
    }
}

#[test]
fn no_fixture_is_missing_or_said_twice() {
    for (dialect, text, count) in FIXTURES {
        let fixtures: Vec<Value> = serde_json::from_str(text).unwrap();
        let mut names: Vec<&str> = fixtures
            .iter()
            .map(|fixture| fixture["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), fixtures.len()), (count, count), "{dialect}");
    }
}

/// Texts that dialects look for, so that random bodies reach into their rules.
const WORDS: [&str; 36] = [
    "insufficient_quota",
    "rate_limit_exceeded",
    "Request too large: Limit 1, Requested 99999999999999999999999",
    "Please try again in 99999999999999999999h",
    "try again in 1.2.3s",
    "access on 2026-12-01 at 99:99 +9999",
    "2026-11-22é",
    "-9999-01-01T00:00:00Z",
    "enforced_spend_limit_reached",
    "You have reached your API usage limits",
    "QuotaExceeded",
    "5-hour usage quota",
    "RESOURCE_EXHAUSTED",
    "GenerateRequestsPerDayPerProject",
    "API_KEY_INVALID",
    "999999999999s",
    "",
    "0",
    "-1",
    "NaN",
    "1e400",
    "18446744073709551616",
    "Sun, 22 Nov 2026 12:00:30 GMT",
    "µs",
    "Insufficient Balance",
    "in_flight_budget_exhausted",
    "weight_exceeds_budget",
    "openrouter_free_tier_daily",
    "provider_unavailable",
    "exceeded_current_quota_error",
    "TPD limit reached",
    "30001",
    "blocked_api_access",
    "capacity_exceeded",
    "1300",
    "1795348860000",
];

fn json_like() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        proptest::sample::select(&WORDS[..]).prop_map(|word| Value::from(word).to_string()),
        any::<f64>().prop_map(|number| Value::from(number).to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("null".to_owned()),
    ];
    let names = proptest::sample::select(
        &[
            "error",
            "code",
            "type",
            "status",
            "message",
            "detail",
            "details",
            "reason",
            "error_code",
            "violations",
            "quotaId",
            "retryDelay",
            "retry_after_seconds",
            "response",
            "data",
            "models",
            "id",
            "name",
            "created_at",
            "metadata",
            "availability",
            "retryable",
            "retry_after",
            "resets_at",
            "limit_source",
            "error_type",
            "headers",
            "X-RateLimit-Reset",
        ][..],
    );
    leaf.prop_recursive(5, 48, 6, move |inner| {
        let field =
            (names.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            proptest::collection::vec(field, 0..6)
                .prop_map(|fields| format!("{{{}}}", fields.join(","))),
            proptest::collection::vec(inner, 0..3)
                .prop_map(|items| format!("[{}]", items.join(","))),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        json_like().prop_map(String::into_bytes)
    ]
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let names = proptest::sample::select(
        &[
            "retry-after",
            "retry-after-ms",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-limit-tokens",
            "x-ratelimit-reset-tokens",
            "x-ratelimit-reset",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ][..],
    );
    let values = prop_oneof![
        proptest::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..30),
    ];
    proptest::collection::vec((names, values), 0..5).prop_map(|pairs| {
        let valid = pairs.into_iter().filter_map(|(name, value)| {
            Some((
                HeaderName::from_static(name),
                HeaderValue::from_bytes(&value).ok()?,
            ))
        });
        valid.collect()
    })
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    // Beyond the years that a calendar knows, on both sides.
    (any::<bool>(), 0..1_000_000_000_000_u64).prop_map(|(future, seconds)| {
        let span = Duration::from_secs(seconds);
        let time = if future {
            SystemTime::UNIX_EPOCH.checked_add(span)
        } else {
            SystemTime::UNIX_EPOCH.checked_sub(span)
        };
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    })
}

proptest! {
    #[test]
    fn no_answer_makes_a_dialect_panic(
        status in any::<u16>(),
        headers in any_headers(),
        body in any_body(),
        now in any_time(),
    ) {
        for dialect in catalogue::all() {
            let fault = dialect.classify(&Refusal { status, headers: &headers, body: &body, now });
            prop_assert_eq!(fault.class == Class::Success, status < 400, "{}", dialect.name());
            prop_assert!(fault.wait.is_none_or(|wait| wait <= Duration::from_secs(31 * 86_400)));
            prop_assert!(fault.code.is_none_or(|code| !code.is_empty() && code.len() <= 80 && code.is_ascii()));
            dialect.parse_models(&body);
        }
        retry_after(&headers, now);
    }

    #[test]
    fn no_text_makes_the_wait_parser_panic(text in "\\PC*", now in any_time()) {
        for text in [text.as_str()].into_iter().chain(WORDS) {
            prop_assert!(parse_wait(text, now).is_none_or(|wait| wait <= Duration::from_secs(31 * 86_400)));
        }
    }

    #[test]
    fn every_path_stays_below_its_base(base in "(/[a-z0-9]{1,4}){0,3}", path in "/[a-z0-9/%:]{0,20}") {
        for dialect in catalogue::all() {
            for protocol in [Protocol::OpenAi, Protocol::Anthropic, Protocol::Gemini, Protocol::Tavily] {
                let sent = dialect.upstream_path(protocol, &base, &path);
                prop_assert!(sent.starts_with('/') && sent.starts_with(&base), "{} {}", dialect.name(), sent);
            }
        }
    }
}
