//! Every row of the providers' error tables as a fixture, and proof that no bytes make a dialect panic.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use keypool_core::base_url::BaseUrl;
use keypool_core::fault::Class;
use keypool_providers::catalogue;
use keypool_providers::dialect::Refusal;
use keypool_providers::protocol::Protocol;
use keypool_providers::wait::{parse_wait, retry_after};
use proptest::prelude::*;
use serde_json::Value;

/// Dialect, its fixtures, and how many there are: one that goes missing fails.
const FIXTURES: [(&str, &str, usize); 7] = [
    ("openai", include_str!("../fixtures/openai.json"), 42),
    ("anthropic", include_str!("../fixtures/anthropic.json"), 46),
    ("gemini", include_str!("../fixtures/gemini.json"), 41),
    ("ark", include_str!("../fixtures/ark.json"), 56),
    ("tavily", include_str!("../fixtures/tavily.json"), 19),
    (
        "openai-compatible",
        include_str!("../fixtures/openai-compatible.json"),
        28,
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

/// What a dialect makes of a fixture: class, wait in milliseconds, code.
fn judged(dialect: &str, fixture: &Value) -> (&'static str, Option<u128>, Option<String>) {
    let body = match &fixture["body"] {
        Value::String(text) => text.clone(),
        json => json.to_string(),
    };
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

#[test]
fn the_list_holds_every_provider_once_and_in_order() {
    let names: Vec<&str> = catalogue::all()
        .iter()
        .map(|dialect| dialect.name())
        .collect();
    let expect = [
        "openai",
        "anthropic",
        "gemini",
        "ark",
        "tavily",
        "deepseek",
        "openrouter",
        "moonshot",
        "siliconflow",
        "groq",
        "mistral",
        "openai-compatible",
        "mock",
    ];
    assert_eq!(names, expect);
    assert!(catalogue::find("nobody").is_none());
}

#[test]
fn what_each_dialect_declares_can_be_used() {
    for dialect in catalogue::all() {
        let name = dialect.name();
        assert_eq!(catalogue::find(name).unwrap().name(), name);
        let has_fixtures = FIXTURES.iter().any(|(known, ..)| *known == name);
        assert_eq!(dialect.incomplete().is_none(), has_fixtures, "{name}");
        if let Some(base_url) = dialect.default_base_url() {
            assert_eq!(base_url.parse::<BaseUrl>().unwrap().to_string(), base_url);
            let variable = format!("{}_BASE_URL", name.to_ascii_uppercase());
            assert_eq!(dialect.env_base_url(), Some(variable.as_str()));
            assert!(!dialect.env_keys().is_empty(), "{name}");
        }
        for header in dialect
            .account_headers()
            .iter()
            .chain(dialect.request_id_headers())
        {
            assert_eq!(*header, HeaderName::from_static(header).as_str());
        }
        for header in dialect.request_id_headers() {
            assert!(!dialect.is_private_header(header), "{name}: {header}");
        }
    }
}

#[test]
fn a_model_list_is_asked_for_where_there_is_one() {
    for (name, path, query) in [
        ("openai", "/v1/models", ""),
        ("anthropic", "/v1/models", "limit=1000"),
        ("gemini", "/v1beta/models", "pageSize=1000"),
        ("ark", "/api/v3/models", ""),
        ("groq", "/openai/v1/models", ""),
    ] {
        let dialect = catalogue::find(name).unwrap();
        let call = dialect.list_models().unwrap();
        let base: BaseUrl = dialect.default_base_url().unwrap().parse().unwrap();
        let sent = dialect.upstream_path(dialect.protocols()[0], base.path(), call.path);
        assert_eq!((sent.as_str(), call.query), (path, query), "{name}");
    }
    assert!(catalogue::find("tavily").unwrap().list_models().is_none());
}

#[test]
fn accounts_are_not_chosen_by_callers_nor_told_to_them() {
    for (name, header) in [
        ("openai", "openai-project"),
        ("groq", "openai-organization"),
        ("ark", "openai-organization"),
        ("anthropic", "anthropic-workspace-id"),
        ("anthropic", "anthropic-user-profile-id"),
        ("gemini", "x-goog-user-project"),
        ("tavily", "x-tavily-access-mode"),
        ("tavily", "x-project-id"),
        ("mock", "anthropic-workspace-id"),
    ] {
        assert!(
            catalogue::find(name)
                .unwrap()
                .account_headers()
                .contains(&header),
            "{name}: {header}"
        );
    }
    for (name, header, private) in [
        ("openai", "openai-organization", true),
        ("openai", "x-ratelimit-remaining-tokens_usage_based", true),
        ("openai", "openai-processing-ms", false),
        ("openai", "retry-after", false),
        ("mistral", "ratelimitbysize-limit", true),
        ("anthropic", "anthropic-ratelimit-input-tokens-reset", true),
        ("anthropic", "anthropic-priority-output-tokens-limit", true),
        ("anthropic", "anthropic-organization-id", true),
        ("anthropic", "anthropic-workspace-id", true),
        ("anthropic", "anthropic-version", false),
        ("anthropic", "x-ratelimit-limit-requests", true),
        ("gemini", "content-type", false),
        ("mock", "anthropic-ratelimit-requests-limit", true),
        ("mock", "x-ratelimit-limit-requests", true),
    ] {
        assert_eq!(
            catalogue::find(name).unwrap().is_private_header(header),
            private,
            "{name}: {header}"
        );
    }
}

#[test]
fn no_secret_that_cannot_stand_in_a_header_is_sent() {
    for dialect in catalogue::all() {
        for protocol in dialect.protocols() {
            let (_, value) = dialect.credential(*protocol, "key-1").unwrap();
            assert!(value.is_sensitive(), "{}", dialect.name());
            assert!(
                dialect.credential(*protocol, "key\r\nx: y").is_none(),
                "{}",
                dialect.name()
            );
        }
    }
}

/// Texts that dialects look for, so that random bodies reach into their rules.
const WORDS: [&str; 24] = [
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
