//! No caller can hurt another: whatever one caller's requests make a provider say, the next caller is served at once.
//!
//! Left out are answers that speak of the key, its account or its rate: these are true for every caller.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{Gateway, PoolConfig};
use crate::raw_provider::{RawProvider, Say};

/// Enough failures for the breaker.
const TIMES: usize = 12;
const KEYS: usize = 3;
/// Classes that speak of the key, its account or its rate.
const TRUE_FOR_ALL: [&str; 4] = ["rate_limited", "exhausted", "rejected", "forbidden"];

/// What the provider answers to the bad caller's request of this number.
struct Case {
    name: String,
    answer: Say,
}

fn answer(status: u64, headers: &Value, body: &str) -> Say {
    let headers = headers.as_object().into_iter().flatten();
    let headers: String = headers
        .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap_or_default()))
        .collect();
    let length = body.len();
    Say::stay(&format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))
}

/// Every fixture of the provider that is about the request, the provider or the way to it.
fn fixtures(provider: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../providers/fixtures");
    let text = fs::read(folder.join(format!("{provider}.json"))).expect("fixtures");
    let file: Value = serde_json::from_slice(&text).expect("JSON");
    let fixtures = file["fixtures"].as_array().expect("a list");
    fixtures
        .iter()
        .filter(|fixture| !TRUE_FOR_ALL.contains(&fixture["class"].as_str().expect("a class")))
        .filter(|fixture| fixture["status"].as_u64() >= Some(300))
        .map(|fixture| {
            let body = match &fixture["body"] {
                Value::String(text) => text.clone(),
                json => json.to_string(),
            };
            Case {
                name: format!("{provider}: {}", fixture["name"]),
                answer: answer(
                    fixture["status"].as_u64().expect("a status"),
                    &fixture["headers"],
                    &body,
                ),
            }
        })
        .collect()
}

/// Trouble without a status of its own, and 200s without an answer.
fn other_trouble() -> Vec<Case> {
    let json = serde_json::json!({"content-type": "application/json"});
    let case = |name: &str, answer| Case {
        name: name.to_owned(),
        answer,
    };
    vec![
        case("a reset", Say::close("")),
        case("no answer in time", Say::stay("")),
        case("half a head", Say::close("HTTP/1.1 200 OK\r\nconte")),
        case("an empty body", answer(200, &json, "")),
        case("a web page", answer(200, &json, "<html></html>")),
        case("JSON cut short", answer(200, &json, "{\"choices\":[")),
        case("a plain 500", answer(500, &json, "")),
        case("a redirect", answer(307, &json, "")),
    ]
}

/// Path and body of a call; the provider finds `mark` in it.
fn call(provider: &str, mark: &str) -> (String, String) {
    let path = match provider {
        "anthropic" => "/p/v1/messages",
        "gemini" => "/p/v1beta/models/m:generateContent",
        "tavily" => "/p/search",
        _ => "/p/v1/chat/completions",
    };
    let body = serde_json::json!({"model": "m", "max_tokens": 9, "query": mark, "messages": [{"role": "user", "content": mark}]});
    (path.to_owned(), body.to_string())
}

/// Sends one call and returns the status and the number of attempts.
async fn send(gw: &Gateway, provider: &str, mark: &str) -> (u16, String) {
    let (path, body) = call(provider, mark);
    let reply = gw.post(&path, &body).await;
    (reply.status, reply.attempts().to_owned())
}

async fn check(provider: &'static str, cases: Vec<Case>) {
    let answers: Arc<[Say]> = cases.iter().map(|case| case.answer.clone()).collect();
    let served = serde_json::json!({"content-type": "application/json"});
    let good = answer(
        200,
        &served,
        r#"{"id":"x","choices":[{}],"content":[],"candidates":[{}],"results":[]}"#,
    );
    let upstream = RawProvider::choosing(move |_, request| {
        let text = String::from_utf8_lossy(request);
        match text.split("bad-caller-").nth(1) {
            Some(rest) => {
                let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
                answers[number.parse::<usize>().expect("a number")].clone()
            }
            None => good.clone(),
        }
    })
    .await;
    let base = match provider {
        "anthropic" | "gemini" | "tavily" | "mock" => upstream.origin(),
        _ => format!("{}/v1", upstream.origin()),
    };
    let config = PoolConfig::at(&base, "p", 1..=KEYS)
        .set("provider", provider)
        .set("models", vec!["*"])
        .set("timeouts.total", "300ms")
        .set("retry.backoff", "1ms");
    let gw = Gateway::start(&config.to_string()).await;
    for (number, case) in cases.iter().enumerate() {
        let mark = format!("bad-caller-{number} ");
        for _ in 0..TIMES {
            send(&gw, provider, &mark).await;
        }
        for _ in 0..KEYS {
            let (status, attempts) = send(&gw, provider, "hello").await;
            assert_eq!((status, attempts.as_str()), (200, "1"), "{}", case.name);
        }
        for n in 1..=KEYS {
            let state = gw.key_stats("p", &format!("p-{n}")).await;
            assert_eq!(state["is_available"], true, "{}: {state}", case.name);
            assert_eq!(state["state"], "active", "{}: {state}", case.name);
        }
    }
    gw.stop().await;
}

const PROVIDERS: [&str; 13] = [
    "openai",
    "openai-compatible",
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
    "mock",
];

#[tokio::test]
async fn what_one_caller_makes_a_provider_say_harms_no_other() {
    let mut checks = JoinSet::new();
    for provider in PROVIDERS {
        let cases = fixtures(provider);
        assert!(cases.len() > 3, "{provider}");
        checks.spawn(check(provider, cases));
    }
    checks.spawn(check("openai", other_trouble()));
    while let Some(done) = checks.join_next().await {
        done.expect("no caller is hurt");
    }
}
