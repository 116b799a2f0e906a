//! What callers and operators are told of limits beside what calls get.

use std::time::Duration;

use keypool_testkit::{Mock, RedisServer};
use serde_json::{Value, json};

use crate::harness::{Gateway, pool, within};
use crate::limits::limiter;

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
