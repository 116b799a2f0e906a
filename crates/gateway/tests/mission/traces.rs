//! "Why this key", as an operator and as a caller reads it.

use http::Request;
use http_body_util::BodyExt;
use keypool_core::secret::Digest256;
use keypool_core::settings::{PoolSettings, VirtualKeySettings};
use keypool_testkit::{Mock, Step};
use serde_json::Value;

use crate::harness::{ADMIN_TOKEN, Client, Running, pool};

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"a secret question"}]}"#;

/// Three keys of which the first is rate-limited and the second rejected when they are tried.
async fn troubled() -> (Mock, PoolSettings) {
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
fn timeless(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_time = |at: usize| {
        words
            .get(at + 1)
            .is_some_and(|next| next.trim_end_matches(';') == "ms")
    };
    let told = |(at, word): (usize, &&str)| if is_time(at) { "N" } else { *word }.to_owned();
    words
        .iter()
        .enumerate()
        .map(told)
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn the_header_tells_a_caller_who_asks_why_it_got_its_key() {
    let (_mock, pool) = troubled().await;
    let running = Running::start(pool).await;
    let asks = [("x-keypool-trace", "1")];
    let (status, header) = call(&running, &asks).await;
    assert_eq!(status, 200);
    assert_eq!(
        timeless(&header.unwrap()),
        "pool: 3/3 free; \"key-1\" by round_robin; 429 rate_limited in N ms \
         | 2/3 free; 1 rate-limited; \"key-2\" by round_robin; 401 rejected in N ms \
         | 1/3 free; 1 rate-limited, 1 invalid; \"k%C3%BCche%203\" by round_robin; 200 in N ms"
    );
    assert_eq!(call(&running, &[]).await.1, None, "nobody asked");
    assert_eq!(call(&running, &[("x-keypool-trace", "0")]).await.1, None);
    assert!(running.stop().await);
}

#[tokio::test]
async fn an_error_says_why_there_was_no_key_and_the_line_is_bounded() {
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
        Some("pool: 0/40 free; 8 rate-limited, 32 more not; no key: none is back in time")
    );
    assert!(running.stop().await);
}

#[tokio::test]
async fn with_virtual_keys_only_those_that_may_use_native_paths_see_traces() {
    let (_mock, pool) = troubled().await;
    let running = Running::start(pool).await;
    let keys = [("plain", false), ("native", true)].map(|(name, native)| VirtualKeySettings {
        name: name.into(),
        digest: Digest256::of(format!("virtual-key-{name}").as_bytes()),
        models: vec!["*".into()],
        pools: vec!["*".into()],
        native,
        expires: None,
        disabled: false,
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

#[tokio::test]
async fn the_admin_reads_every_step_newest_first_and_without_secrets() {
    let (_mock, pool) = troubled().await;
    let running = Running::start(pool).await;
    for id in ["first", "second"] {
        let (status, _) = call(&running, &[("x-request-id", id)]).await;
        assert_eq!(status, 200);
    }
    // A trace is kept when the last byte of the answer has gone, which may be after the client has it.
    let both = async {
        loop {
            let (_, all) = listing(&running, "?pool=pool").await;
            if all["traces"].as_array().unwrap().len() == 2 {
                break all;
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    let all = tokio::time::timeout(limit, both).await.unwrap();
    let ids: Vec<&str> = (0..2)
        .map(|n| all["traces"][n]["request_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["second", "first"]);
    let text = all.to_string();
    assert!(!text.contains("secret"), "{text}");
    let (_, first) = listing(&running, "?request_id=first&limit=5").await;
    let trace = &first["traces"][0];
    assert_eq!(first["traces"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&trace["status"], &trace["caller"]),
        (&200.into(), &"-".into())
    );
    assert!(trace["ended"].is_null() && trace["time"].as_str().unwrap().ends_with('Z'));
    let steps = trace["steps"].as_array().unwrap();
    let told: Vec<_> = steps
        .iter()
        .map(|step| {
            (
                step["key"].as_str().unwrap(),
                step["status"].as_u64().unwrap(),
                step["class"].as_str(),
                step["rests_ms"].as_f64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("key-1", 429, Some("rate_limited"), Some(600_000.0)),
            ("key-2", 401, Some("rejected"), None),
            ("küche 3", 200, None, None),
        ]
    );
    let last = &steps[2];
    assert_eq!(
        (&last["pool"], &last["model"], &last["by"]),
        (&"pool".into(), &"m".into(), &"round_robin".into())
    );
    assert_eq!(
        (&last["keys"], &last["free"], &last["more"]),
        (&3.into(), &1.into(), &0.into())
    );
    let excluded = &last["excluded"];
    assert_eq!(
        (&excluded[0]["key"], &excluded[0]["reason"]),
        (&"key-1".into(), &"rate_limited".into())
    );
    assert!(excluded[0]["until"].is_string(), "{excluded}");
    assert_eq!(
        (&excluded[1]["key"], &excluded[1]["reason"]),
        (&"key-2".into(), &"invalid".into())
    );
    assert!(excluded[1]["until"].is_null());
    for (query, found) in [("?limit=1", 1), ("?pool=other", 0), ("?request_id=none", 0)] {
        let (_, some) = listing(&running, query).await;
        assert_eq!(some["traces"].as_array().unwrap().len(), found, "{query}");
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
