//! No caller can choose a pool's state: what a provider quotes of a request decides nothing.

use http::HeaderMap;
use jiff::Timestamp;
use keypool_core::fault::{Class, Fault};
use keypool_providers::catalogue;
use keypool_providers::errors::ErrorResponse;
use serde_json::{Value, json};

use super::{NOW, body_of, fixtures};

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
    let now: Timestamp = NOW.parse().unwrap();
    catalogue::find(dialect).unwrap().judge(&ErrorResponse {
        status,
        headers: &HeaderMap::new(),
        body: body.as_bytes(),
        now: now.into(),
    })
}

/// What a caller could write: the message, code and body of every fixture that blames a key.
fn words_that_blame_a_key() -> Vec<String> {
    let mut words = Vec::new();
    for file in fixtures() {
        for fixture in &file.all {
            let class = fixture["class"].as_str().unwrap();
            if matches!(class, "caller_fault" | "success") {
                continue;
            }
            let error = &fixture["body"]["error"];
            words.extend(error["message"].as_str().map(str::to_owned));
            words.extend(fixture["code"].as_str().map(str::to_owned));
            words.push(body_of(fixture));
        }
    }
    words.sort_unstable();
    words.dedup();
    words.retain(|words| !words.trim().is_empty());
    words
}

fn wrong(statuses: &[u16], may_be: fn(Class) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for words in words_that_blame_a_key() {
        for quote in QUOTES {
            for body in refusals(&quote.replace("{}", &words)) {
                for dialect in catalogue::ALL {
                    for &status in statuses {
                        let fault = judged(dialect.name, status, &body);
                        if !may_be(fault.class) {
                            wrong.push(format!("{} {status} {body}: {fault:?}", dialect.name));
                        }
                    }
                }
            }
        }
    }
    wrong
}

#[test]
fn a_refusal_that_quotes_the_caller_blames_no_key() {
    let wrong = wrong(&[400, 404, 422], |class| class == Class::CallerFault);
    assert!(wrong.is_empty(), "{} in all\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn an_outage_that_quotes_the_caller_stays_an_outage() {
    let wrong = wrong(&[500, 503], |class| {
        matches!(class, Class::UpstreamTrouble | Class::CallerFault)
    });
    assert!(wrong.is_empty(), "{} in all\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn a_403_that_quotes_the_caller_takes_no_key_out_of_use() {
    let wrong = wrong(&[403], |class| {
        !matches!(class, Class::Rejected | Class::Exhausted | Class::RateLimited)
    });
    let wrong: Vec<_> = wrong.iter().filter(|wrong| !wrong.contains(" 403 {\"error\":\"") || true).collect();
    assert!(wrong.is_empty(), "{} in all\n{}", wrong.len(), wrong[..wrong.len().min(20)].iter().map(|s| s.as_str()).collect::<Vec<_>>().join("\n"));
}
