//! Keys that the admin API manages, and what it does to declared ones.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};

use crate::harness::{CHAT_PATH, Gateway, MARK, STREAM, eventually, key, within};
use crate::http::{Connection, End};
use crate::store_kit::{JSON, chosen_secret, etag, names, ok, pool, problem, stored_pool};

#[tokio::test]
async fn a_key_is_added_with_what_is_left_out_by_default() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let secret = format!("sk-{MARK}-long-enough-ab12");
    let added = gw
        .api("POST", "pools/p/keys", json!({ "key": secret }))
        .await;
    let view = ok(&added, 201);
    let fields = [
        "name",
        "key",
        "source",
        "weight",
        "state",
        "total_requests",
        "last_used",
    ];
    let shown = fields.map(|field| view[field].clone());
    let expected = [
        json!("p-2"),
        json!("sk-…ab12"),
        json!("store"),
        json!(1),
        json!("active"),
    ];
    assert_eq!(
        (&shown[..5], &shown[5..]),
        (&expected[..], &[json!(0), Value::Null][..])
    );
    let location = added.header("location").unwrap();
    let path = location.strip_prefix("/api/v1/admin/").unwrap();
    assert_eq!(ok(&gw.api("GET", path, Value::Null).await, 200), view);
    gw.stop().await;
}

#[tokio::test]
async fn a_key_is_changed_listed_and_deleted() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let second = json!({ "key": key(2) });
    ok(&gw.api("POST", "pools/p/keys", second).await, 201);
    let named = json!({ "key": key(3), "name": "主 key/3", "weight": 2, "rpm": 60, "model": "m" });
    let added = gw.api("POST", "pools/p/keys", named).await;
    let path = added
        .header("location")
        .unwrap()
        .replace("/api/v1/admin/", "");
    let view = ok(&added, 201);
    assert_eq!(
        (&view["name"], &view["rpm"]),
        (&json!("主 key/3"), &json!(60))
    );
    let patch = json!({ "weight": 5, "rpm": null, "input_tpm": 1000 });
    let patched = gw.api("PATCH", &path, patch).await;
    let view = ok(&patched, 200);
    assert_ne!(etag(&added), etag(&patched));
    assert_eq!(
        (
            &view["weight"],
            &view["input_tpm"],
            &view["rpm"],
            &view["model"]
        ),
        (&json!(5), &json!(1000), &Value::Null, &json!("m"))
    );
    assert_eq!(
        names(&gw.read("pools/p/keys").await),
        ["p-1", "p-2", "主 key/3"]
    );
    let page = gw.read("pools/p/keys?limit=2").await;
    assert_eq!(
        (names(&page), &page["next"]),
        (vec!["p-1", "p-2"], &json!("p-2"))
    );
    for path in [path, "pools/p/keys/p-2".to_owned()] {
        ok(&gw.api("DELETE", &path, Value::Null).await, 204);
        problem(&gw.api("GET", &path, Value::Null).await, 404, "not_found");
        problem(
            &gw.api("DELETE", &path, Value::Null).await,
            404,
            "not_found",
        );
    }
    for _ in 0..3 {
        assert_eq!(gw.chat().await.key(), "p-1");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_key_that_is_switched_off_stays_so_with_a_new_secret() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let second = json!({ "key": key(2), "name": "two" });
    ok(&gw.api("POST", "pools/p/keys", second).await, 201);
    let off = gw
        .api("POST", "pools/p/keys/two/disable", Value::Null)
        .await;
    ok(&off, 200);
    let new_secret = json!({ "key": key(3) });
    let changed = gw.api("PATCH", "pools/p/keys/two", new_secret).await;
    assert_eq!(ok(&changed, 200)["state"], "disabled");
    let gw = gw.restarted().await;
    assert_eq!(gw.key_stats("p", "two").await["state"], "disabled");
    for _ in 0..3 {
        assert_eq!(gw.chat().await.key(), "p-1");
    }
    let on = gw.api("POST", "pools/p/keys/two/enable", Value::Null).await;
    assert_eq!(ok(&on, 200)["state"], "active");
    gw.stop().await;
}

#[tokio::test]
async fn a_declared_key_is_switched_and_checked_but_not_edited() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for (method, body) in [("PATCH", json!({ "weight": 2 })), ("DELETE", Value::Null)] {
        let reply = gw.api(method, "pools/p/keys/p-1", body).await;
        let detail = problem(&reply, 409, "declared");
        assert!(detail.contains("keypool.toml"), "{detail}");
    }
    let act = async |gw: &Gateway, action: &str| {
        let path = format!("pools/p/keys/p-1/{action}");
        ok(&gw.api("POST", &path, Value::Null).await, 200)
    };
    assert_eq!(act(&gw, "disable").await["state"], "disabled");
    let served = async |gw: &Gateway| {
        mock.clear();
        for _ in 0..4 {
            assert_eq!(gw.chat().await.status, 200);
        }
        [1, 2].map(|n| mock.seen(&key(n)).requests)
    };
    assert_eq!(served(&gw).await, [0, 4]);
    let gw = gw.restarted().await;
    assert_eq!(gw.key_stats("p", "p-1").await["state"], "disabled");
    assert_eq!(served(&gw).await, [0, 4]);
    assert_eq!(act(&gw, "enable").await["state"], "active");
    assert_eq!(served(&gw).await, [2, 2]);

    mock.script(&key(1), [Step::refuse(401)]);
    let checked = act(&gw, "check").await;
    assert_eq!(
        (&checked["works"], &checked["error"], &checked["state"]),
        (&json!(false), &json!("rejected"), &json!("invalid"))
    );
    assert_eq!(served(&gw).await, [0, 4]);
    let checked = act(&gw, "check").await;
    assert_eq!(
        (&checked["works"], &checked["state"]),
        (&json!(true), &json!("active"))
    );
    mock.script(&key(1), [Step::refuse(503)]);
    let checked = act(&gw, "check").await;
    assert_eq!(
        (&checked["works"], &checked["state"]),
        (&Value::Null, &json!("active"))
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_reset_is_not_repeated_when_something_else_changes() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    gw.reset("p", "p-1").await;
    mock.script(&key(1), [Step::rate_limited(60)]);
    for _ in 0..2 {
        assert_eq!(gw.chat().await.key(), "p-2");
    }
    let cooling = gw.key_stats("p", "p-1").await["cooldowns"].clone();
    assert_eq!(cooling[0]["class"], "rate_limited");
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(3) }))
            .await,
        201,
    );
    let after = gw.key_stats("p", "p-1").await["cooldowns"].clone();
    assert_eq!(after[0]["class"], "rate_limited", "{after}");
    gw.stop().await;
}

/// The old secret ends its stream, the new one serves from then on, and no request fails.
#[tokio::test]
async fn a_rotated_secret_breaks_no_call() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start("").await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "*")).await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(1) }))
            .await,
        201,
    );
    mock.behave(
        &key(1),
        Behaviour {
            chunk_interval: Duration::from_millis(60),
            chunks: 10,
            ..Behaviour::default()
        },
    );
    let mut connection = Connection::open(gw.addr).await;
    connection
        .request("POST", CHAT_PATH, &[JSON], STREAM.as_bytes())
        .await;
    let mut stream = within(connection.answer()).await.unwrap();
    assert!(matches!(within(stream.next()).await, Ok(Some(_))));
    let before = gw.read("pools/own/keys/own-1").await;
    let rotated = gw
        .api("PATCH", "pools/own/keys/own-1", json!({ "key": key(2) }))
        .await;
    let after = ok(&rotated, 200);
    assert_eq!(mock.seen(&key(1)).active, 1, "the stream goes on");
    assert_eq!(before["created_at"], after["created_at"]);
    for _ in 0..5 {
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.key()), (200, "own-1"));
    }
    let rest = within(stream.whole()).await;
    assert_eq!(rest.end, End::Proper);
    assert!(rest.text().contains("[DONE]"), "{rest:?}");
    assert_eq!(
        (mock.seen(&key(1)).requests, mock.seen(&key(2)).requests),
        (1, 5)
    );
    assert_eq!(gw.read("pools/own/keys/own-1").await["total_requests"], 5);
    gw.stop().await;
}

#[tokio::test]
async fn a_secret_goes_nowhere_else_without_being_set_again() {
    let (mock, other) = (Mock::start().await.unwrap(), Mock::start().await.unwrap());
    let gw = Gateway::start(&pool(&mock, 1)).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    let own = "pools/own/keys/own-1";
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    let proxy = format!("http://{}", other.addr());
    for change in [
        json!({ "base_url": other.origin() }),
        json!({ "proxy": proxy }),
    ] {
        let reply = gw.api("PATCH", own, change.clone()).await;
        problem(&reply, 409, "secret_required");
        let mut pool = stored_pool(&mock, "own-*");
        pool.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let detail = problem(
            &gw.api("PUT", "pools/own", pool).await,
            409,
            "secret_required",
        );
        assert!(detail.contains("own-1"), "{detail}");
    }
    // Another path on the same host is no other place.
    let path = json!({ "base_url": format!("{}/v1", mock.origin()) });
    ok(&gw.api("PATCH", own, path).await, 200);
    assert_eq!(gw.chat_with("own-x").await.status, 200);
    assert!(other.seen_all().is_empty(), "{:?}", other.seen_all());
    let with_secret = json!({ "base_url": other.origin(), "key": key(2) });
    ok(&gw.api("PATCH", own, with_secret).await, 200);
    assert_eq!(gw.chat_with("own-x").await.status, 200);
    assert_eq!(other.seen(&key(2)).requests, 1);
    problem(
        &gw.api("PATCH", own, json!({ "base_url": null })).await,
        409,
        "secret_required",
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_moved_declared_pool_takes_its_stored_keys_out_of_force() {
    let (mock, other) = (Mock::start().await.unwrap(), Mock::start().await.unwrap());
    let gw = Gateway::start(&pool(&mock, 1)).await;
    ok(
        &gw.api("POST", "pools/p/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    gw.folder().write("keypool.toml", &pool(&other, 1));
    eventually("the file is read", || {
        gw.log().contains("configuration reloaded")
    })
    .await;
    let view = gw.read("pools/p/keys/p-2").await;
    assert_eq!(
        (&view["inactive"], &view["state"]),
        (&json!("secret_required"), &json!("inactive"))
    );
    assert_eq!(names(&gw.read("pools/p/keys").await), ["p-1", "p-2"]);
    gw.logged("set the secret again").await;
    for _ in 0..3 {
        assert_eq!(gw.chat().await.key(), "p-1");
    }
    assert_eq!(other.seen(&key(2)).requests, 0);
    problem(
        &gw.api("PATCH", "pools/p/keys/p-2", json!({ "weight": 2 }))
            .await,
        409,
        "secret_required",
    );
    let view = ok(
        &gw.api("PATCH", "pools/p/keys/p-2", json!({ "key": key(2) }))
            .await,
        200,
    );
    assert_eq!(
        (&view["inactive"], &view["state"]),
        (&Value::Null, &json!("active"))
    );
    for _ in 0..4 {
        assert_eq!(gw.chat().await.status, 200);
    }
    assert_eq!(other.seen(&key(2)).requests, 2);
    gw.stop().await;
}

#[tokio::test]
async fn a_change_can_depend_on_the_version_that_was_read() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start("").await;
    let fields = stored_pool(&mock, "*");
    let only_new = [("if-none-match", "*")];
    let first = gw
        .api_if("PUT", "pools/own", &only_new, fields.clone())
        .await;
    ok(&first, 201);
    let again = gw
        .api_if("PUT", "pools/own", &only_new, fields.clone())
        .await;
    problem(&again, 412, "version_mismatch");
    let missing = gw
        .api_if("PUT", "pools/other", &[("if-match", "*")], fields.clone())
        .await;
    problem(&missing, 412, "version_mismatch");
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(1) }))
            .await,
        201,
    );
    let virtual_key = json!({ "name": "team", "key": chosen_secret("team") });
    ok(&gw.api("POST", "virtual-keys", virtual_key).await, 201);
    for (path, method, body) in [
        ("pools/own", "PUT", fields),
        ("pools/own/keys/own-1", "PATCH", json!({ "weight": 3 })),
        ("virtual-keys/team", "PATCH", json!({ "rpm": 7 })),
    ] {
        let tag = etag(&gw.api("GET", path, Value::Null).await);
        let bare = tag.trim_matches('"').to_owned();
        let weak = format!("W/{tag}");
        for wrong in ["\"0\"", "\"x\"", "", "x", &bare, &weak, "\"\"", "\"ü\""] {
            for (method, body) in [(method, body.clone()), ("DELETE", Value::Null)] {
                let reply = gw.api_if(method, path, &[("if-match", wrong)], body).await;
                problem(&reply, 412, "version_mismatch");
            }
        }
        let both = format!("\"0\", {tag}");
        let changed = gw
            .api_if(method, path, &[("if-match", &both)], body.clone())
            .await;
        ok(&changed, 200);
        let stale = gw
            .api_if(method, path, &[("if-match", &tag)], body.clone())
            .await;
        problem(&stale, 412, "version_mismatch");
        ok(
            &gw.api_if(method, path, &[("if-match", "*")], body).await,
            200,
        );
    }
    for path in ["pools/own/keys/own-1", "virtual-keys/team", "pools/own"] {
        let tag = etag(&gw.api("GET", path, Value::Null).await);
        ok(
            &gw.api_if("DELETE", path, &[("if-match", &tag)], Value::Null)
                .await,
            204,
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_audit_log_has_each_change_and_no_secret() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start("").await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "*")).await,
        201,
    );
    ok(
        &gw.api(
            "POST",
            "pools/own/keys",
            json!({ "key": key(1), "weight": 2 }),
        )
        .await,
        201,
    );
    ok(
        &gw.api("PATCH", "pools/own/keys/own-1", json!({ "key": key(2) }))
            .await,
        200,
    );
    ok(
        &gw.api("POST", "pools/own/keys/own-1/disable", Value::Null)
            .await,
        200,
    );
    ok(&gw.api("DELETE", "pools/own", Value::Null).await, 204);
    let gw = gw.restarted().await;
    let log = gw.read("audit").await;
    let items = log["items"].as_array().unwrap();
    let actions: Vec<&str> = items
        .iter()
        .filter_map(|item| item["action"].as_str())
        .collect();
    let expected = [
        "pool.delete",
        "key.disable",
        "key.update",
        "key.create",
        "pool.create",
    ];
    assert_eq!(actions, expected);
    for item in items {
        assert_eq!(
            (&item["actor"], &item["source"]),
            (&json!("admin"), &json!("127.0.0.1"))
        );
    }
    assert_eq!(items[3]["target"], "pools/own/keys/own-1");
    assert_eq!(items[3]["details"]["settings"]["weight"], 2);
    assert_eq!(items[2]["details"]["changed"], json!(["key"]));
    let first = gw.read("audit?limit=2").await;
    let next = first["next"].as_str().unwrap();
    let second = gw.read(&format!("audit?limit=3&cursor={next}")).await;
    assert_eq!(second["items"].as_array().unwrap(), &items[2..]);
    problem(
        &gw.api("GET", "audit?cursor=x", Value::Null).await,
        400,
        "invalid_query",
    );
    gw.stop().await;
}
