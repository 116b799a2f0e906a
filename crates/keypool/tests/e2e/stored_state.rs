//! What outlives a restart: counters, the states of keys, quotas, owners of objects, usage.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, Quota, Step};
use serde_json::{Value, json};

use crate::harness::{Folder, Gateway, PoolConfig, key};
use crate::store_kit::{JSON, ok, pool, stored_pool};
use crate::usage::total;

/// The statistics, without what may differ by a millisecond, what depends on the models that were asked for lately, and the age,
/// which a declared key has once it is stored.
async fn comparable_stats(gw: &Gateway) -> Value {
    let mut stats = gw.stats().await;
    let pools = stats.as_object_mut().expect("pools").values_mut();
    for key in pools
        .filter_map(Value::as_object_mut)
        .flat_map(|keys| keys.values_mut())
    {
        let fields = key.as_object_mut().expect("statistics");
        fields.remove("age_days");
        let cooldowns = fields["cooldowns"].as_array_mut().expect("a list");
        let is_cooling = !cooldowns.is_empty();
        for cooldown in cooldowns {
            let until = cooldown["until"].as_str().expect("a date");
            cooldown["until"] = json!(until[.."2026-01-01T00:00".len()]);
        }
        if is_cooling {
            fields.remove("is_available");
            fields.remove("state");
        }
    }
    stats
}

/// A key in each state: cooling, invalid, exhausted, disabled, and one that serves. Two of them are stored.
async fn in_all_states() -> (Gateway, Mock) {
    let mock = Mock::start().await.expect("a mock");
    let gw = Gateway::start(&pool(&mock, 4)).await;
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(5) }))
            .await,
        201,
    );
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(6) }))
            .await,
        201,
    );
    for (n, step) in [
        (1, Step::rate_limited(600)),
        (2, Step::refuse(401)),
        (3, Step::refuse(402)),
    ] {
        mock.script(&key(n), [step]);
    }
    let path = "pools/p/keys/p-4/disable";
    ok(&gw.api("POST", path, Value::Null).await, 200);
    for _ in 0..6 {
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.key()), (200, "p-5"), "{reply:?}");
        assert_eq!(gw.chat_with("own-x").await.status, 200);
    }
    let stats = gw.stats().await;
    let states = [1, 2, 3, 4, 5].map(|n| stats["p"][format!("p-{n}")]["state"].clone());
    assert_eq!(
        json!(states),
        json!(["cooling", "invalid", "exhausted", "disabled", "active"])
    );
    (gw, mock)
}

async fn serves_as_before(gw: &Gateway, mock: &Mock) {
    mock.clear();
    for _ in 0..6 {
        assert_eq!(gw.chat().await.key(), "p-5");
    }
    let untouched = [1, 2, 3, 4].map(|n| mock.seen(&key(n)).requests);
    assert_eq!(untouched, [0; 4]);
}

#[tokio::test]
async fn states_and_counters_of_keys_outlive_a_restart() {
    let (gw, mock) = in_all_states().await;
    let (before, usage) = (comparable_stats(&gw).await, total(&gw).await);
    let gw = gw.restarted().await;
    assert_eq!(comparable_stats(&gw).await, before);
    assert_eq!(total(&gw).await, usage);
    serves_as_before(&gw, &mock).await;
    for name in ["p-1", "p-2", "p-3"] {
        gw.reset("p", name).await;
    }
    ok(
        &gw.api("POST", "pools/p/keys/p-4/enable", Value::Null).await,
        200,
    );
    let gw = gw.restarted().await;
    let stats = gw.stats().await["p"].clone();
    for (name, key) in stats.as_object().unwrap() {
        assert_eq!(key["state"], "active", "{name}: {stats}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn states_and_counters_of_keys_outlive_a_kill() {
    let (gw, mock) = in_all_states().await;
    let (before, usage) = (comparable_stats(&gw).await, total(&gw).await);
    // What is counted is stored every 2 s.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let token = gw.token.clone();
    let gw = Gateway::start_again(&gw.killed().await, token).await;
    assert_eq!(comparable_stats(&gw).await, before);
    assert_eq!(total(&gw).await, usage);
    serves_as_before(&gw, &mock).await;
    gw.stop().await;
}

/// A key that is declared under another name, or in another pool, is the same key.
#[tokio::test]
async fn a_key_keeps_its_state_wherever_it_is_after_a_restart() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new(&pool(&mock, 2));
    let gw = Gateway::start_in(&folder).await;
    mock.script(&key(1), [Step::refuse(401)]);
    for _ in 0..3 {
        assert_eq!(gw.chat().await.status, 200);
    }
    let mut before = gw.stats().await["p"].clone();
    // A declared key has an age once it is stored.
    before["p-1"]["age_days"] = json!(0);
    before["p-2"]["age_days"] = json!(0);
    gw.stop().await;
    let mut other = PoolConfig::new(&mock, "other", []);
    for n in [2, 1, 3] {
        other = other.key(n, &format!("name = \"number {n}\""));
    }
    folder.write("keypool.toml", &other.to_string());
    let gw = Gateway::start_in(&folder).await;
    let after = gw.stats().await["other"].clone();
    assert_eq!(after["number 1"], before["p-1"]);
    assert_eq!(after["number 2"], before["p-2"]);
    assert_eq!(after["number 3"]["total_requests"], 0);
    gw.stop().await;
}

#[tokio::test]
async fn quotas_and_their_errors_outlive_a_restart() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let quota = Quota {
        remaining: Some(250.0),
        limit: Some(1000.0),
    };
    mock.set_quota(&key(1), quota);
    ok(
        &gw.api("POST", "pools/p/refresh-quota", Value::Null).await,
        200,
    );
    mock.script(&key(2), [Step::refuse(500)]);
    ok(
        &gw.api("POST", "pools/p/refresh-quota", Value::Null).await,
        200,
    );
    let shown = async |gw: &Gateway| {
        let keys = gw.read("pools/p/keys").await["items"].clone();
        let fields = [
            "remaining_quota",
            "plan_limit",
            "quota_unit",
            "quota_refreshed_at",
            "quota_error",
            "age_days",
            "rotation_due",
        ];
        let of = |key: &Value| fields.map(|field| key[field].clone()).to_vec();
        keys.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let before = shown(&gw).await;
    assert_eq!((&before[0][0], &before[0][1]), (&json!(250), &json!(1000)));
    assert_eq!(
        (&before[0][4], &before[0][5], &before[0][6]),
        (&Value::Null, &json!(0), &json!(false))
    );
    assert!(
        before[1][0].is_number() && before[1][4].is_string(),
        "{before:?}"
    );
    let gw = gw.restarted().await;
    assert_eq!(shown(&gw).await, before);
    gw.stop().await;
}

#[tokio::test]
async fn an_object_belongs_to_its_caller_after_a_restart_and_a_kill() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let mut secrets = Vec::new();
    for name in ["owner", "other"] {
        let created = gw
            .api("POST", "virtual-keys", json!({ "name": name }))
            .await;
        let secret = ok(&created, 201)["key"].as_str().unwrap().to_owned();
        secrets.push(format!("Bearer {secret}"));
    }
    let call = async |gw: &Gateway, caller: usize, method: &str, path: &str, body: &str| {
        let headers = [JSON, ("authorization", &*secrets[caller])];
        gw.send(method, path, &headers, body.as_bytes()).await
    };
    let body = r#"{"model":"gpt-x","input":"hello"}"#;
    let mut made = Vec::new();
    for _ in 0..4 {
        let reply = call(&gw, 0, "POST", "/v1/responses", body).await;
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        made.push((reply.key().to_owned(), format!("/v1/responses/{id}")));
    }
    let deleted = call(&gw, 0, "DELETE", &made[3].1, "").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let check = async |gw: &Gateway| {
        for (key, path) in &made[..3] {
            let foreign = call(gw, 1, "GET", path, "").await;
            assert_eq!(
                (foreign.status, foreign.attempts()),
                (404, ""),
                "{foreign:?}"
            );
            let own = call(gw, 0, "GET", path, "").await;
            assert_eq!((own.status, own.key()), (200, &**key), "{own:?}");
        }
    };
    check(&gw).await;
    // Owners are stored within a fraction of a second.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let token = gw.token.clone();
    let folder: Arc<Folder> = gw.killed().await;
    let gw = Gateway::start_again(&folder, token).await;
    check(&gw).await;
    let gw = gw.restarted().await;
    check(&gw).await;
    gw.stop().await;
}
