//! Which key serves, when a request fails over, and what the client sees if no key could serve.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Gateway, PoolConfig, key, pool, within};

fn requests(mock: &Mock) -> u64 {
    mock.seen_all().values().map(|seen| seen.requests).sum()
}

fn failing(status: u16) -> Behaviour {
    Behaviour {
        fault: Some(Step::refuse(status)),
        ..Behaviour::default()
    }
}

#[tokio::test]
async fn keys_rotate() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    for name in ["p-1", "p-2", "p-3", "p-1"] {
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.key(), reply.attempts()),
            (200, name, "1"),
            "{reply:?}"
        );
        assert_eq!(reply.header("x-keypool-pool"), Some("p"));
    }
    let seen: Vec<u64> = (1..=3).map(|n| mock.seen(&key(n)).requests).collect();
    assert_eq!(seen, [2, 1, 1]);
    gw.stop().await;
}

#[tokio::test]
async fn calls_are_shared_by_weight() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [])
        .key(1, "weight = 3")
        .key(2, "");
    let gw = Gateway::start(&config.to_string()).await;
    for _ in 0..8 {
        assert_eq!(gw.chat().await.status, 200);
    }
    assert_eq!(
        (mock.seen(&key(1)).requests, mock.seen(&key(2)).requests),
        (6, 2)
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_request_gets_two_attempts_per_key() {
    for (n_keys, attempts) in [(3, 6), (2, 4), (1, 2)] {
        let mock = Mock::start().await.unwrap();
        let gw = Gateway::start(&pool(&mock, n_keys)).await;
        mock.behave("*", failing(503));
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, requests(&mock)),
            (503, attempts),
            "{n_keys} keys: {reply:?}"
        );
        assert_eq!(reply.attempts(), attempts.to_string());
        for n in 1..=n_keys {
            assert_eq!(
                mock.seen(&key(n)).requests,
                2,
                "each of {n_keys} keys is tried twice"
            );
        }
        for attempt in 1..=attempts {
            gw.logged(&format!("attempt {attempt} of {attempts} failed with key"))
                .await;
        }
        gw.stop().await;
    }
}

/// Status of the first attempt, whether the next key serves, and the resulting state of the first key.
const CLASSES: [(u16, bool, &str); 16] = [
    (400, false, "active"),
    (404, false, "active"),
    (413, false, "active"),
    (422, false, "active"),
    (401, true, "invalid"),
    (402, true, "exhausted"),
    (403, true, "cooling"),
    (429, true, "cooling"),
    (408, true, "active"),
    (500, true, "active"),
    (502, true, "active"),
    (503, true, "active"),
    (504, true, "active"),
    (529, true, "active"),
    (409, false, "active"),
    (451, false, "active"),
];

#[tokio::test]
async fn each_status_goes_to_the_next_key_or_to_the_client() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for (status, next_key_serves, state) in CLASSES {
        let before = gw.stats().await["p"].clone();
        let calls = requests(&mock);
        mock.script("*", [Step::refuse(status)]);
        let reply = gw.chat().await;
        let (expect, attempts) = if next_key_serves {
            (200, 2)
        } else {
            (status, 1)
        };
        assert_eq!(
            (reply.status, requests(&mock) - calls),
            (expect, attempts),
            "{status}: {reply:?}"
        );
        let after = gw.stats().await["p"].clone();
        let failed = |stats: &Value, name: &str| stats[name]["failed_requests"].as_u64().unwrap();
        let blamed: Vec<&str> = ["p-1", "p-2"]
            .into_iter()
            .filter(|name| failed(&after, name) > failed(&before, name))
            .collect();
        assert_eq!(
            blamed.len(),
            usize::from(next_key_serves),
            "{status}: {after}"
        );
        for name in blamed {
            assert_eq!(after[name]["state"], state, "{status}: {after}");
            assert_ne!(
                reply.key(),
                name,
                "{status}: the answer names the key that served"
            );
            gw.reset("p", name).await;
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_rate_limit_cools_the_model_down_as_long_as_the_provider_says() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    mock.script(&key(1), [Step::rate_limited(2)]);
    let began = Instant::now();
    assert_eq!(gw.chat().await.key(), "p-2");
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (
            &stats["is_available"],
            &stats["cooldowns"][0]["model"],
            &stats["cooldowns"][0]["class"]
        ),
        (&json!(false), &json!("gpt-x"), &json!("rate_limited")),
        "{stats}"
    );
    for _ in 0..4 {
        assert_eq!(gw.chat().await.key(), "p-2");
    }
    let other = CHAT.replace("gpt-x", "gpt-y");
    let served: Vec<String> = [
        gw.post(CHAT_PATH, &other).await,
        gw.post(CHAT_PATH, &other).await,
    ]
    .iter()
    .map(|reply| reply.key().to_owned())
    .collect();
    assert!(
        served.contains(&"p-1".to_owned()),
        "another model may use it: {served:?}"
    );
    assert_eq!(
        gw.key_stats("p", "p-1").await["state"],
        "active",
        "with a second model in use, only one model cools down"
    );
    while gw.chat().await.key() != "p-1" {
        assert!(began.elapsed() < DEADLINE, "the cooldown never ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "back after {:?}",
        began.elapsed()
    );
    assert_eq!(gw.key_stats("p", "p-1").await["cooldowns"], json!([]));
    gw.stop().await;
}

#[tokio::test]
async fn rejected_and_exhausted_keys_are_unused_until_reset() {
    for (status, state) in [(401, "invalid"), (402, "exhausted")] {
        let mock = Mock::start().await.unwrap();
        let gw = Gateway::start(&pool(&mock, 2)).await;
        mock.script(&key(1), [Step::refuse(status)]);
        for _ in 0..4 {
            let reply = gw.chat().await;
            assert_eq!((reply.status, reply.key()), (200, "p-2"), "{reply:?}");
        }
        assert_eq!(
            mock.seen(&key(1)).requests,
            1,
            "{status}: tried once and then no more"
        );
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(
            (&stats["state"], &stats["is_available"]),
            (&json!(state), &json!(false)),
            "{stats}"
        );
        gw.reset("p", "p-1").await;
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(
            (
                &stats["state"],
                &stats["is_available"],
                &stats["cooldowns"],
                &stats["failed_requests"]
            ),
            (&json!("active"), &json!(true), &json!([]), &json!(1)),
            "{stats}"
        );
        let served = [gw.chat().await, gw.chat().await];
        assert!(served.iter().any(|reply| reply.key() == "p-1"));
        gw.stop().await;
    }
}

#[tokio::test]
async fn the_last_answer_is_relayed_with_our_own_retry_headers() {
    // Status, the provider's Retry-After, ours, x-should-retry.
    for (status, said, ours, should_retry) in [
        (429, "7", Some(6..=7), None),
        (429, "120", Some(119..=120), Some("false")),
        (503, "99", None, Some("false")),
    ] {
        let mock = Mock::start().await.unwrap();
        let config = PoolConfig::new(&mock, "p", 1..=2)
            .set("queue.timeout", "50ms")
            .set("breaker.min_requests", 1000);
        let gw = Gateway::start(&config.to_string()).await;
        let body = "{ \"error\" : {\"message\":\"as \\u00e4t it was\",\"type\":\"x\"}}\n ";
        let step = Step::Status {
            status,
            headers: vec![
                ("retry-after".to_owned(), said.to_owned()),
                ("x-own".to_owned(), "kept".to_owned()),
                ("set-cookie".to_owned(), "a=b".to_owned()),
                ("openai-organization".to_owned(), "org-1".to_owned()),
            ],
            body: body.to_owned(),
        };
        mock.behave(
            "*",
            Behaviour {
                fault: Some(step),
                ..Behaviour::default()
            },
        );
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (status, body),
            "{reply:?}"
        );
        let retry_after = reply
            .header("retry-after")
            .map(|value| value.parse::<u32>().unwrap());
        match ours {
            Some(range) => assert!(
                retry_after.is_some_and(|wait| range.contains(&wait)),
                "{reply:?}"
            ),
            None => assert_ne!(retry_after, Some(99), "{reply:?}"),
        }
        assert_eq!(reply.header("x-should-retry"), should_retry, "{reply:?}");
        assert_eq!(reply.header("x-own"), Some("kept"));
        assert_eq!(
            (
                reply.header("set-cookie"),
                reply.header("openai-organization")
            ),
            (None, None)
        );
        gw.stop().await;
    }
}

#[tokio::test]
async fn no_key_available_says_which_of_the_three_cases_it_is() {
    let cases = [
        (3, 5, 3, "all keys fail alike", Some("false")),
        (3, 1, 2, "some keys still work", None),
        (1, 5, 1, "no failover is possible", Some("false")),
        (2, 0, 1, "no failover is possible", None),
    ];
    for (n_keys, retries, rejected, says, should_retry) in cases {
        let mock = Mock::start().await.unwrap();
        let config = PoolConfig::new(&mock, "p", 1..=n_keys).set("retry.retries", retries);
        let gw = Gateway::start(&config.to_string()).await;
        for n in 1..=rejected {
            mock.behave(&key(n), failing(401));
        }
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (503, "no_key_available"),
            "{reply:?}"
        );
        assert!(
            reply.message().contains(says),
            "{says}: {}",
            reply.message()
        );
        assert_eq!(reply.header("x-should-retry"), should_retry, "{reply:?}");
        assert_eq!(
            reply.header("retry-after").is_some(),
            should_retry.is_none(),
            "{reply:?}"
        );
        if rejected == n_keys {
            let calls = requests(&mock);
            assert_eq!(gw.chat().await.code(), "no_key_available");
            assert_eq!(requests(&mock), calls, "a rejected key is not tried again");
        }
        gw.stop().await;
    }
}

#[tokio::test]
async fn only_the_model_changes_in_a_body() {
    let mock = Mock::start().await.unwrap();
    let alias = PoolConfig::new(&mock, "q", [])
        .set("models", vec!["alias-1"])
        .key(9, r#"model = "real/\"quoted\" 模型""#);
    let gw = Gateway::start(&format!("{}{alias}", pool(&mock, 1))).await;
    let body = |model: &str| {
        format!(
            "\r\n {{ \"z\":1e0,\t\"messages\":[{{\"content\":\"\\u4f60\\/ \u{1F600} {{\\\"model\\\":1}}\",\"role\":\"user\",\"model\":\"inner\"}}],\
             \n\"model\" :  {model} , \"a\":-0.0,\"z\":[ ]}}\n"
        )
    };
    let sent = body(r#""gpt-\u0078""#);
    assert_eq!(gw.post(CHAT_PATH, &sent).await.status, 200);
    let seen = mock.last_request(&key(1)).unwrap();
    assert_eq!(
        seen.text(),
        sent,
        "an unchanged model is not even rewritten"
    );
    assert_eq!(gw.post(CHAT_PATH, &body(r#""alias-1""#)).await.status, 200);
    let seen = mock.last_request(&key(9)).unwrap();
    assert_eq!(seen.text(), body(r#""real/\"quoted\" 模型""#));
    assert_eq!(
        seen.header("content-length"),
        Some(seen.body_len.to_string().as_str())
    );
    assert_eq!(gw.post(CHAT_PATH, &body(r#""p\/gpt-x""#)).await.status, 200);
    assert_eq!(
        mock.last_request(&key(1)).unwrap().text(),
        body(r#""gpt-x""#),
        "the name of the pool is removed"
    );
    gw.stop().await;
}

#[tokio::test]
async fn names_of_any_script_are_encoded_in_headers_and_plain_in_json() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", []).key(1, "name = \"主账号 1\"");
    let gw = Gateway::start(&config.to_string()).await;
    assert_eq!(gw.chat().await.key(), "%E4%B8%BB%E8%B4%A6%E5%8F%B7%201");
    assert_eq!(gw.key_stats("p", "主账号 1").await["total_requests"], 1);
    gw.reset("p", "%E4%B8%BB%E8%B4%A6%E5%8F%B7%201").await;
    gw.logged("主账号 1").await;
    gw.stop().await;
}

#[tokio::test]
async fn keys_of_a_group_cool_down_together_for_one_model() {
    let mock = Mock::start().await.unwrap();
    let mut config = PoolConfig::new(&mock, "p", []);
    for (n, group) in [(1, "A"), (2, "A"), (3, "B")] {
        config = config.key(n, &format!("name = \"k{n}\"\ngroup = \"{group}\""));
    }
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(&key(1), [Step::rate_limited(60)]);
    let reply = gw.chat().await;
    assert_eq!((reply.key(), reply.attempts()), ("k3", "2"), "{reply:?}");
    for _ in 0..4 {
        assert_eq!(gw.chat().await.key(), "k3");
    }
    assert_eq!(mock.seen(&key(2)).requests, 0);
    assert_eq!(
        gw.key_stats("p", "k2").await["cooldowns"][0]["class"],
        "rate_limited"
    );
    let other = CHAT.replace("gpt-x", "gpt-y");
    for _ in 0..3 {
        assert_eq!(gw.post(CHAT_PATH, &other).await.status, 200);
    }
    assert_eq!(
        mock.seen(&key(2)).requests,
        1,
        "another model still uses all three keys"
    );
    gw.stop().await;
}

#[tokio::test]
async fn the_same_secret_in_two_pools_is_one_key() {
    let mock = Mock::start().await.unwrap();
    let second = PoolConfig::new(&mock, "q", [1]).set("models", vec!["q-1"]);
    let gw = Gateway::start(&format!("{}{second}", pool(&mock, 1))).await;
    assert_eq!(gw.chat().await.key(), "p-1");
    assert_eq!(
        gw.post(CHAT_PATH, &CHAT.replace("gpt-x", "q-1"))
            .await
            .key(),
        "q-1"
    );
    let stats = gw.stats().await;
    assert_eq!(
        (
            &stats["p"]["p-1"]["total_requests"],
            &stats["q"]["q-1"]["total_requests"]
        ),
        (&json!(2), &json!(2))
    );
    mock.script(&key(1), [Step::refuse(401)]);
    assert_eq!(gw.chat().await.code(), "no_key_available");
    assert_eq!(gw.key_stats("q", "q-1").await["state"], "invalid");
    gw.stop().await;
}

#[tokio::test]
async fn a_key_that_keeps_failing_is_ejected_and_no_longer_tried() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    mock.behave(&key(2), failing(503));
    for _ in 0..60 {
        assert_eq!(gw.chat().await.status, 200);
    }
    let calls = mock.seen(&key(2)).requests;
    assert_eq!(
        calls, 10,
        "the breaker opens at the tenth failure and not before"
    );
    for _ in 0..20 {
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.attempts()), (200, "1"));
    }
    assert_eq!(mock.seen(&key(2)).requests, calls);
    let stats = gw.key_stats("p", "p-2").await;
    assert_eq!(
        (
            &stats["state"],
            &stats["is_available"],
            &stats["cooldowns"][0]["class"]
        ),
        (&json!("cooling"), &json!(false), &json!("upstream_trouble")),
        "{stats}"
    );
    let (one, three) = (mock.seen(&key(1)).requests, mock.seen(&key(3)).requests);
    assert!(
        one.abs_diff(three) <= 8,
        "the other keys share its load: {one} and {three}"
    );
    gw.logged("some_keys_fail").await;
    gw.stop().await;
}

#[tokio::test]
async fn an_unreachable_provider_gets_upstream_unreachable() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    mock.shutdown();
    mock.stopped().await;
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.attempts()),
        (502, "upstream_unreachable", "2"),
        "{reply:?}"
    );
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert_eq!(reply.header("retry-after"), Some("1"), "no key cools down");
    assert_eq!(gw.key_stats("p", "p-1").await["failed_requests"], 2);
    gw.stop().await;
}

#[tokio::test]
async fn a_provider_that_does_not_respond_gets_upstream_timeout() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("timeouts.total", "300ms");
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(&key(1), [Step::Hang]);
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (504, "upstream_timeout"),
        "{reply:?}"
    );
    within(mock.wait_for(&key(1), |seen| seen.cancelled == 1)).await;
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn exhaustion_and_reset_apply_to_the_whole_group() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [])
        .key(1, "group = \"A\"")
        .key(2, "group = \"A\"");
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(&key(1), [Step::refuse(402)]);
    let reply = gw.chat().await;
    assert_eq!(reply.code(), "no_key_available", "{reply:?}");
    assert!(
        reply.message().contains("one quota group"),
        "{}",
        reply.message()
    );
    let stats = gw.stats().await["p"].clone();
    for name in ["p-1", "p-2"] {
        assert_eq!(stats[name]["state"], "exhausted", "{stats}");
    }
    assert_eq!(mock.seen(&key(2)).requests, 0);
    gw.reset("p", "p-2").await;
    let stats = gw.stats().await["p"].clone();
    for name in ["p-1", "p-2"] {
        assert_eq!(
            (&stats[name]["state"], &stats[name]["cooldowns"]),
            (&json!("active"), &json!([])),
            "{name}: {stats}"
        );
    }
    for _ in 0..2 {
        assert_eq!(gw.chat().await.status, 200);
    }
    gw.stop().await;
}
