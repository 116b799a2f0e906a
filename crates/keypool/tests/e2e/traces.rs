//! Traces: what operators and callers see about the keys and targets of a request.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::bad_input::refused;
use crate::harness::{CHAT_PATH, Gateway, PoolConfig, bearer, key, virtual_key, within};
use crate::http::Reply;

const ASKS: (&str, &str) = ("x-keypool-trace", "1");
const BEST: &str = r#"{"model":"best","messages":[]}"#;

/// A pool with one key and the models `<name>-*`.
fn named(mock: &Mock, name: &str, n: usize) -> PoolConfig {
    PoolConfig::new(mock, name, [n]).set("models", vec![format!("{name}-*")])
}

/// A call with the virtual key of this name that asks for its trace.
async fn chat_as(gw: &Gateway, name: &str, body: &str) -> Reply {
    let bearer = bearer(name);
    let headers = [ASKS, ("authorization", &*bearer)];
    gw.send("POST", CHAT_PATH, &headers, body.as_bytes()).await
}

fn trace(reply: &Reply) -> &str {
    reply.header("x-keypool-trace").unwrap_or_default()
}

/// A route over four pools: one of another protocol, one closed to `team`, one that cools down, one that serves.
fn four_targets(mock: &Mock) -> String {
    let search = "[pools.web]\nprovider = \"tavily\"\nbase_url = \"http://127.0.0.1:9\"\nkeys = [\"unused\"]\n";
    let names = ["web", "closed", "cooling", "serving"];
    let targets = names
        .map(|name| format!("{{ pool = \"{name}\" }}"))
        .join(", ");
    format!(
        "{search}{}{}{}[[routes]]\nmodel = \"best\"\ntargets = [{targets}]\n{}{}{}",
        named(mock, "closed", 1),
        named(mock, "cooling", 2),
        named(mock, "serving", 3),
        virtual_key(
            "team",
            "native = true\npools = [\"web\", \"cooling\", \"serving\"]"
        ),
        virtual_key("plain", ""),
        virtual_key("other", "native = true\nmodels = [\"serving-*\"]"),
    )
}

/// `text` with every number of milliseconds replaced by `N`.
fn timeless(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for at in 1..words.len() {
        if words[at].trim_end_matches(';') == "ms" {
            words[at - 1] = "N";
        }
    }
    words.join(" ")
}

#[tokio::test]
async fn skipped_targets_appear_in_the_trace_with_their_reason() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&four_targets(&mock)).await;
    mock.script(&key(2), [Step::rate_limited(600)]);
    assert_eq!(chat_as(&gw, "team", BEST).await.status, 200);
    let reply = chat_as(&gw, "team", BEST).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        timeless(trace(&reply)),
        "web: skipped: other protocol \
         | cooling: 0/1 free; 1 rate-limited; no key in time \
         | serving: 1/1 free; \"serving-1\" by round_robin; 200 in N ms"
    );
    let id = reply.header("x-request-id").unwrap();
    let listed = async {
        loop {
            let path = format!("/api/v1/admin/traces?request_id={id}");
            let listing = gw.admin("GET", &path).await.json();
            if let Some(trace) = listing["traces"].get(0) {
                break trace["steps"].clone();
            }
        }
    };
    let steps = within(listed).await;
    let fields = ["pool", "model", "key", "keys", "no_key", "skipped"];
    let shown: Vec<Value> = steps.as_array().unwrap()[..3]
        .iter()
        .map(|step| fields.iter().map(|name| step[name].clone()).collect())
        .collect();
    assert_eq!(
        shown,
        [
            json!(["web", "best", null, null, null, "other_protocol"]),
            json!(["closed", "best", null, null, null, "pool_not_allowed"]),
            json!(["cooling", "best", null, 1, "no_key_in_time", null]),
        ]
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_target_with_a_queue_timeout_appears_in_the_trace_with_its_wait() {
    let mock = Mock::start().await.unwrap();
    let slow = named(&mock, "slow", 1)
        .set("max_concurrent_per_key", 1)
        .set("queue.timeout", "100ms");
    let config = format!(
        "{slow}{}[[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"slow\" }}, {{ pool = \"quick\" }}]\n",
        named(&mock, "quick", 2)
    );
    let gw = Gateway::start(&config).await;
    mock.script(&key(1), [Step::Hang]);
    let held = gw.post(CHAT_PATH, BEST);
    tokio::pin!(held);
    let first = key(1);
    let in_use = async {
        tokio::select! {
            reply = &mut held => panic!("{reply:?}"),
            () = mock.wait_for(&first, |seen| seen.active == 1) => {}
        }
    };
    within(in_use).await;
    let reply = gw.send("POST", CHAT_PATH, &[ASKS], BEST.as_bytes()).await;
    let (slow, quick) = trace(&reply).split_once(" | ").unwrap();
    assert_eq!(
        timeless(slow),
        "slow: 0/1 free; 1 full; waited N ms; queue timeout"
    );
    assert!(
        quick.starts_with("quick: 1/1 free; \"quick-1\" by") && !quick.contains("waited"),
        "{quick}"
    );
}

#[tokio::test]
async fn errors_before_a_pool_is_chosen_are_traced_for_native_callers() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&four_targets(&mock)).await;
    let unknown = r#"{"model":"nobody-x","messages":[]}"#;
    let search = "web: skipped: other protocol";
    let reply = chat_as(&gw, "team", unknown).await;
    refused(&reply, 404, "model_not_found", "no pool has it");
    assert_eq!(
        trace(&reply),
        format!(
            "{search} | cooling: skipped: model not served | serving: skipped: model not served"
        )
    );
    let reply = chat_as(&gw, "other", BEST).await;
    refused(&reply, 403, "model_not_allowed", "neither route nor target");
    let model = "skipped: model not allowed";
    assert_eq!(
        trace(&reply),
        format!("{search} | closed: {model} | cooling: {model} | serving: {model}")
    );
    let reply = chat_as(&gw, "other", r#"{"model":"closed-x","messages":[]}"#).await;
    assert_eq!(
        (reply.status, trace(&reply)),
        (403, &*format!("closed: {model}"))
    );
    for (name, status) in [("plain", 404), ("nobody", 401)] {
        let reply = chat_as(&gw, name, unknown).await;
        assert_eq!(
            (reply.status, reply.header("x-keypool-trace")),
            (status, None),
            "{name}"
        );
    }
    gw.stop().await;
}
