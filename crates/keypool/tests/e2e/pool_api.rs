//! Pools that the admin API manages.

use std::sync::Arc;

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Gateway, PoolConfig, key, within};
use crate::store_kit::{etag, names, ok, pool, problem, stored_pool};

#[tokio::test]
async fn a_pool_is_created_replaced_listed_and_deleted_with_its_keys() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let fields = stored_pool(&mock, "own-*");
    let created = gw.api("PUT", "pools/own", fields.clone()).await;
    let view = ok(&created, 201);
    assert_eq!(view["source"], "store");
    assert_eq!(view["models"], json!(["own-*"]));
    assert_eq!(view["keys"]["total"], 0);
    assert_eq!(view["created_at"], view["updated_at"]);
    let key_fields = json!({ "key": key(2) });
    ok(
        &gw.api("POST", "pools/own/keys", key_fields.clone()).await,
        201,
    );
    let reply = gw.chat_with("own-x").await;
    assert_eq!((reply.status, reply.key()), (200, "own-1"), "{reply:?}");

    let mut changed = fields.clone();
    changed["strategy"] = json!("random");
    changed["queue"] = json!({ "timeout": "90s" });
    let replaced = gw.api("PUT", "pools/own", changed).await;
    let view = ok(&replaced, 200);
    assert_ne!(etag(&created), etag(&replaced));
    assert_eq!(view["strategy"], "random");
    assert_eq!(view["queue"]["timeout"], "90s");
    assert_eq!(view["keys"]["total"], 1, "its keys stay");
    assert_eq!(gw.read("pools/own").await, view);
    ok(&gw.api("PUT", "pools/own", fields.clone()).await, 200);
    assert_eq!(gw.read("pools/own").await["strategy"], "round_robin");

    let all = gw.read("pools").await;
    assert_eq!(
        (names(&all), &all["next"]),
        (vec!["own", "p"], &Value::Null)
    );
    let first = gw.read("pools?limit=1").await;
    assert_eq!(
        (names(&first), &first["next"]),
        (vec!["own"], &json!("own"))
    );
    let second = gw.read("pools?limit=1&cursor=own").await;
    assert_eq!((names(&second), &second["next"]), (vec!["p"], &Value::Null));

    let deleted = gw.api("DELETE", "pools/own", Value::Null).await;
    assert_eq!(ok(&deleted, 204), Value::Null);
    for path in ["pools/own", "pools/own/keys", "pools/own/keys/own-1"] {
        problem(&gw.api("GET", path, Value::Null).await, 404, "not_found");
    }
    assert_eq!(
        gw.chat_with("own-x").await.key(),
        "p-1",
        "the pool of all models is left"
    );
    ok(&gw.api("PUT", "pools/own", fields).await, 201);
    assert_eq!(gw.read("pools/own/keys").await["items"], json!([]));
    ok(&gw.api("POST", "pools/own/keys", key_fields).await, 201);
    gw.stop().await;
}

#[tokio::test]
async fn a_declared_pool_is_changed_at_its_source_only() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let view = gw.read("pools/p").await;
    assert!(
        view["source"].as_str().unwrap().contains("keypool.toml"),
        "{view}"
    );
    for (method, body) in [("PUT", stored_pool(&mock, "*")), ("DELETE", Value::Null)] {
        let detail = problem(&gw.api(method, "pools/p", body).await, 409, "declared");
        assert!(detail.contains("keypool.toml"), "{detail}");
    }
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
}

#[tokio::test]
async fn a_declared_pool_takes_the_place_of_a_stored_one_of_its_name() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    let declared = PoolConfig::new(&mock, "own", [3]).set("models", vec!["own-*"]);
    let config = pool(&mock, 1) + &declared.to_string();
    gw.folder().write("keypool.toml", &config);
    ok(&gw.admin("POST", "/api/v1/admin/config/reload").await, 200);
    let view = gw.read("pools/own").await;
    assert_ne!(view["source"], "store");
    // The declared key has the name of the stored one, which is not used.
    assert_eq!(view["keys"]["total"], 1);
    assert_eq!(gw.chat_with("own-x").await.status, 200);
    assert_eq!(
        (mock.seen(&key(2)).requests, mock.seen(&key(3)).requests),
        (0, 1)
    );
    gw.folder().write("keypool.toml", &pool(&mock, 1));
    ok(&gw.admin("POST", "/api/v1/admin/config/reload").await, 200);
    assert_eq!(gw.chat_with("own-x").await.status, 200);
    assert_eq!(
        (mock.seen(&key(2)).requests, mock.seen(&key(3)).requests),
        (1, 1)
    );
    gw.stop().await;
}

#[tokio::test]
async fn stored_pools_and_stored_keys_of_declared_pools_serve_at_once() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(3) }))
            .await,
        201,
    );
    for _ in 0..4 {
        assert_eq!(gw.chat().await.status, 200);
        assert_eq!(gw.chat_with("own-x").await.key(), "own-1");
    }
    let requests = [1, 2, 3].map(|n| mock.seen(&key(n)).requests);
    assert_eq!(requests, [2, 2, 4]);
    gw.stop().await;
}

#[tokio::test]
async fn a_waiting_request_is_served_by_a_key_that_the_api_adds() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1])
        .set("max_concurrent_per_key", 1)
        .set("queue.max_waiting", 1);
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    mock.script(&key(1), [Step::Hang]);
    let mut calls = JoinSet::new();
    let mut call = || {
        let gw = Arc::clone(&gw);
        calls.spawn(async move { gw.chat().await })
    };
    let holder = call();
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    call();
    call();
    // Once one of them is refused, the other is waiting.
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), "queue_full", "{refused:?}");
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    let reply = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!((reply.status, reply.key()), (200, "p-2"), "{reply:?}");
    let waited: u64 = reply.header("x-keypool-queue-ms").unwrap().parse().unwrap();
    assert!(waited > 0, "it waited for {waited} ms");
    holder.abort();
    let _ = calls.join_next().await;
    Arc::into_inner(gw).unwrap().stop().await;
}

/// A field of a pool that is otherwise right, its value as JSON, and what the error says.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    ("provider", "null", &["provider"]),
    ("provider", r#""opnai""#, &["provider", "openai", "tavily"]),
    ("stratgy", r#""random""#, &["`stratgy`", "`strategy`"]),
    ("strategy", r#""best""#, &["best", "round_robin"]),
    ("keys", r#"["sk"]"#, &["`keys`"]),
    ("queue", r#"{"timeout":"soon"}"#, &["duration"]),
    ("queue", r#"{"timout":"1s"}"#, &["timout", "timeout"]),
    ("timeouts", r#"{"total":"0s"}"#, &["timeouts.total"]),
    ("retry", r#"{"retries":101}"#, &["retry.retries", "100"]),
    ("retry", r#"{"retries":-1}"#, &["`retry`", "-1"]),
    ("breaker", r#"{"failure_rate":2}"#, &["failure_rate"]),
    ("models", r#""own-*""#, &["`models`"]),
    ("models", r#"[""]"#, &["models"]),
    ("base_url", "null", &["base_url", "missing"]),
    ("base_url", r#""ftp://x""#, &["base_url"]),
    ("proxy", r#""http://u:s3cr3t@h:1""#, &["`proxy`"]),
];

#[tokio::test]
async fn mistakes_in_a_pool_are_named_and_nothing_is_stored() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (field, value, says) in MISTAKES {
        let mut fields = stored_pool(&mock, "own-*");
        fields[*field] = serde_json::from_str(value).unwrap();
        let reply = gw.api("PUT", "pools/own", fields).await;
        let detail = problem(&reply, 422, "invalid_settings");
        for words in *says {
            assert!(detail.contains(words), "{field} {value}: {detail}");
        }
    }
    for (name, says) in [("v1", "path"), ("a%20b", "name")] {
        let path = format!("pools/{name}");
        let reply = gw.api("PUT", &path, stored_pool(&mock, "x")).await;
        let detail = problem(&reply, 422, "invalid_settings");
        assert!(detail.contains(says), "{says}: {detail}");
    }
    assert_eq!(names(&gw.read("pools").await), ["p"]);
    assert_eq!(gw.read("audit").await["items"], json!([]));
    gw.stop().await;
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (body, status) in [("", 400), ("{", 400), ("[]", 400), ("7", 400)] {
        let reply = gw.api_raw(
            "PUT",
            "pools/own",
            &[crate::store_kit::JSON],
            body.as_bytes(),
        );
        problem(&reply.await, status, "invalid_body");
    }
    let text = [("content-type", "text/plain")];
    let reply = gw.api_raw("PUT", "pools/own", &text, b"{}").await;
    problem(&reply, 415, "unsupported_media_type");
    let large = json!({ "base_url": "x".repeat(2 << 20) });
    let reply = gw.api("PUT", "pools/own", large).await;
    problem(&reply, 413, "body_too_large");
    for path in [
        "pools?limit=0",
        "pools?limit=1001",
        "pools?limit=x",
        "pools?page=2",
    ] {
        problem(
            &gw.api("GET", path, Value::Null).await,
            400,
            "invalid_query",
        );
    }
    problem(
        &gw.api("GET", "pools/%ff", Value::Null).await,
        400,
        "invalid_path",
    );
    assert_eq!(names(&gw.read("pools").await), ["p"]);
    assert_eq!(gw.read("audit").await["items"], json!([]));
    gw.stop().await;
}
