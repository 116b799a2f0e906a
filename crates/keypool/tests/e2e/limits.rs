//! Limits of callers and of keys: what is admitted, what is given back, and what clients see.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{
    CHAT, CHAT_PATH, Gateway, PoolConfig, STREAM, bearer, eventually, key, pool, virtual_key,
};
use crate::http::{End, Reply};

const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gpt-x:generateContent";

/// A gateway with one key and a caller "team" with these limits.
pub(crate) async fn gateway(limits: &str) -> (Gateway, Mock) {
    let mock = Mock::start().await.expect("a mock");
    let config = pool(&mock, 1) + &virtual_key("team", limits);
    (Gateway::start(&config).await, mock)
}

pub(crate) async fn post(gw: &Gateway, path: &str, body: &str) -> Reply {
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*bearer("team")),
    ];
    gw.send("POST", path, &headers, body.as_bytes()).await
}

pub(crate) async fn chat(gw: &Gateway) -> Reply {
    post(gw, CHAT_PATH, CHAT).await
}

/// Limit, remaining and reset of a dimension.
pub(crate) fn left<'r>(reply: &'r Reply, dimension: &str) -> [Option<&'r str>; 3] {
    ["limit", "remaining", "reset"]
        .map(|what| reply.header(&format!("x-ratelimit-{what}-{dimension}")))
}

pub(crate) fn remaining(reply: &Reply, dimension: &str) -> u32 {
    let [_, remaining, _] = left(reply, dimension);
    remaining
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

pub(crate) fn reporting(input: u64, output: u64) -> Behaviour {
    Behaviour {
        input_tokens: Some(input),
        output_tokens: Some(output),
        ..Behaviour::default()
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_in_each_protocols_form() {
    let (gw, mock) = gateway("rpm = 3").await;
    let began = Instant::now();
    for n in (0..3).rev() {
        let reply = chat(&gw).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let [limit, left, reset] = left(&reply, "requests");
        assert_eq!((limit, left), (Some("3"), Some(&*n.to_string())));
        assert!(reset.is_some_and(|reset| reset == "1m0s" || reset.starts_with("59.")));
        assert_eq!(super::limits::left(&reply, "input-tokens"), [None; 3]);
    }
    let messages = r#"{"model":"gpt-x","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#;
    let generate = r#"{"contents":[{"parts":[{"text":"x"}]}]}"#;
    for (path, body, error) in [
        (CHAT_PATH, CHAT, "/error"),
        (MESSAGES, messages, "/error/details"),
        (GEMINI, generate, "/error/details/0/metadata"),
    ] {
        let reply = post(&gw, path, body).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (429, "rate_limit_exceeded"),
            "{reply:?}"
        );
        let dimension = reply.json().pointer(error).expect("details")["dimension"].clone();
        assert_eq!(dimension, "requests", "{reply:?}");
        let retry_after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        let passed = began.elapsed().as_secs();
        assert!(
            (60 - passed - 1..=60).contains(&retry_after),
            "{retry_after}"
        );
        assert_eq!(reply.header("x-should-retry"), None);
        assert_eq!(remaining(&reply, "requests"), 0);
        assert!(reply.message().contains("3 requests a minute"), "{reply:?}");
    }
    assert_eq!(mock.seen(&key(1)).requests, 3);
    gw.stop().await;
}

#[tokio::test]
async fn tokens_are_settled_to_what_the_provider_reports() {
    let (gw, mock) = gateway("input_tpm = 10_000\noutput_tpm = 5_000").await;
    mock.behave(&key(1), reporting(400, 300));
    for (body, usage) in [(CHAT, true), (STREAM, false)] {
        let reply = post(&gw, CHAT_PATH, body).await;
        assert_eq!((reply.status, reply.end), (200, End::Proper));
        assert_eq!(
            reply.text().contains("\"prompt_tokens\":400"),
            usage,
            "{reply:?}"
        );
    }
    gw.all_idle().await;
    let reply = chat(&gw).await;
    let (input, output) = (
        remaining(&reply, "input-tokens"),
        remaining(&reply, "output-tokens"),
    );
    // Of two calls; the third has its estimate and its hold.
    assert!((9_000..=9_200).contains(&input), "{input}");
    assert!((2_000..=4_200).contains(&output), "{output}");
    gw.all_idle().await;
    // What is left of 10,000 after ten calls of 400 and 300: as much as is left after one more of the same.
    for _ in 3..10 {
        assert_eq!(chat(&gw).await.status, 200);
    }
    let refused = loop {
        let reply = chat(&gw).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(
        refused.json()["error"]["dimension"],
        "output_tokens",
        "{refused:?}"
    );
    let served = mock.seen(&key(1)).requests;
    assert!((14..=16).contains(&served), "16 × 300 tokens fit: {served}");
    gw.stop().await;
}

#[tokio::test]
async fn a_streams_usage_is_asked_for_where_a_limit_needs_it() {
    let (gw, mock) = gateway("output_tpm = 5_000").await;
    mock.behave(&key(1), reporting(7, 50));
    let asks = r#"{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello"}]}"#;
    let own = post(&gw, CHAT_PATH, asks).await;
    assert!(
        own.text().contains("\"completion_tokens\":50"),
        "{}",
        own.text()
    );
    let added = post(&gw, CHAT_PATH, STREAM).await;
    assert!(
        !added.text().contains("completion_tokens"),
        "{}",
        added.text()
    );
    assert!(
        added.text().ends_with("data: [DONE]\n\n"),
        "{}",
        added.text()
    );
    let sent: Vec<String> = mock
        .recorded()
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned())
        .collect();
    assert_eq!(sent[0], asks);
    assert_eq!(
        sent[1],
        STREAM.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1)
    );
    gw.all_idle().await;
    gw.stop().await;
    // Without limits of tokens, nothing is changed.
    let (gw, mock) = gateway("rpm = 100").await;
    assert_eq!(post(&gw, CHAT_PATH, STREAM).await.status, 200);
    assert_eq!(mock.recorded()[0].body, STREAM.as_bytes());
    gw.stop().await;
}

#[tokio::test]
async fn failed_calls_give_back_what_they_did_not_use() {
    let (gw, mock) = gateway("rpm = 10\ninput_tpm = 10_000\noutput_tpm = 10_000").await;
    let before = chat(&gw).await;
    gw.all_idle().await;
    // An error of the provider: the request counts, the tokens do not.
    mock.script(&key(1), [Step::refuse(400)]);
    let failed = chat(&gw).await;
    assert_eq!(failed.status, 400);
    gw.all_idle().await;
    let after = chat(&gw).await;
    assert_eq!(remaining(&after, "requests"), 7);
    let spent = remaining(&before, "input-tokens") - remaining(&after, "input-tokens");
    assert!(spent < 40, "one call more than before: {spent}");
    gw.all_idle().await;
    gw.stop().await;
    // Nothing was sent: nothing counts.
    let config = PoolConfig::at("http://127.0.0.1:9", "p", [1]).set("retry.retries", 0);
    let gw = Gateway::start(&(config.to_string() + &virtual_key("team", "rpm = 1"))).await;
    for _ in 0..3 {
        let reply = chat(&gw).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (502, "upstream_unreachable"),
            "{reply:?}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_call_that_can_never_fit_is_a_bad_request() {
    let (gw, mock) =
        gateway("input_tpm = 100\noutput_tpm = 500\noutput_reservation = \"max_tokens\"").await;
    let long = format!(
        r#"{{"model":"gpt-x","max_tokens":5,"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "word ".repeat(2_000)
    );
    let wide = r#"{"model":"gpt-x","max_tokens":501,"messages":[{"role":"user","content":"x"}]}"#;
    for (body, dimension) in [(&*long, "input_tokens"), (wide, "output_tokens")] {
        let reply = post(&gw, CHAT_PATH, body).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "request_exceeds_limit"),
            "{reply:?}"
        );
        assert_eq!(reply.json()["error"]["dimension"], dimension);
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert_eq!(reply.header("retry-after"), None);
    }
    let gemini =
        r#"{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"maxOutputTokens":501}}"#;
    for path in [GEMINI, "/v1beta/models/gpt-x:streamGenerateContent?alt=sse"] {
        let reply = post(&gw, path, gemini).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "request_exceeds_limit"),
            "{reply:?}"
        );
    }
    assert_eq!(mock.seen_all().len(), 0);
    let fits = wide.replace("501", "500");
    assert_eq!(post(&gw, CHAT_PATH, &fits).await.status, 200);
    gw.stop().await;
}

#[tokio::test]
async fn calls_in_flight_are_limited_and_may_wait() {
    for (on_limit, waits) in [("reject", false), ("wait", true)] {
        let (gw, mock) = gateway(&format!("max_concurrent = 1\non_limit = \"{on_limit}\"")).await;
        let slow = Behaviour {
            latency: Duration::from_millis(700),
            ..Behaviour::default()
        };
        mock.behave(&key(1), slow);
        let (first, second) = tokio::join!(chat(&gw), async {
            mock.wait_for(&key(1), |seen| seen.active == 1).await;
            chat(&gw).await
        });
        assert_eq!(first.status, 200);
        if waits {
            assert_eq!(second.status, 200, "{second:?}");
        } else {
            assert_eq!(
                (second.status, second.header("retry-after")),
                (429, Some("1"))
            );
            assert_eq!(second.json()["error"]["dimension"], "concurrency");
        }
        assert_eq!(mock.seen(&key(1)).max_active, 1);
        gw.all_idle().await;
        assert_eq!(chat(&gw).await.status, 200);
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_caller_who_leaves_frees_its_place_and_keeps_its_tokens() {
    let (gw, mock) = gateway("max_concurrent = 1\noutput_tpm = 10_000").await;
    let slow = Behaviour {
        chunk_interval: Duration::from_millis(200),
        chunks: 50,
        ..Behaviour::default()
    };
    mock.behave(&key(1), slow);
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*bearer("team")),
    ];
    let stream = STREAM.replace("\"stream\"", "\"max_tokens\":2000,\"stream\"");
    let mut answer = gw
        .open("POST", CHAT_PATH, &headers, stream.as_bytes())
        .await;
    answer.next().await.unwrap();
    drop(answer);
    mock.behave(&key(1), Behaviour::default());
    gw.all_idle().await;
    let reply = chat(&gw).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let left = remaining(&reply, "output-tokens");
    assert!(left <= 8_000, "what it held is not given back: {left}");
    gw.stop().await;
}

#[tokio::test]
async fn limits_change_at_a_reload_and_keep_what_was_used() {
    let mock = Mock::start().await.unwrap();
    let config = |limits: &str| pool(&mock, 1) + &virtual_key("team", limits);
    let gw = Gateway::start(&config("rpm = 2")).await;
    assert_eq!(chat(&gw).await.status, 200);
    assert_eq!(chat(&gw).await.status, 200);
    assert_eq!(chat(&gw).await.status, 429);
    gw.folder().write("keypool.toml", &config("rpm = 3"));
    gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(chat(&gw).await.status, 200);
    assert_eq!(chat(&gw).await.status, 429);
    gw.folder().write("keypool.toml", &config(""));
    gw.admin("POST", "/api/v1/admin/config/reload").await;
    let reply = chat(&gw).await;
    assert_eq!((reply.status, left(&reply, "requests")), (200, [None; 3]));
    gw.stop().await;
}

#[tokio::test]
async fn a_key_at_its_own_limit_is_passed_over() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [])
        .set("queue.timeout", "300ms")
        .key(1, "rpm = 2")
        .key(2, "rpm = 1");
    let gw = Gateway::start(&config.to_string()).await;
    for _ in 0..3 {
        assert_eq!(gw.chat().await.status, 200);
    }
    let (one, two) = (mock.seen(&key(1)).requests, mock.seen(&key(2)).requests);
    assert_eq!((one, two), (2, 1));
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (&stats["state"], &stats["is_available"]),
        (&"active".into(), &Value::from(false))
    );
    let headers = [
        ("content-type", "application/json"),
        ("x-keypool-trace", "1"),
    ];
    let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
    assert_eq!(&*reply.code(), "no_key_available", "{reply:?}");
    assert!(
        reply.message().contains("2 at a limit of their own"),
        "{reply:?}"
    );
    let retry_after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&retry_after), "{retry_after}");
    assert!(
        reply
            .header("x-keypool-trace")
            .unwrap()
            .contains("2 over-limit"),
        "{reply:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_keys_tokens_count_under_its_own_limit() {
    let mock = Mock::start().await.unwrap();
    mock.behave("*", reporting(10, 400));
    let config = PoolConfig::new(&mock, "p", [])
        .set("queue.timeout", "200ms")
        .key(1, "output_tpm = 1_000")
        .key(2, "");
    let gw = Gateway::start(&config.to_string()).await;
    for _ in 0..12 {
        assert_eq!(gw.post(CHAT_PATH, STREAM).await.status, 200);
        gw.all_idle().await;
    }
    let limited = mock.seen(&key(1)).requests;
    assert!(
        (1..=3).contains(&limited),
        "400 tokens each, of 1,000: {limited}"
    );
    eventually("the others went to the second key", || {
        mock.seen(&key(2)).requests == 12 - limited
    })
    .await;
    gw.stop().await;
}
