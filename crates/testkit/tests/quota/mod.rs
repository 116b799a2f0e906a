//! Quota endpoints of the mock: figures set per key, faults, and many calls at once.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Quota, Step};
use serde_json::{Value, json};

use crate::client::{Client, call, get, within};

const PATHS: [&str; 5] = [
    "/usage",
    "/user/balance",
    "/api/v1/key",
    "/v1/users/me/balance",
    "/v1/user/info",
];

/// What each endpoint says is left.
async fn reported(mock: &Mock, key: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for (path, place) in PATHS.into_iter().zip([
        "/account/plan_usage",
        "/balance_infos/0/total_balance",
        "/data/limit_remaining",
        "/data/available_balance",
        "/data/totalBalance",
    ]) {
        let body = get(mock, key, path).await.json();
        all.push(body.pointer(place).expect(place).clone());
    }
    all
}

#[tokio::test]
async fn every_provider_reports_the_quota_that_was_set() {
    let mock = Mock::start().await.unwrap();
    let (remaining, limit) = (Some(120.5), Some(500.0));
    mock.set_quota("k", Quota { remaining, limit });
    let expect = [
        json!(379.5),
        json!("120.5"),
        json!(120.5),
        json!(120.5),
        json!("120.5"),
    ];
    assert_eq!(reported(&mock, "k").await, expect);
    let usage = get(&mock, "k", "/usage").await.json();
    assert_eq!(usage["account"]["plan_limit"], 500);
    assert_eq!(get(&mock, "k", "/key").await.json()["data"]["limit"], 500);

    let nothing = json!({"*": {"remaining": 0}, "free": {"remaining": null}}).to_string();
    let set = call(&mock, "POST", "/_mock/quota", &[], &nothing)
        .await
        .unwrap();
    assert_eq!(set.status, 200);
    let balance = get(&mock, "other", "/user/balance").await.json();
    assert_eq!(balance["is_available"], false);
    let unlimited = get(&mock, "free", "/usage").await.json();
    assert_eq!(unlimited["account"]["plan_limit"], json!(null));
    let unlimited = get(&mock, "free", "/key").await.json();
    assert_eq!(unlimited["data"]["limit_remaining"], json!(null));
    let wrong = call(&mock, "POST", "/_mock/quota", &[], r#"{"k":{"left":1}}"#).await;
    assert_eq!(wrong.unwrap().status, 400);
}

#[tokio::test]
async fn a_quota_call_fails_as_any_other_does() {
    let mock = Mock::start().await.unwrap();
    for path in PATHS {
        mock.script(
            "k",
            [
                Step::refuse(401),
                Step::rate_limited(7),
                Step::status(500, "<html>"),
            ],
        );
        let mut replies = Vec::new();
        for _ in 0..4 {
            replies.push(get(&mock, "k", path).await);
        }
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [401, 429, 500, 200], "{path}");
        assert_eq!(replies[1].header("retry-after"), Some("7"), "{path}");
        assert_eq!(replies[2].text(), "<html>", "{path}");
    }
    mock.script("hanging", [Step::Hang]);
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("GET", "/usage", &["authorization: Bearer hanging"], "")
        .await;
    within(mock.wait_for("hanging", |seen| seen.active == 1)).await;
    assert_eq!(get(&mock, "k", "/usage").await.status, 200);
    assert_eq!(mock.seen("hanging").active, 1);
}

/// Latencies add up to far more than the test may take, unless all of them pass at the same time.
#[tokio::test]
async fn hundreds_of_quota_calls_are_answered_at_once() {
    const CALLS: usize = 400;
    let mock = Mock::start().await.unwrap();
    let latency = Duration::from_millis(200);
    mock.behave(
        "*",
        Behaviour {
            latency,
            ..Behaviour::default()
        },
    );
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..CALLS {
        let (remaining, limit) = (Some(n as f64), Some(1000.0));
        mock.set_quota(&format!("k{n}"), Quota { remaining, limit });
        let mock = mock.clone();
        calls.spawn(async move {
            let body = get(&mock, &format!("k{n}"), "/usage").await.json();
            (n, body["account"]["plan_usage"].as_f64())
        });
    }
    let replies = within(calls.join_all()).await;
    assert_eq!(replies.len(), CALLS);
    for (n, used) in replies {
        assert_eq!(used, Some(1000.0 - n as f64));
    }
}
