//! PostgreSQL that is not there at the start, goes away under load, and comes back; a disk that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use keypool_testkit::{Mock, PostgresServer};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Folder, Gateway, Process, key};
use crate::store_kit::{TOKEN, names, node, ok, poll, pool, postgres_config, problem, stored_pool};
use crate::usage::total;

/// Checks that these calls say that the store is not there. Each waits for it for a while, so they are made at once.
async fn are_refused(gw: &Gateway, calls: &[(&str, &str, Value)]) {
    let calls = calls.iter().map(|(method, path, body)| async move {
        let reply = gw.api(method, path, body.clone()).await;
        problem(&reply, 503, "store_unavailable");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_once_it_is_up() {
    let (mock, mut server) = (
        Mock::start().await.unwrap(),
        PostgresServer::start().await.unwrap(),
    );
    server.kill().unwrap();
    let folder = Folder::new(&(pool(&mock, 2) + &postgres_config(&server.url())));
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    assert_eq!(gw.chat().await.status, 200, "declared keys are served");
    let ready = gw.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["degraded"]),
        (200, &json!(true))
    );
    assert!(
        ready.json()["store_is_degraded"].is_null(),
        "no details without a token"
    );
    let calls = [
        ("PUT", "pools/late", stored_pool(&mock, "late-*")),
        ("POST", "pools/p/keys", json!({ "key": key(7) })),
        ("POST", "virtual-keys", json!({ "name": "late" })),
        ("POST", "pools/p/keys/p-1/disable", Value::Null),
        ("GET", "audit", Value::Null),
    ];
    are_refused(&gw, &calls).await;
    assert_eq!(names(&gw.read("pools").await), ["p"]);
    assert_eq!(
        gw.key_stats("p", "p-1").await["state"],
        "active",
        "nothing is half done"
    );
    server.restart().await.unwrap();
    gw.store_is_degraded(false).await;
    poll("changes are made again", async || {
        gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await
            .status
            == 201
    })
    .await;
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(3) }))
            .await,
        201,
    );
    assert_eq!(gw.chat_with("own-x").await.status, 200);
    let created = gw
        .api("POST", "virtual-keys", json!({ "name": "team" }))
        .await;
    let secret = ok(&created, 201)["key"].as_str().unwrap().to_owned();
    assert_eq!(total(&gw).await[0], 2, "what was served before is counted");

    // A virtual key is required even while the store cannot tell whether there is one.
    gw.stop().await;
    server.kill().unwrap();
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    for reply in [gw.chat().await, gw.chat_as(&secret).await] {
        assert_eq!(reply.status, 401, "{reply:?}");
    }
    server.restart().await.unwrap();
    poll("the virtual key is known", async || {
        gw.chat_as(&secret).await.status == 200
    })
    .await;
    assert_eq!(gw.chat().await.status, 401);
    gw.stop().await;
}

/// Sends chats one after the other until `over`, and counts them.
async fn load(gw: Arc<Gateway>, over: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    while !over.load(Ordering::Relaxed) {
        let reply = gw.chat().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        sent.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_outage_under_load_fails_no_request_and_loses_no_count() {
    let (mock, mut server) = (
        Mock::start().await.unwrap(),
        PostgresServer::start().await.unwrap(),
    );
    let gw = Arc::new(node(&(pool(&mock, 2) + &postgres_config(&server.url()))).await);
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(3) }))
            .await,
        201,
    );
    let (over, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(load(Arc::clone(&gw), Arc::clone(&over), Arc::clone(&sent)));
    }
    for is_killed in [true, false] {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        match is_killed {
            true => server.kill().unwrap(),
            // It accepts connections, and does not respond.
            false => server.pause().unwrap(),
        }
        gw.store_is_degraded(true).await;
        let calls = [
            ("PUT", "pools/late", stored_pool(&mock, "late-*")),
            ("POST", "pools/p/refresh-quota", Value::Null),
            ("GET", "usage", Value::Null),
        ];
        are_refused(&gw, &calls).await;
        match is_killed {
            true => server.restart().await.unwrap(),
            false => server.resume().unwrap(),
        }
        gw.store_is_degraded(false).await;
    }
    // Its sessions are cut while a batch may be in flight.
    for _ in 0..20 {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'keypool'";
        server.execute(cut).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no request failed");
    }
    let sent = sent.load(Ordering::Relaxed);
    poll("all is counted", async || {
        let reply = gw.api("GET", "usage", Value::Null).await;
        reply.status == 200 && reply.json()["items"][0]["requests"] == sent
    })
    .await;
    let gw = Arc::into_inner(gw).unwrap().restarted().await;
    assert_eq!(total(&gw).await[..3], [sent, sent, 0]);
    let stats = gw.stats().await["p"].clone();
    let counted = stats.as_object().unwrap().values();
    let counted = counted.map(|key| key["total_requests"].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), sent, "{stats}");
    let keys = gw.read("pools/p/keys").await;
    assert_eq!(names(&keys), ["p-1", "p-2", "p-3"]);
    for key in keys["items"].as_array().unwrap() {
        assert!(
            key["remaining_quota"].is_null(),
            "no quota could be stored: {key}"
        );
    }
    gw.stop().await;
}

/// Its client leaves while the change waits for a lock of another session.
#[tokio::test]
async fn a_change_is_made_whole_although_its_client_leaves() {
    let (mock, server) = (
        Mock::start().await.unwrap(),
        Arc::new(PostgresServer::start().await.unwrap()),
    );
    let gw = Arc::new(node(&(pool(&mock, 1) + &postgres_config(&server.url()))).await);
    let session = Arc::clone(&server);
    let mut locked = JoinSet::new();
    locked.spawn(async move {
        let lock = "LOCK TABLE keys IN EXCLUSIVE MODE; SELECT pg_sleep(60)";
        session.execute(lock).await
    });
    let count = async |sql: &str| server.execute(sql).await.unwrap().trim().parse::<u32>();
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'keys'::regclass AND granted AND mode = 'ExclusiveLock'";
    poll("the lock is taken", async || count(held).await == Ok(1)).await;
    let calling = Arc::clone(&gw);
    let mut call = JoinSet::new();
    call.spawn(async move {
        let key = json!({ "name": "left alone", "key": key(2) });
        calling.api("POST", "pools/p/keys", key).await
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    poll("the change waits", async || count(waiting).await == Ok(1)).await;
    assert!(call.try_join_next().is_none(), "no response yet");
    call.shutdown().await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%'";
    assert_eq!(count(end).await, Ok(1));
    locked.join_next().await.unwrap().unwrap().unwrap_err();
    poll("the change is made", async || {
        names(&gw.read("pools/p/keys").await) == ["left alone", "p-1"]
    })
    .await;
    let audit = gw.read("audit").await;
    assert_eq!(audit["items"][0]["target"], "pools/p/keys/left alone");
    assert_eq!(gw.chat().await.status, 200);
    Arc::into_inner(gw).unwrap().stop().await;
}

/// A key of 90 days should be replaced. The database says when a declared key was first seen.
#[tokio::test]
async fn an_old_key_is_flagged_for_rotation() {
    let (mock, server) = (
        Mock::start().await.unwrap(),
        PostgresServer::start().await.unwrap(),
    );
    let gw = node(&(pool(&mock, 1) + &postgres_config(&server.url()))).await;
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    assert_eq!(gw.chat().await.status, 200);
    assert_eq!(gw.chat().await.status, 200);
    let folder = Arc::clone(gw.folder());
    gw.stop().await;
    let days = |days: u64| days * 86_400_000;
    let age = format!(
        "UPDATE key_states SET first_seen = first_seen - {}; UPDATE keys SET secret_set_at = secret_set_at - {}",
        days(90),
        days(89)
    );
    server.execute(&age).await.unwrap();
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    let old = gw.read("pools/p/keys/p-1").await;
    assert_eq!(
        (&old["age_days"], &old["rotation_due"]),
        (&json!(90), &json!(true))
    );
    let younger = gw.read("pools/p/keys/p-2").await;
    assert_eq!(
        (&younger["age_days"], &younger["rotation_due"]),
        (&json!(89), &json!(false))
    );
    let stats = gw.stats().await["p"].clone();
    assert_eq!(
        (&stats["p-1"]["rotation_due"], &stats["p-2"]["rotation_due"]),
        (&json!(true), &json!(false))
    );
    ok(
        &gw.api("PATCH", "pools/p/keys/p-2", json!({ "key": key(3) }))
            .await,
        200,
    );
    assert_eq!(
        gw.read("pools/p/keys/p-2").await["age_days"],
        0,
        "a new secret is young"
    );
    gw.stop().await;
}

/// A limit on the size of files stands for the end of the disk.
#[tokio::test]
async fn a_full_disk_refuses_changes_and_serves_on() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new(&pool(&mock, 1));
    let gw = Gateway::start_in(&folder).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    let token = gw.token.clone();
    gw.stop().await;
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let process = Process::start_after(&folder, "trap '' XFSZ; ulimit -f 400", &args);
    let gw = Gateway {
        token,
        ..Gateway::of(process).await
    };
    let text = [("content-type", "text/plain")];
    let body: String = (0..4_000).map(|n| format!("{}\n", key(n))).collect();
    let reply = gw
        .api_raw("POST", "pools/own/keys/import", &text, body.as_bytes())
        .await;
    problem(&reply, 503, "store_not_writable");
    assert_eq!(
        gw.read("pools/own").await["keys"]["total"],
        0,
        "nothing is half done"
    );
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
    let gw = Gateway::start_in(&folder).await;
    assert_eq!(gw.read("pools/own").await["keys"]["total"], 0);
    let report = ok(
        &gw.api_raw("POST", "pools/own/keys/import", &text, body.as_bytes())
            .await,
        200,
    );
    assert_eq!(report["added"], 4_000);
    gw.stop().await;
}
