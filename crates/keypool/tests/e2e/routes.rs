//! `[[routes]]`: the targets of a model name are tried in order, within the limits of retries.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::Value;

use crate::bad_input::refused;
use crate::harness::{CHAT_PATH, Gateway, PoolConfig, bearer, key, virtual_key, within};
use crate::http::Reply;

const BEST: &str = r#"{"model":"best","messages":[{"role":"user","content":"hello"}]}"#;
const BEST_STREAM: &str =
    r#"{"model":"best","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;

/// Pool `first` with key 1.
fn first(mock: &Mock) -> PoolConfig {
    PoolConfig::new(mock, "first", [1]).set("models", vec!["first-*"])
}

/// Pool `second` with key 2.
fn second(mock: &Mock) -> PoolConfig {
    PoolConfig::new(mock, "second", [2]).set("models", vec!["second-*"])
}

/// The pools and the route `best` over `first` and `second`.
fn with_route([first, second]: &[PoolConfig; 2]) -> String {
    format!(
        "{first}{second}[[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"first\", model = \"first-a\" }}, {{ pool = \"second\", model = \"second-b\" }}]\n"
    )
}

fn config(mock: &Mock) -> String {
    with_route(&[first(mock), second(mock)])
}

fn served_by(reply: &Reply) -> (u16, &str, &str) {
    let pool = reply.header("x-keypool-pool").unwrap_or_default();
    (reply.status, pool, reply.attempts())
}

/// The model in the last body sent with the key of this number.
fn model_at(mock: &Mock, n: usize) -> String {
    let seen = mock.last_request(&key(n)).expect("a request");
    let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
    body["model"].as_str().expect("a model").to_owned()
}

#[tokio::test]
async fn the_first_target_serves_with_its_own_model() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    for body in [BEST, BEST_STREAM] {
        let reply = gw.post(CHAT_PATH, body).await;
        assert_eq!(served_by(&reply), (200, "first", "1"), "{reply:?}");
        let sent = mock.last_request(&key(1)).unwrap().body;
        assert_eq!(
            sent,
            body.replace("best", "first-a"),
            "nothing else changes"
        );
    }
    let gemini = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    let reply = gw.post("/v1beta/models/best:generateContent", gemini).await;
    assert_eq!(served_by(&reply), (200, "first", "1"), "{reply:?}");
    let path = mock.last_request(&key(1)).unwrap().path;
    assert_eq!(path, "/v1beta/models/first-a:generateContent");
    assert_eq!(mock.seen(&key(2)).requests, 0);
    gw.stop().await;
}

#[tokio::test]
async fn the_next_target_is_tried_after_every_failure_of_a_key() {
    for step in [
        Step::rate_limited(30),
        Step::refuse(401),
        Step::refuse(402),
        Step::refuse(403),
        Step::refuse(500),
        Step::refuse(503),
        Step::Reset,
    ] {
        for body in [BEST, BEST_STREAM] {
            let mock = Mock::start().await.unwrap();
            let gw = Gateway::start(&config(&mock)).await;
            let what = format!("{step:?} {body}");
            mock.script(&key(1), [step.clone()]);
            let reply = gw.post(CHAT_PATH, body).await;
            assert_eq!(served_by(&reply), (200, "second", "2"), "{what}: {reply:?}");
            assert_eq!(model_at(&mock, 2), "second-b", "{what}");
            gw.all_idle().await;
            gw.stop().await;
        }
    }
}

#[tokio::test]
async fn caller_faults_and_begun_answers_try_no_other_target() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    for status in [400, 404, 413, 422] {
        mock.script(&key(1), [Step::refuse(status)]);
        let reply = gw.post(CHAT_PATH, BEST).await;
        assert_eq!(served_by(&reply), (status, "first", "1"), "{reply:?}");
    }
    mock.script(&key(1), [Step::CutAfter(2)]);
    let reply = gw.post(CHAT_PATH, BEST_STREAM).await;
    assert_eq!(served_by(&reply), (200, "first", "1"), "{reply:?}");
    // A stored response must not be created twice, and this one may have been created.
    mock.script(&key(1), [Step::Reset]);
    let reply = gw
        .post("/v1/responses", r#"{"model":"best","input":"hello"}"#)
        .await;
    assert_eq!(served_by(&reply), (502, "first", "1"), "{reply:?}");
    assert_eq!(mock.seen(&key(2)).requests, 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_full_or_slow_queue_leads_to_the_next_target() {
    for (queue, value) in [
        ("queue.max_waiting", 0.into()),
        ("queue.timeout", Value::from("100ms")),
    ] {
        let mock = Mock::start().await.unwrap();
        let pools = [
            first(&mock)
                .set("max_concurrent_per_key", 1)
                .set(queue, value),
            second(&mock),
        ];
        let gw = Gateway::start(&with_route(&pools)).await;
        mock.script(&key(1), [Step::Hang]);
        let held = gw.post(CHAT_PATH, BEST);
        tokio::pin!(held);
        let first = key(1);
        let holds = mock.wait_for(&first, |seen| seen.active == 1);
        let in_use = async {
            tokio::select! {
                reply = &mut held => panic!("{reply:?}"),
                () = holds => {}
            }
        };
        within(in_use).await;
        let reply = gw.post(CHAT_PATH, BEST).await;
        assert_eq!(
            served_by(&reply),
            (200, "second", "1"),
            "{queue}: {reply:?}"
        );
    }
}

#[tokio::test]
async fn the_error_covers_all_targets() {
    let mock = Mock::start().await.unwrap();
    let pools = [first(&mock).set("queue.timeout", "50ms"), second(&mock)];
    let gw = Gateway::start(&with_route(&pools)).await;
    mock.script(&key(1), [Step::rate_limited(20)]);
    mock.script(&key(2), [Step::refuse(401)]);
    let reply = gw.post(CHAT_PATH, BEST).await;
    refused(
        &reply,
        503,
        "no_key_available",
        "one is rate-limited, one rejected",
    );
    assert_eq!(reply.attempts(), "2");
    let message = reply.message();
    assert!(
        message.contains("\"first\"") && message.contains("\"second\""),
        "{message}"
    );
    let back: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(
        (19..=20).contains(&back),
        "the first key of any target: {reply:?}"
    );
    assert_eq!(reply.header("x-should-retry"), None);
    let again = gw.post(CHAT_PATH, BEST).await;
    refused(&again, 503, "no_key_available", "no target has a key");
    assert_eq!(again.attempts(), "0");
    gw.stop().await;
}

#[tokio::test]
async fn the_last_answer_names_the_pool_that_sent_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    // The second target has no key left, so the answer of the first is the last one.
    mock.script(&key(2), [Step::refuse(401)]);
    let direct = BEST.replace("best", "second-b");
    assert_eq!(gw.post(CHAT_PATH, &direct).await.status, 503);
    mock.script(&key(1), [Step::rate_limited(20)]);
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(served_by(&reply), (429, "first", "1"), "{reply:?}");
    assert_eq!(reply.key(), "first-1");
    gw.stop().await;
}

#[tokio::test]
async fn an_earlier_targets_answer_is_attributed_to_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    mock.script(&key(1), [Step::refuse(500)]);
    let resets = Behaviour {
        fault: Some(Step::Reset),
        ..Behaviour::default()
    };
    mock.behave(&key(2), resets);
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(served_by(&reply), (500, "first", "3"), "{reply:?}");
    assert_eq!(reply.key(), "first-1", "the second target gave no answer");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    gw.stop().await;
}

#[tokio::test]
async fn retry_after_is_when_the_first_key_of_any_target_is_due() {
    for (of_first, of_second) in [(50, 20), (20, 50)] {
        let mock = Mock::start().await.unwrap();
        let pools = [
            first(&mock).set("queue.timeout", "50ms"),
            second(&mock).set("queue.timeout", "50ms"),
        ];
        let gw = Gateway::start(&with_route(&pools)).await;
        mock.script(&key(1), [Step::rate_limited(of_first)]);
        mock.script(&key(2), [Step::rate_limited(of_second)]);
        let reply = gw.post(CHAT_PATH, BEST).await;
        assert_eq!(served_by(&reply), (429, "second", "2"), "{reply:?}");
        let back: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((19..=20).contains(&back), "{reply:?}");
        assert_eq!(reply.header("x-should-retry"), None);
        gw.stop().await;
    }
}

#[tokio::test]
async fn the_first_targets_total_bounds_the_whole_request() {
    let mock = Mock::start().await.unwrap();
    let pools = [first(&mock).set("timeouts.total", "500ms"), second(&mock)];
    let gw = Gateway::start(&with_route(&pools)).await;
    mock.behave(
        "*",
        Behaviour {
            fault: Some(Step::Hang),
            ..Behaviour::default()
        },
    );
    let reply = gw.post(CHAT_PATH, BEST).await;
    refused(&reply, 504, "upstream_timeout", "the total time ran out");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(mock.seen(&key(2)).requests, 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_key_is_blamed_if_it_had_most_of_the_requests_time() {
    let mock = Mock::start().await.unwrap();
    let pools = [
        first(&mock).set("timeouts.total", "1s"),
        second(&mock).set("timeouts.total", "60s"),
    ];
    let gw = Gateway::start(&with_route(&pools)).await;
    mock.script(&key(1), [Step::rate_limited(60)]);
    mock.script(&key(2), [Step::Hang]);
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(reply.attempts(), "2", "{reply:?}");
    let failed = &gw.key_stats("second", "second-1").await["failed_requests"];
    assert_eq!(failed, 1, "it had nearly all of the 1 s");
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn targets_that_do_not_speak_the_protocol_are_skipped() {
    let mock = Mock::start().await.unwrap();
    let origin = mock.origin();
    let config = format!(
        "[pools.chat]\nprovider = \"openai-compatible\"\nbase_url = \"{origin}/v1\"\nkeys = [\"{}\"]\n\
         [pools.all]\nprovider = \"mock\"\nbase_url = \"{origin}\"\nkeys = [\"{}\"]\n\
         [[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"chat\" }}, {{ pool = \"all\", model = \"claude-x\" }}]\n\
         [[routes]]\nmodel = \"chat-only\"\ntargets = [{{ pool = \"chat\" }}]\n",
        key(1),
        key(2)
    );
    let gw = Gateway::start(&config).await;
    let anthropic =
        r#"{"model":"best","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
    let reply = gw.post("/v1/messages", anthropic).await;
    assert_eq!(served_by(&reply), (200, "all", "1"), "{reply:?}");
    assert_eq!(model_at(&mock, 2), "claude-x");
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(served_by(&reply), (200, "chat", "1"), "{reply:?}");
    assert_eq!(
        model_at(&mock, 1),
        "best",
        "a target without a model keeps the caller's"
    );
    let reply = gw
        .post("/v1/messages", &anthropic.replace("best", "chat-only"))
        .await;
    refused(&reply, 404, "model_not_found", "no target speaks it");
    assert!(reply.message().contains("chat-only"), "{reply:?}");
    let ids = |list: Value| -> Vec<String> {
        let data = list["data"].as_array().unwrap().iter();
        data.map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let listed = ids(gw.get("/v1/models").await.json());
    assert!(
        listed.starts_with(&["best".to_owned(), "chat-only".to_owned()]),
        "{listed:?}"
    );
    let headers = [("anthropic-version", "2023-06-01")];
    let listed = ids(gw.send("GET", "/v1/models", &headers, b"").await.json());
    assert!(
        listed.contains(&"best".to_owned()) && !listed.contains(&"chat-only".to_owned()),
        "{listed:?}"
    );
    assert_eq!(
        gw.get("/v1/models/best").await.json()["owned_by"],
        "keypool"
    );
    assert_eq!(
        gw.get("/chat/v1/models/best").await.status,
        404,
        "a pool has no routes"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_uses_only_the_targets_it_allows() {
    let mock = Mock::start().await.unwrap();
    let config = [
        config(&mock),
        virtual_key("by-name", "models = [\"best\"]"),
        virtual_key("by-target", "models = [\"second-*\"]"),
        virtual_key("by-pool", "pools = [\"second\"]"),
        virtual_key("neither", "models = [\"other\"]"),
        virtual_key("no-pool", "models = [\"second-*\"]\npools = [\"first\"]"),
    ];
    let gw = Gateway::start(&config.concat()).await;
    for (name, expect) in [
        ("by-name", Some("first")),
        ("by-target", Some("second")),
        ("by-pool", Some("second")),
        ("neither", None),
        ("no-pool", None),
    ] {
        let bearer = bearer(name);
        let headers = [("authorization", bearer.as_str())];
        let reply = gw.send("POST", CHAT_PATH, &headers, BEST.as_bytes()).await;
        match expect {
            Some(pool) => assert_eq!(served_by(&reply), (200, pool, "1"), "{name}: {reply:?}"),
            None => refused(&reply, 403, "model_not_allowed", name),
        }
        let listed = gw.send("GET", "/v1/models", &headers, b"").await.text();
        // `by-target` may use a target, although its models do not include the route's name.
        let shown = matches!(name, "by-name" | "by-target" | "by-pool");
        assert_eq!(listed.contains("\"best\""), shown, "{name}: {listed}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_route_precedes_pools_and_follows_reloads() {
    let mock = Mock::start().await.unwrap();
    let pools = [first(&mock), second(&mock).set("models", vec!["best"])];
    let gw = Gateway::start(&with_route(&pools)).await;
    assert!(!gw.log().contains("not implemented"), "{}", gw.log());
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(served_by(&reply), (200, "first", "1"), "{reply:?}");
    let reply = gw.post(&format!("/second{CHAT_PATH}"), BEST).await;
    assert_eq!(
        served_by(&reply),
        (200, "second", "1"),
        "the path names the pool"
    );
    assert_eq!(model_at(&mock, 2), "best");
    let [one, two] = &pools;
    gw.folder().write("keypool.toml", &format!("{one}{two}"));
    let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = gw.post(CHAT_PATH, BEST).await;
    assert_eq!(served_by(&reply), (200, "second", "1"), "{reply:?}");
    tokio::time::timeout(Duration::from_secs(10), gw.stop())
        .await
        .unwrap();
}
