//! Two gateways on one PostgreSQL database: what is changed on one takes effect on the other within 2 s.

use std::time::Duration;

use keypool_testkit::{Mock, Quota, Step};
use serde_json::{Value, json};

use crate::harness::{Gateway, key};
use crate::store_kit::{Database, JSON, node, ok, poll, pool, problem, stored_pool};
use crate::usage::total;

/// More than the promised 2 s: the machine may be busy.
const TAKES_EFFECT_WITHIN: Duration = Duration::from_secs(5);

struct Nodes {
    mock: Mock,
    one: Gateway,
    other: Gateway,
    _database: Database,
}

async fn two() -> Nodes {
    let (mock, database) = (Mock::start().await.expect("a mock"), Database::new().await);
    let config = pool(&mock, 2) + &database.config();
    let (one, other) = tokio::join!(node(&config), node(&config));
    Nodes {
        mock,
        one,
        other,
        _database: database,
    }
}

impl Nodes {
    /// Waits until the other node follows a change.
    async fn other_has(&self, what: &str, reached: impl AsyncFnMut() -> bool) {
        let took = poll(what, reached).await;
        println!("{what}: the other node follows after {took:?}");
        assert!(took < TAKES_EFFECT_WITHIN, "{what}: {took:?}");
    }

    async fn stop(self) {
        self.one.stop().await;
        self.other.stop().await;
    }
}

#[tokio::test]
async fn pools_and_keys_that_one_node_changes_change_on_the_other() {
    let nodes = two().await;
    let Nodes {
        mock, one, other, ..
    } = &nodes;
    ok(
        &one.api("PUT", "pools/own", stored_pool(mock, "own-*"))
            .await,
        201,
    );
    ok(
        &one.api("POST", "pools/own/keys", json!({ "key": key(3) }))
            .await,
        201,
    );
    nodes
        .other_has("a pool with a key", async || {
            other.chat_with("own-x").await.key() == "own-1"
        })
        .await;
    ok(
        &one.api("PATCH", "pools/own/keys/own-1", json!({ "key": key(4) }))
            .await,
        200,
    );
    nodes
        .other_has("a new secret", async || {
            assert_eq!(other.chat_with("own-x").await.status, 200);
            mock.seen(&key(4)).requests > 0
        })
        .await;
    ok(&other.api("DELETE", "pools/own", Value::Null).await, 204);
    nodes
        .other_has("a pool is gone", async || {
            one.api("GET", "pools/own", Value::Null).await.status == 404
        })
        .await;
    let text = [("content-type", "text/plain")];
    let import = format!("{}\n{}\n", key(5), key(6));
    ok(
        &one.api_raw("POST", "pools/p/keys/import", &text, import.as_bytes())
            .await,
        200,
    );
    nodes
        .other_has("an import", async || {
            other.read("pools/p").await["keys"]["total"] == 4
        })
        .await;
    nodes.stop().await;
}

#[tokio::test]
async fn states_that_one_node_sets_are_set_on_the_other() {
    let nodes = two().await;
    let Nodes {
        mock, one, other, ..
    } = &nodes;
    let state = async |gw: &Gateway| gw.key_stats("p", "p-1").await["state"].clone();
    let act = async |action: &str| {
        ok(
            &one.api("POST", &format!("pools/p/keys/p-1/{action}"), Value::Null)
                .await,
            200,
        )
    };
    // Both know the keys before anything is changed.
    for gw in [one, other] {
        for _ in 0..2 {
            assert_eq!(gw.chat().await.status, 200);
        }
        total(gw).await;
    }
    act("disable").await;
    nodes
        .other_has("a key is switched off", async || {
            state(other).await == "disabled"
        })
        .await;
    act("enable").await;
    nodes
        .other_has("a key is switched on", async || {
            state(other).await == "active"
        })
        .await;

    // The other node finds out that the key is invalid, and the operator resets it on this one.
    mock.script(&key(1), [Step::refuse(401)]);
    poll("the key is used", async || {
        assert_eq!(other.chat().await.status, 200);
        state(other).await == "invalid"
    })
    .await;
    act("reset").await;
    nodes
        .other_has("a reset", async || state(other).await == "active")
        .await;

    mock.script(&key(1), [Step::rate_limited(600)]);
    poll("the key is used", async || {
        assert_eq!(other.chat().await.status, 200);
        state(other).await == "cooling"
    })
    .await;
    act("reset").await;
    nodes
        .other_has("a reset of a cooldown", async || {
            state(other).await == "active"
        })
        .await;

    mock.script(&key(1), [Step::refuse(401)]);
    act("check").await;
    nodes
        .other_has("a check that failed", async || {
            state(other).await == "invalid"
        })
        .await;
    act("check").await;
    nodes
        .other_has("a check that passed", async || {
            state(other).await == "active"
        })
        .await;

    for gw in [one, other] {
        mock.script(&key(1), [Step::refuse(402)]);
        poll("the key is used", async || {
            assert_eq!(gw.chat().await.status, 200);
            state(gw).await == "exhausted"
        })
        .await;
    }
    mock.set_quota(
        &key(1),
        Quota {
            remaining: Some(77.0),
            limit: Some(100.0),
        },
    );
    ok(
        &one.api("POST", "pools/p/refresh-quota", Value::Null).await,
        200,
    );
    assert_eq!(state(one).await, "active");
    nodes
        .other_has("a quota", async || {
            let view = other.read("pools/p/keys/p-1").await;
            view["remaining_quota"] == 77.0 && view["state"] == "active"
        })
        .await;
    nodes.stop().await;
}

#[tokio::test]
async fn callers_and_their_objects_are_known_to_both_nodes() {
    let nodes = two().await;
    let Nodes { one, other, .. } = &nodes;
    assert_eq!(
        other.chat().await.status,
        200,
        "no virtual key is required yet"
    );
    let mut secrets = Vec::new();
    for name in ["owner", "foreign"] {
        let created = one
            .api("POST", "virtual-keys", json!({ "name": name }))
            .await;
        secrets.push(ok(&created, 201)["key"].as_str().unwrap().to_owned());
    }
    nodes
        .other_has("a virtual key", async || {
            other.chat().await.status == 401 && other.chat_as(&secrets[1]).await.status == 200
        })
        .await;
    let rotated = other
        .api(
            "POST",
            "virtual-keys/owner/rotate",
            json!({ "grace": "0s" }),
        )
        .await;
    let new = ok(&rotated, 200)["key"].as_str().unwrap().to_owned();
    nodes
        .other_has("a rotation", async || one.chat_as(&new).await.status == 200)
        .await;
    assert_eq!(one.chat_as(&secrets[0]).await.status, 401);

    let call = async |gw: &Gateway, secret: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {secret}");
        gw.send(
            method,
            path,
            &[JSON, ("authorization", &bearer)],
            body.as_bytes(),
        )
        .await
    };
    let body = r#"{"model":"gpt-x","input":"hello"}"#;
    for _ in 0..3 {
        let made = call(one, &new, "POST", "/v1/responses", body).await;
        let path = format!("/v1/responses/{}", made.json()["id"].as_str().unwrap());
        nodes
            .other_has("an object", async || {
                let found = call(other, &new, "GET", &path, "").await;
                found.status == 200 && found.key() == made.key()
            })
            .await;
        let foreign = call(other, &secrets[1], "GET", &path, "").await;
        assert_eq!(
            (foreign.status, foreign.attempts()),
            (404, ""),
            "{foreign:?}"
        );
    }
    ok(
        &one.api("DELETE", "virtual-keys/owner", Value::Null).await,
        204,
    );
    nodes
        .other_has("a virtual key is gone", async || {
            other.chat_as(&new).await.status == 401
        })
        .await;
    nodes.stop().await;
}

#[tokio::test]
async fn what_both_nodes_count_is_added_up() {
    let nodes = two().await;
    let Nodes { one, other, .. } = &nodes;
    for _ in 0..6 {
        assert_eq!(one.chat().await.status, 200);
        assert_eq!(other.chat().await.status, 200);
    }
    poll("both are counted", async || {
        let (of_one, of_other) = (total(one).await, total(other).await);
        of_one == of_other && of_one[0] == 12
    })
    .await;
    let Nodes {
        mock: _mock,
        one,
        other,
        _database,
    } = nodes;
    one.stop().await;
    let other = other.restarted().await;
    let stats = other.stats().await["p"].clone();
    let counted = ["p-1", "p-2"].map(|name| stats[name]["total_requests"].as_u64().unwrap());
    assert_eq!(counted.iter().sum::<u64>(), 12, "{stats}");
    other.stop().await;
}

/// Of two changes that expect the same version, one is made.
#[tokio::test]
async fn two_nodes_do_not_overwrite_each_others_changes() {
    let nodes = two().await;
    let Nodes {
        mock, one, other, ..
    } = &nodes;
    ok(
        &one.api("PUT", "pools/own", stored_pool(mock, "own-*"))
            .await,
        201,
    );
    poll("both know the pool", async || {
        other.api("GET", "pools/own", Value::Null).await.status == 200
    })
    .await;
    for round in 1..=5 {
        let add = |n: usize| json!({ "key": key(n), "name": format!("key {round}") });
        let (a, b) = tokio::join!(
            one.api("POST", "pools/own/keys", add(100 + round)),
            other.api("POST", "pools/own/keys", add(200 + round)),
        );
        let mut statuses = [a.status, b.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{a:?}\n{b:?}");
        let refused = if a.status == 409 { &a } else { &b };
        problem(refused, 409, "name_taken");
    }
    // The same secret is one key, whichever node hears of it first.
    let (a, b) = tokio::join!(
        one.api(
            "POST",
            "pools/own/keys",
            json!({ "key": key(300), "name": "a" })
        ),
        other.api(
            "POST",
            "pools/own/keys",
            json!({ "key": key(300), "name": "b" })
        ),
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{a:?}\n{b:?}");
    poll("both have the same keys", async || {
        let (of_one, of_other) = (
            one.read("pools/own/keys").await,
            other.read("pools/own/keys").await,
        );
        of_one["items"].as_array().unwrap().len() == 6 && of_one == of_other
    })
    .await;
    nodes.stop().await;
}
