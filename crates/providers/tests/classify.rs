//! Every row of the providers' error tables as a fixture.

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use keypool_providers::catalogue;
use keypool_providers::dialect::Refusal;
use keypool_providers::protocol::{error_in_body, error_in_event};
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
