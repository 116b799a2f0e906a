//! Every row of the providers' error tables as a fixture.

use std::collections::BTreeSet;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use keypool_core::fault::Scope;
use keypool_providers::catalogue;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::protocol::{error_in_body, error_in_event};
use serde_json::Value;

mod docs_table;
mod quoted;
mod signals;

/// What `fixtures/<name>.json` holds.
struct Fixtures {
    dialect: &'static str,
    /// The number of fixtures, so that a lost one is noticed.
    count: u64,
    /// Classes that the provider's errors never have.
    never: Vec<String>,
    all: Vec<Value>,
}

/// The fixtures of every dialect in the catalogue.
fn fixtures() -> Vec<Fixtures> {
    let dialects = catalogue::ALL.iter().map(|dialect| dialect.name);
    dialects.map(Fixtures::read).collect()
}

impl Fixtures {
    fn read(dialect: &'static str) -> Self {
        let path = Path::new(FOLDER).join(format!("{dialect}.json"));
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let never = file["never"].as_array().expect("a list").iter();
        Self {
            dialect,
            count: file["count"].as_u64().expect("a number"),
            never: never
                .map(|class| class.as_str().expect("a class").to_owned())
                .collect(),
            all: file["fixtures"].as_array().expect("a list").clone(),
        }
    }
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// The time of a fixture that gives none.
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

/// What a dialect makes of a fixture: class, wait in milliseconds, code, whether a rule recognized it, scope.
type Judged = (&'static str, Option<u128>, Option<String>, bool, Scope);

fn judged(dialect: &str, fixture: &Value) -> Judged {
    let body = body_of(fixture);
    let now: Timestamp = fixture["now"]
        .as_str()
        .unwrap_or(NOW)
        .parse()
        .expect("an RFC 3339 time");
    let dialect = catalogue::find(dialect).expect("a known dialect");
    let fault = dialect.judge(&ErrorResponse {
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
        fault.is_recognized,
        fault.scope,
    )
}

/// What a fixture expects. `recognized` is true unless stated, and `scope` is the model.
fn expected(fixture: &Value) -> (&str, Option<u128>, Option<String>, bool, Scope) {
    let scope = match fixture["scope"].as_str() {
        None => Scope::Model,
        Some("endpoint") => Scope::Endpoint,
        Some(other) => panic!("unknown scope `{other}`"),
    };
    (
        fixture["class"].as_str().expect("a class"),
        fixture["wait_ms"].as_u64().map(u128::from),
        fixture["code"].as_str().map(str::to_owned),
        fixture["recognized"].as_bool().unwrap_or(true),
        scope,
    )
}

#[test]
fn every_fixture_is_classified_as_its_row_says() {
    let mut wrong = Vec::new();
    for Fixtures { dialect, all, .. } in fixtures() {
        for fixture in &all {
            let expect = expected(fixture);
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
fn an_error_inside_a_200_is_classified_alike() {
    for Fixtures { dialect, all, .. } in fixtures() {
        let inside = |fixture: &&Value| fixture["row"].as_str().unwrap().starts_with("200 with");
        for fixture in all.iter().filter(inside) {
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
fn every_fixture_file_belongs_to_a_dialect() {
    let mut files: Vec<String> = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort_unstable();
    let dialects = catalogue::ALL.iter();
    let mut expect: Vec<String> = dialects
        .map(|dialect| format!("{}.json", dialect.name))
        .collect();
    expect.sort_unstable();
    assert_eq!(files, expect);
}

#[test]
fn no_fixture_is_missing_or_there_twice() {
    for file in fixtures() {
        let names = file.all.iter();
        let names: BTreeSet<&str> = names.map(|found| found["name"].as_str().unwrap()).collect();
        let count = usize::try_from(file.count).unwrap();
        assert_eq!(
            (names.len(), file.all.len()),
            (count, count),
            "{}",
            file.dialect
        );
        assert!(count > 0, "{}", file.dialect);
    }
}
