//! Refreshes of quotas: many keys at once, errors of single keys, Tavily's allowance.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Quota, Step};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Gateway, PoolConfig, key, pool};
use crate::http::Connection;
use crate::store_kit::{ok, problem};

const TAVILY: &str = "tavily-keys/refresh-quota";

fn tavily(mock: &Mock, name: &str, keys: std::ops::RangeInclusive<usize>) -> PoolConfig {
    PoolConfig::new(mock, name, keys).set("provider", "tavily")
}

fn slow(latency_ms: u64) -> Behaviour {
    Behaviour {
        latency: Duration::from_millis(latency_ms),
        ..Behaviour::default()
    }
}

async fn refresh(gw: &Gateway, path: &str) -> Value {
    ok(&gw.api("POST", path, Value::Null).await, 200)
}

/// The report's entry of a key.
fn of<'r>(report: &'r Value, name: &str) -> &'r Value {
    let mut keys = report["keys"].as_array().expect("a list").iter();
    keys.find(|key| key["name"] == name).expect("the key")
}

fn counts(report: &Value) -> [u64; 3] {
    ["total", "succeeded", "failed"].map(|count| report[count].as_u64().expect("a number"))
}

#[tokio::test]
async fn a_hundred_keys_are_refreshed_in_the_time_of_one() {
    let mock = Mock::start().await.unwrap();
    mock.behave("*", slow(200));
    let config = tavily(&mock, "t", 1..=100).to_string() + &pool(&mock, 1);
    let gw = Gateway::start(&config).await;
    for n in 1..=100 {
        let remaining = Some(f64::from(u32::try_from(n).unwrap()));
        mock.set_quota(
            &key(n),
            Quota {
                remaining,
                limit: Some(100.0),
            },
        );
    }
    let report = refresh(&gw, TAVILY).await;
    assert_eq!(counts(&report), [100, 100, 0]);
    let took = report["duration_ms"].as_u64().unwrap();
    println!("100 keys were refreshed in {took} ms");
    assert!((200..1000).contains(&took), "{took} ms");
    assert_eq!(
        (
            &of(&report, "t-42")["remaining_quota"],
            &of(&report, "t-42")["plan_limit"]
        ),
        (&json!(42), &json!(100))
    );
    let order: Vec<&str> = report["keys"].as_array().unwrap()[..3]
        .iter()
        .map(|key| key["name"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["t-1", "t-2", "t-3"]);
    assert!(
        (1..=100).all(|n| mock.seen(&key(n)).requests == 1),
        "each was asked once"
    );
    let view = gw.read("pools/t/keys/t-7").await;
    assert_eq!(
        (&view["remaining_quota"], &view["quota_unit"]),
        (&json!(7), &json!("credits"))
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_refresh_that_runs_is_joined() {
    let mock = Mock::start().await.unwrap();
    mock.behave("*", slow(300));
    // The first key is in both pools.
    let config = tavily(&mock, "t", 1..=3).to_string() + &tavily(&mock, "u", 1..=1).to_string();
    let gw = Gateway::start(&config).await;
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        refresh(&gw, "pools/t/refresh-quota").await
    };
    let (all, one, also) = tokio::join!(refresh(&gw, TAVILY), later, refresh(&gw, TAVILY));
    assert_eq!((counts(&all), counts(&one)), ([4, 4, 0], [3, 3, 0]));
    assert_eq!(counts(&also), [4, 4, 0]);
    assert!(
        one["keys"]
            .as_array()
            .unwrap()
            .iter()
            .all(|key| key["pool"] == "t")
    );
    let asked = [1, 2, 3].map(|n| mock.seen(&key(n)).requests);
    assert_eq!(asked, [1, 1, 1]);
    refresh(&gw, TAVILY).await;
    assert_eq!(mock.seen(&key(1)).requests, 2, "a later one asks again");
    gw.stop().await;
}

#[tokio::test]
async fn keys_come_back_when_their_quota_does() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 4)).await;
    for (n, step) in [
        (1, Step::refuse(402)),
        (2, Step::refuse(401)),
        (3, Step::refuse(402)),
    ] {
        mock.script(&key(n), [step]);
    }
    ok(
        &gw.api("POST", "pools/p/keys/p-4/disable", Value::Null)
            .await,
        200,
    );
    gw.chat().await;
    let states = async |gw: &Gateway| {
        let stats = gw.stats().await["p"].clone();
        [1, 2, 3, 4].map(|n| {
            stats[format!("p-{n}")]["state"]
                .as_str()
                .unwrap()
                .to_owned()
        })
    };
    assert_eq!(
        states(&gw).await,
        ["exhausted", "invalid", "exhausted", "disabled"]
    );
    mock.set_quota(
        &key(3),
        Quota {
            remaining: Some(0.0),
            limit: Some(10.0),
        },
    );
    let report = refresh(&gw, "pools/p/refresh-quota").await;
    assert_eq!(
        counts(&report),
        [3, 3, 0],
        "the one that is switched off is left out"
    );
    assert_eq!(
        states(&gw).await,
        ["active", "active", "exhausted", "disabled"]
    );
    assert_eq!(mock.seen(&key(4)).requests, 0);
    assert_eq!(gw.chat().await.status, 200);
    let gw = gw.restarted().await;
    assert_eq!(
        states(&gw).await,
        ["active", "active", "exhausted", "disabled"]
    );
    gw.stop().await;
}

/// Tavily allows ten of these calls in ten minutes.
#[tokio::test]
async fn the_allowance_of_a_key_is_kept_over_a_restart() {
    let mock = Mock::start().await.unwrap();
    let config = tavily(&mock, "t", 1..=2).to_string() + &pool(&mock, 1);
    let gw = Gateway::start(&config).await;
    mock.set_quota(
        &key(1),
        Quota {
            remaining: Some(5.0),
            limit: Some(9.0),
        },
    );
    for _ in 0..9 {
        assert_eq!(counts(&refresh(&gw, TAVILY).await), [2, 2, 0]);
    }
    let gw = gw.restarted().await;
    assert_eq!(
        counts(&refresh(&gw, "pools/t/refresh-quota").await),
        [2, 2, 0]
    );
    for gw in [&gw, &gw] {
        let report = refresh(gw, TAVILY).await;
        assert_eq!(counts(&report), [2, 0, 2]);
        let key = of(&report, "t-1");
        assert_eq!(
            (&key["error"], &key["remaining_quota"], &key["plan_limit"]),
            (&json!("refresh_allowance_spent"), &json!(5), &json!(9))
        );
    }
    assert_eq!(mock.seen(&key(2)).requests, 10);
    // The mock has no such limit.
    for _ in 0..12 {
        assert_eq!(
            counts(&refresh(&gw, "pools/p/refresh-quota").await),
            [1, 1, 0]
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_refresh_of_what_has_no_quota_is_refused() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("provider", "openai");
    let gw = Gateway::start(&config.to_string()).await;
    let reply = gw.api("POST", "pools/p/refresh-quota", Value::Null).await;
    let detail = problem(&reply, 422, "quota_not_offered");
    assert!(detail.contains("deepseek"), "{detail}");
    let reply = gw
        .api("POST", "pools/nope/refresh-quota", Value::Null)
        .await;
    problem(&reply, 404, "not_found");
    assert_eq!(counts(&refresh(&gw, TAVILY).await), [0, 0, 0]);
    gw.stop().await;
}

/// Each provider's form is read by the real dialect.
#[tokio::test]
async fn every_provider_that_tells_is_understood() {
    let mock = Mock::start().await.unwrap();
    mock.set_quota(
        "*",
        Quota {
            remaining: Some(12.5),
            limit: Some(50.0),
        },
    );
    let gw = Gateway::start("").await;
    for (provider, path) in [
        ("deepseek", ""),
        ("openrouter", "/api/v1"),
        ("moonshot", "/v1"),
        ("siliconflow", "/v1"),
        ("tavily", ""),
    ] {
        let fields =
            json!({ "provider": provider, "base_url": format!("{}{path}", mock.origin()) });
        ok(
            &gw.api("PUT", &format!("pools/{provider}"), fields).await,
            201,
        );
        ok(
            &gw.api(
                "POST",
                &format!("pools/{provider}/keys"),
                json!({ "key": key(1) }),
            )
            .await,
            201,
        );
        let report = refresh(&gw, &format!("pools/{provider}/refresh-quota")).await;
        assert_eq!(counts(&report), [1, 1, 0], "{report}");
        assert_eq!(report["keys"][0]["remaining_quota"], 12.5, "{report}");
    }
    gw.stop().await;
}

/// One that hangs holds up the report until its deadline of 30 s, and no other key.
#[tokio::test]
async fn a_key_that_fails_or_hangs_fails_alone() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&tavily(&mock, "t", 1..=20).to_string()).await;
    let html = Step::status(200, "<html>sign in</html>");
    for (n, step) in [
        (1, Step::Hang),
        (2, Step::refuse(401)),
        (3, Step::refuse(500)),
        (4, html),
        (5, Step::Reset),
    ] {
        mock.script(&key(n), [step]);
    }
    let began = Instant::now();
    let mut connection = Connection::open(gw.addr).await;
    let bearer = format!("Bearer {}", gw.token);
    let path = format!("/api/v1/admin/{TAVILY}");
    connection
        .request("POST", &path, &[("authorization", &bearer)], b"")
        .await;
    let reply = tokio::time::timeout(Duration::from_secs(40), connection.reply());
    let (reply, _) = reply.await.expect("within 40 s").expect("a reply");
    let took = began.elapsed();
    assert!((29..34).contains(&took.as_secs()), "{took:?}");
    let report = ok(&reply, 200);
    assert_eq!(counts(&report), [20, 15, 5]);
    for (name, error) in [
        ("t-1", json!("upstream_timeout")),
        ("t-2", json!("rejected")),
        ("t-4", json!("quota_response_not_json")),
        ("t-5", json!("upstream_unreachable")),
        ("t-6", Value::Null),
        ("t-20", Value::Null),
    ] {
        assert_eq!(of(&report, name)["error"], error, "{name}");
    }
    assert!(of(&report, "t-3")["error"].is_string());
    let stats = gw.stats().await["t"].clone();
    let states = [1, 2, 3, 4, 5, 6].map(|n| stats[format!("t-{n}")]["state"].clone());
    assert_eq!(
        json!(states),
        json!(["active", "invalid", "active", "active", "active", "active"])
    );
    assert!(gw.read("pools/t/keys/t-6").await["remaining_quota"].is_number());
    gw.stop().await;
}
