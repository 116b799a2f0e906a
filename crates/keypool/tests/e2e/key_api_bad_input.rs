//! Keys that cannot be added or changed: what is wrong is named, and nothing is stored.

use keypool_testkit::Mock;
use serde_json::{Value, json};

use crate::harness::{Gateway, MARK, PoolConfig, key};
use crate::store_kit::{names, ok, problem};

#[tokio::test]
async fn mistakes_in_a_key_are_named_and_nothing_is_stored() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(
        &PoolConfig::new(&mock, "p", [])
            .key(1, "name = \"p-1\"")
            .to_string(),
    )
    .await;
    let add = async |body: Value| gw.api("POST", "pools/p/keys", body).await;
    ok(&add(json!({ "key": key(2), "name": "two" })).await, 201);
    for (body, code) in [
        (json!({ "key": key(3), "name": "two" }), "name_taken"),
        (json!({ "key": key(3), "name": "p-1" }), "name_taken"),
        (json!({ "key": key(2) }), "duplicate_key"),
        (json!({ "key": format!(" {}\n", key(2)) }), "duplicate_key"),
        (json!({ "key": key(1), "name": "one" }), "duplicate_key"),
    ] {
        problem(&add(body).await, 409, code);
    }
    for (body, says) in [
        (json!({}), "`key` is missing"),
        (json!({ "key": null }), "`key` is missing"),
        (json!({ "key": "" }), "`key`"),
        (json!({ "key": "  \n" }), "`key`"),
        (json!({ "key": format!("{MARK} x") }), "`key`"),
        (json!({ "key": format!("{MARK}\nx") }), "`key`"),
        (json!({ "key": format!("{MARK}\r\nx: y") }), "`key`"),
        (json!({ "key": format!("{MARK}-ключ") }), "`key`"),
        (json!({ "key": format!("[{MARK}]") }), "`key`"),
        (
            json!({ "key": MARK.repeat(1_000_000 / MARK.len()) }),
            "`key`",
        ),
        (json!({ "key": 7 }), "key"),
        (json!({ "key": [MARK] }), "key"),
        (
            json!({ "key": key(3), "nmae": "x" }),
            "did you mean `name`?",
        ),
        (
            json!({ "key": key(3), format!("sk-{MARK}-0123456789abcdef"): "x" }),
            "not known",
        ),
        (json!({ "key": key(3), "name": "" }), "`name`"),
        (json!({ "key": key(3), "name": "a\nb" }), "`name`"),
        (json!({ "key": key(3), "name": "import" }), "`name`"),
        (json!({ "key": key(3), "name": "." }), "`name`"),
        (json!({ "key": key(3), "name": ".." }), "`name`"),
        (json!({ "key": key(3), "name": "x".repeat(129) }), "`name`"),
        (json!({ "key": key(3), "weight": 0 }), "`weight`"),
        (json!({ "key": key(3), "weight": 101 }), "`weight`"),
        (json!({ "key": key(3), "weight": "2" }), "u32"),
        (
            json!({ "key": key(3), "weight": format!("sk-{MARK}-0123456789abcdef") }),
            "`weight`",
        ),
        (json!({ "key": key(3), "rpm": 0 }), "`rpm`"),
        (
            json!({ "key": key(3), "base_url": "nowhere" }),
            "`base_url`",
        ),
        (json!({ "key": key(3), "group": " " }), "`group`"),
    ] {
        let detail = problem(&add(body).await, 422, "invalid_settings");
        assert!(detail.contains(says), "{says}: {detail}");
    }
    let large = add(json!({ "key": MARK.repeat(1 << 19) })).await;
    problem(&large, 413, "body_too_large");
    for (path, method, body) in [
        ("pools/nope/keys", "POST", json!({ "key": key(3) })),
        ("pools/nope/keys", "GET", Value::Null),
        ("pools/nope/keys/x", "GET", Value::Null),
        ("pools/nope/keys/x", "PATCH", json!({})),
        ("pools/nope/keys/x", "DELETE", Value::Null),
        ("pools/nope/keys/x/reset", "POST", Value::Null),
        ("pools/p/keys/x", "PATCH", json!({})),
        ("pools/p/keys/x/check", "POST", Value::Null),
    ] {
        problem(&gw.api(method, path, body).await, 404, "not_found");
    }
    for (body, says) in [
        (json!({ "name": "other" }), "`name` cannot be changed"),
        (json!({ "key": "a b" }), "`key`"),
        (json!({ "weight": 0 }), "`weight`"),
        (json!({ "wieght": 2 }), "did you mean `weight`?"),
    ] {
        let reply = gw.api("PATCH", "pools/p/keys/two", body).await;
        let detail = problem(&reply, 422, "invalid_settings");
        assert!(detail.contains(says), "{says}: {detail}");
    }
    let taken = gw
        .api("PATCH", "pools/p/keys/two", json!({ "key": key(1) }))
        .await;
    problem(&taken, 409, "duplicate_key");
    assert_eq!(names(&gw.read("pools/p/keys").await), ["p-1", "two"]);
    let audit = gw.read("audit").await;
    assert_eq!(audit["items"].as_array().unwrap().len(), 1, "{audit}");
    gw.stop().await;
}
