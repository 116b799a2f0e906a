//! What callers and operators learn about limits from responses.

use std::time::Duration;

use keypool_testkit::{Mock, RedisServer};
use serde_json::{Value, json};

use crate::harness::{CHAT_PATH, Gateway, bearer, pool, virtual_key, within};
use crate::limits::{chat, left, post};
use crate::redis_limits::limiter;

/// What `/readyz` says to anybody, and to the operator.
async fn readiness(gw: &Gateway) -> (Value, Value) {
    let (ready, detailed) = (gw.get("/readyz").await, gw.admin("GET", "/readyz").await);
    assert_eq!((ready.status, detailed.status), (200, 200), "{ready:?}");
    (ready.json(), detailed.json())
}

async fn until_degraded_is(gw: &Gateway, expect: bool) {
    let reached = async {
        while readiness(gw).await.0["degraded"] != json!(expect) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(reached).await;
}

#[tokio::test]
async fn readiness_says_whether_the_limiters_redis_responds() {
    let mock = Mock::start().await.unwrap();
    let mut redis = RedisServer::start().await.unwrap();
    let gw = Gateway::start(&(pool(&mock, 1) + &limiter(&redis, ""))).await;
    let (ready, detailed) = readiness(&gw).await;
    assert_eq!(ready, json!({ "status": "ready", "degraded": false }));
    assert_eq!(detailed["limiter_is_degraded"], json!(false));
    redis.kill().unwrap();
    until_degraded_is(&gw, true).await;
    let (ready, detailed) = readiness(&gw).await;
    assert_eq!(ready, json!({ "status": "ready", "degraded": true }));
    assert_eq!(detailed["limiter_is_degraded"], json!(true));
    assert_eq!(detailed["pools_without_a_usable_key"], json!([]));
    redis.restart_empty().await.unwrap();
    until_degraded_is(&gw, false).await;
    gw.stop().await;
}

#[tokio::test]
async fn every_response_to_a_caller_says_what_its_limits_leave() {
    let mock = Mock::start().await.unwrap();
    let config = pool(&mock, 1)
        + &virtual_key("team", "models = [\"gpt-x\"]\nrpm = 5\ninput_tpm = 1_000")
        + &virtual_key("other", "");
    let gw = Gateway::start(&config).await;
    let list = async |name: &str| {
        let headers = [("authorization", &*bearer(name))];
        gw.send("GET", "/v1/models", &headers, b"").await
    };
    let all = [Some("5"), Some("5"), Some("0s")];
    let listed = list("team").await;
    assert_eq!((listed.status, left(&listed, "requests")), (200, all));
    assert_eq!(left(&listed, "input-tokens")[0], Some("1000"));
    assert_eq!(left(&listed, "output-tokens"), [None; 3]);
    for (path, body, status) in [
        (CHAT_PATH, "{", 400),
        (CHAT_PATH, r#"{"model":"gpt-y","messages":[]}"#, 403),
        ("/p/native", "{}", 403),
        ("/nowhere", "{}", 404),
    ] {
        let reply = post(&gw, path, body).await;
        assert_eq!(
            (reply.status, left(&reply, "requests")),
            (status, all),
            "{path}: {body}"
        );
    }
    assert_eq!(chat(&gw).await.status, 200);
    assert_eq!(
        left(&list("team").await, "requests")[1],
        Some("4"),
        "lists do not count"
    );
    // Nobody is limited here.
    assert_eq!(left(&list("other").await, "requests"), [None; 3]);
    let unknown = list("nobody").await;
    assert_eq!(
        (unknown.status, left(&unknown, "requests")),
        (401, [None; 3])
    );
    gw.stop().await;
}
