//! No caller can choose a pool's state: what a provider quotes of a request decides nothing.

use http::HeaderMap;
use jiff::Timestamp;
use keypool_core::fault::{Class, Fault};
use keypool_providers::catalogue;
use keypool_providers::errors::ErrorResponse;
use serde_json::{Value, json};

use super::{NOW, fixtures};

/// How providers quote a caller. `{}` is the caller's text.
const QUOTES: &[&str] = &[
    "Invalid value: '{}'. Supported values are: 'user'.",
    "Unexpected role \"{}\"",
    "Unknown role `{}`.",
    "messages.0.role: {}",
    "Unknown role: {}",
    "Invalid role {}",
    "{}: Extra inputs are not permitted",
    "{} is no role",
];

/// The forms of a refusal with a message, each with a type that says nothing.
fn refusals(message: &str) -> Vec<String> {
    let bodies = [
        json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}}),
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}}),
        json!({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}),
        json!({"error": {"code": "BadRequest", "message": message, "type": "BadRequest"}}),
        json!({"code": 20015, "message": message, "data": null}),
        json!({"detail": {"error": message}}),
        json!({"detail": message}),
        json!({"error": message}),
    ];
    let texts = bodies.iter().map(Value::to_string);
    texts.chain([message.to_owned()]).collect()
}

fn judged(dialect: &str, status: u16, body: &str) -> Fault {
    let now: Timestamp = NOW.parse().expect("an RFC 3339 time");
    catalogue::find(dialect)
        .expect("a known dialect")
        .judge(&ErrorResponse {
            status,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            now: now.into(),
        })
}

/// What a caller could write: the message of every fixture that blames a key, or its code.
fn words_that_blame_a_key() -> Vec<String> {
    let mut words = Vec::new();
    for file in fixtures() {
        for fixture in &file.all {
            let class = fixture["class"].as_str().expect("a class");
            if matches!(class, "caller_fault" | "upstream_trouble" | "success") {
                continue;
            }
            let body = &fixture["body"];
            let messages = [
                &body["error"]["message"],
                &body["message"],
                &fixture["code"],
            ];
            words.extend(
                messages
                    .iter()
                    .find_map(|text| text.as_str())
                    .map(str::to_owned),
            );
        }
    }
    words.sort_unstable();
    words.dedup();
    words
}

/// What is judged wrongly under `statuses`. Each combination of words and quotation has one of the forms.
fn wrong(statuses: &[u16], may_be: fn(Class) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, words) in words_that_blame_a_key().iter().enumerate() {
        for (quote_at, quote) in QUOTES.iter().enumerate() {
            let bodies = refusals(&quote.replace("{}", words));
            let body = &bodies[(at + quote_at) % bodies.len()];
            for dialect in catalogue::ALL {
                for &status in statuses {
                    let fault = judged(dialect.name, status, body);
                    if !may_be(fault.class) {
                        wrong.push(format!("{} {status} {body}: {fault:?}", dialect.name));
                    }
                }
            }
        }
    }
    wrong
}

fn assert_none(wrong: &[String]) {
    let shown = &wrong[..wrong.len().min(20)];
    assert!(
        wrong.is_empty(),
        "{} in all\n{}",
        wrong.len(),
        shown.join("\n")
    );
}

#[test]
fn a_refusal_that_quotes_the_caller_blames_no_key() {
    assert_none(&wrong(&[400, 404, 422], |class| {
        class == Class::CallerFault
    }));
}

#[test]
fn an_outage_that_quotes_the_caller_stays_an_outage() {
    assert_none(&wrong(&[500, 503], |class| {
        matches!(class, Class::UpstreamTrouble | Class::CallerFault)
    }));
}
