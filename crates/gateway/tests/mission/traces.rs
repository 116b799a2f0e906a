//! Request traces, as the admin API and the response header show them.

use http::Request;
use http_body_util::BodyExt;
use keypool_core::secret::Digest256;
use keypool_core::settings::PoolSettings;
use keypool_gateway::settings::VirtualKeySettings;
use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, Client, Running, pool};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"a secret question"}]}"#;

/// A pool of three keys: the first is rate-limited and the second rejected.
async fn failing_pool() -> (Mock, PoolSettings) {
    let mock = Mock::start().await.unwrap();
    mock.script("secret-key-1", [Step::rate_limited(600)]);
    mock.script("secret-key-2", [Step::refuse(401)]);
    let mut pool = pool(&mock, 3);
    pool.keys[2].name = "küche 3".into();
    (mock, pool)
}

/// The status and trace header of a call.
async fn call(running: &Running, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let mut request = Request::post("/v1/chat/completions");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut client = Client::new(running.addr);
    let response = client
        .request(request.body(CHAT.to_owned()).unwrap())
        .await
        .unwrap();
    let header = response.headers().get("x-keypool-trace");
    let header = header.map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), header)
}

async fn listing(running: &Running, query: &str) -> (u16, Value) {
    let request = Request::get(format!("/api/v1/admin/traces{query}"))
        .header("authorization", format!("Bearer {ADMIN_TOKEN}"))
        .body(String::new())
        .unwrap();
    let response = Client::new(running.addr).request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// `text` with every number of milliseconds replaced.
fn without_millis(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_time = |at: usize| {
        words
            .get(at + 1)
            .is_some_and(|next| next.trim_end_matches(';') == "ms")
    };
    let replaced = |(at, word): (usize, &&str)| if is_time(at) { "N" } else { *word }.to_owned();
    words
        .iter()
        .enumerate()
        .map(replaced)
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn the_trace_header_explains_the_choice_of_key_if_requested() {
    let (_mock, pool) = failing_pool().await;
    let running = Running::start(pool).await;
    let asks = [("x-keypool-trace", "1")];
    let (status, header) = call(&running, &asks).await;
    assert_eq!(status, 200);
    assert_eq!(
        without_millis(&header.unwrap()),
        "pool: 3/3 free; \"key-1\" by round_robin; 429 rate_limited in N ms \
         | 2/3 free; 1 rate-limited; \"key-2\" by round_robin; 401 rejected in N ms \
         | 1/3 free; 1 rate-limited, 1 invalid; \"k%C3%BCche%203\" by round_robin; 200 in N ms"
    );
    assert_eq!(call(&running, &[]).await.1, None, "it was not requested");
    assert_eq!(call(&running, &[("x-keypool-trace", "0")]).await.1, None);
    assert!(running.stop().await);
}

#[tokio::test]
async fn an_error_has_a_trace_header_of_bounded_length() {
    let mock = Mock::start().await.unwrap();
    let mut wanted = pool(&mock, 40);
    wanted.retry.retries = 100;
    for (n, key) in wanted.keys.iter_mut().enumerate() {
        mock.script(&format!("secret-key-{}", n + 1), [Step::rate_limited(600)]);
        key.name = format!("{}-{n}", "long".repeat(12)).into();
    }
    let running = Running::start(wanted).await;
    let asks = [("x-keypool-trace", "1")];
    let (status, header) = call(&running, &asks).await;
    let header = header.unwrap();
    assert_eq!(status, 429);
    assert!(header.len() <= 1024 && header.ends_with(" ..."), "{header}");
    let (status, header) = call(&running, &asks).await;
    assert_eq!(status, 503);
    assert_eq!(
        header.as_deref(),
        Some("pool: 0/40 free; 8 rate-limited, 32 more not; no key in time")
    );
    assert!(running.stop().await);
}

#[tokio::test]
async fn only_virtual_keys_with_native_access_see_traces() {
    let (_mock, pool) = failing_pool().await;
    let running = Running::start(pool).await;
    let keys = [("plain", false), ("native", true)].map(|(name, native)| {
        let digest = Digest256::of(format!("virtual-key-{name}").as_bytes());
        VirtualKeySettings {
            native,
            ..VirtualKeySettings::new(name, digest)
        }
    });
    running.next.lock().virtual_keys = keys.to_vec();
    running.gw.reload().unwrap();
    for (key, sees) in [("plain", false), ("native", true), ("wrong", false)] {
        let bearer = format!("Bearer virtual-key-{key}");
        let headers = [("x-keypool-trace", "1"), ("authorization", &*bearer)];
        let (_, header) = call(&running, &headers).await;
        assert_eq!(header.is_some(), sees, "{key}");
    }
    assert!(running.stop().await);
}

/// Waits until `count` traces are listed: a trace is recorded after the last byte of the response was sent, which may be
/// after the client has read it.
async fn listing_of(running: &Running, count: usize) -> Value {
    let complete = async {
        loop {
            let (_, all) = listing(running, "?pool=pool").await;
            if all["traces"].as_array().unwrap().len() == count {
                break all;
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, complete).await.unwrap()
}

/// Replaces times, which differ from run to run, by whether they are present.
fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match &**name {
                    "ms" | "waited_ms" => *field = json!(field.is_number()),
                    "time" | "until" => *field = json!(field.is_string()),
                    _ => without_times(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

#[tokio::test]
async fn the_listing_shows_every_step_without_secrets() {
    let (_mock, pool) = failing_pool().await;
    let running = Running::start(pool).await;
    assert_eq!(call(&running, &[("x-request-id", "first")]).await.0, 200);
    let mut all = listing_of(&running, 1).await;
    let text = all.to_string();
    assert!(!text.contains("secret"), "{text}");
    without_times(&mut all);
    let limited = json!({"key": "key-1", "reason": "rate_limited", "until": true, "cap": null});
    let invalid = json!({"key": "key-2", "reason": "invalid", "until": false, "cap": null});
    let step =
        |key: &str, free: u32, excluded: &[&Value], failed: (u16, Option<&str>, Option<f64>)| {
            let (status, class, cooldown) = failed;
            json!({
                "pool": "pool", "model": "m", "key": key, "by": "round_robin",
                "keys": 3, "free": free, "excluded": excluded, "more": 0,
                "waited_ms": true, "ms": true,
                "status": status, "class": class, "cooldown_ms": cooldown, "ejected": false,
                "no_key": null, "skipped": null,
            })
        };
    let steps = [
        step(
            "key-1",
            3,
            &[],
            (429, Some("rate_limited"), Some(600_000.0)),
        ),
        step("key-2", 2, &[&limited], (401, Some("rejected"), None)),
        step("küche 3", 1, &[&limited, &invalid], (200, None, None)),
    ];
    let expect = json!({
        "request_id": "first", "time": true, "caller": "-", "status": 200, "ms": true,
        "ended": null, "steps": steps,
    });
    assert_eq!(all["traces"], json!([expect]));
    assert!(running.stop().await);
}

#[tokio::test]
async fn traces_are_listed_newest_first_and_filtered_by_the_query() {
    let (_mock, pool) = failing_pool().await;
    let running = Running::start(pool).await;
    for id in ["first", "second"] {
        assert_eq!(call(&running, &[("x-request-id", id)]).await.0, 200);
    }
    listing_of(&running, 2).await;
    for (query, expect) in [
        ("", &["second", "first"][..]),
        ("?limit=1", &["second"]),
        ("?request_id=first&limit=5", &["first"]),
        ("?pool=p%6fol", &["second", "first"]),
        ("?pool=other", &[]),
        ("?request_id=none", &[]),
    ] {
        let (_, some) = listing(&running, query).await;
        let traces = some["traces"].as_array().unwrap();
        let ids: Vec<&Value> = traces.iter().map(|trace| &trace["request_id"]).collect();
        assert_eq!(ids, expect, "{query}");
    }
    for query in ["?limit=0", "?limit=x", "?limit=1025", "?lmit=1"] {
        let (status, problem) = listing(&running, query).await;
        assert_eq!(
            (status, &problem["code"]),
            (400, &"invalid_query".into()),
            "{query}"
        );
    }
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_request_whose_client_disconnects_is_traced() {
    let mock = Mock::start().await.unwrap();
    mock.script("secret-key-1", [Step::Hang]);
    let running = Running::start(pool(&mock, 1)).await;
    let mut client = Client::new(running.addr);
    {
        let call = client.chat("m", false);
        let seen = mock.wait_for("secret-key-1", |seen| seen.requests == 1);
        tokio::select! {
            answer = call => panic!("answered: {}", answer.is_some()),
            () = seen => {}
        }
    }
    client.hang_up();
    let all = listing_of(&running, 1).await;
    let trace = &all["traces"][0];
    assert_eq!(
        (&trace["status"], &trace["ended"]),
        (&Value::Null, &"client_disconnected".into())
    );
    let step = &trace["steps"][0];
    assert_eq!(
        (&step["key"], &step["status"]),
        (&"key-1".into(), &Value::Null)
    );
    assert!(running.stop().await);
}
