//! Changes through the admin API while requests are served, and wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Gateway, PoolConfig, key};
use crate::store_kit::{ok, stored_pool};

/// All that the API can change of a pool and its keys, again and again, for this long.
async fn change_everything(gw: &Gateway, mock: &Mock, time: Duration) -> usize {
    let (end, mut changes) = (Instant::now() + time, 0);
    let text = [("content-type", "text/plain")];
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        let name = format!("pools/p/keys/extra-{round}");
        let extra = json!({ "key": key(1000 + round), "name": format!("extra-{round}") });
        let import: String = (0..50)
            .map(|n| format!("{}\n", key(10_000 + 50 * round + n)))
            .collect();
        ok(&gw.api("POST", "pools/p/keys", extra).await, 201);
        ok(
            &gw.api("PATCH", &name, json!({ "key": key(2000 + round) }))
                .await,
            200,
        );
        ok(
            &gw.api("POST", &format!("{name}/disable"), Value::Null)
                .await,
            200,
        );
        ok(
            &gw.api("POST", &format!("{name}/enable"), Value::Null).await,
            200,
        );
        ok(&gw.api("DELETE", &name, Value::Null).await, 204);
        ok(
            &gw.api("PUT", "pools/other", stored_pool(mock, "other-*"))
                .await,
            201,
        );
        ok(
            &gw.api_raw("POST", "pools/other/keys/import", &text, import.as_bytes())
                .await,
            200,
        );
        ok(
            &gw.api("POST", "pools/p/refresh-quota", Value::Null).await,
            200,
        );
        ok(&gw.api("DELETE", "pools/other", Value::Null).await, 204);
        changes += 9;
    }
    changes
}

/// More clients than the keys take at once, so that there is always a queue.
#[tokio::test]
async fn changes_under_load_fail_no_request_and_lose_no_queue() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "*",
        Behaviour {
            latency: Duration::from_millis(10),
            record: false,
            ..Behaviour::default()
        },
    );
    let config = PoolConfig::new(&mock, "p", 1..=4).set("max_concurrent_per_key", 2);
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let (gw, over) = (Arc::clone(&gw), Arc::clone(&over));
        clients.spawn(async move {
            let (mut served, mut waited) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let reply = gw.chat().await;
                assert_eq!(reply.status, 200, "{reply:?}");
                served += 1;
                let queued = reply.header("x-keypool-queue-ms");
                waited += u64::from(queued.is_some_and(|ms| ms != "0"));
            }
            (served, waited)
        });
    }
    let changes = change_everything(&gw, &mock, Duration::from_secs(3)).await;
    over.store(true, Ordering::Relaxed);
    let (mut served, mut waited) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (by_one, that_waited): (u64, u64) = client.expect("no request failed");
        served += by_one;
        waited += that_waited;
    }
    println!("{changes} changes during {served} requests, of which {waited} waited");
    assert!(
        changes >= 9 && served >= 100 && waited >= 10,
        "{changes} {served} {waited}"
    );
    let stats = gw.stats().await["p"].clone();
    let names: Vec<&String> = stats.as_object().unwrap().keys().collect();
    assert_eq!(names, ["p-1", "p-2", "p-3", "p-4"]);
    gw.all_idle().await;
    Arc::into_inner(gw).unwrap().stop().await;
}
