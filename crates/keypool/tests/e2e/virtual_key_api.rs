//! Virtual keys that the admin API manages.

use keypool_testkit::Mock;
use serde_json::{Value, json};

use crate::harness::{Gateway, MARK, virtual_key, virtual_secret};
use crate::store_kit::{JSON, chosen_secret, etag, names, ok, poll, pool, problem};

const KEYS: &str = "virtual-keys";

/// A virtual key with a generated secret.
async fn create(gw: &Gateway, body: Value) -> String {
    let created = gw.api("POST", KEYS, body).await;
    let secret = ok(&created, 201)["key"]
        .as_str()
        .expect("a secret")
        .to_owned();
    assert!(
        secret.starts_with("kp-") && secret.len() >= 40,
        "{}",
        secret.len()
    );
    secret
}

#[tokio::test]
async fn a_virtual_key_is_created_and_changed() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    assert_eq!(gw.chat().await.status, 200, "none is required yet");
    let secret = create(
        &gw,
        json!({ "name": "team a", "rpm": 2, "models": ["gpt-*"] }),
    )
    .await;
    assert_eq!(gw.chat().await.status, 401);
    assert_eq!(gw.chat_as(&format!("{secret}x")).await.status, 401);
    assert_eq!(gw.chat_as(&secret).await.status, 200);
    let path = "virtual-keys/team%20a";
    let view = gw.read(path).await;
    assert!(!view.to_string().contains(&secret[3..40]), "{view}");
    let hint = format!("kp-…{}", &secret[secret.len() - 4..]);
    assert_eq!(
        (&view["key"], &view["source"]),
        (&json!(hint), &json!("store"))
    );
    assert_eq!(names(&gw.read(KEYS).await), ["team a"]);

    assert_eq!(gw.chat_as(&secret).await.status, 200);
    assert_eq!(gw.chat_as(&secret).await.code(), "rate_limit_exceeded");
    let patched = gw
        .api("PATCH", path, json!({ "rpm": null, "models": ["other-*"] }))
        .await;
    assert_eq!(ok(&patched, 200)["rpm"], Value::Null);
    let reply = gw.chat_as(&secret).await;
    assert_eq!(reply.status, 403, "{reply:?}");
    ok(&gw.api("PATCH", path, json!({ "models": null })).await, 200);
    assert_eq!(gw.chat_as(&secret).await.status, 200);
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_is_rotated_and_deleted() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let secret = create(&gw, json!({ "name": "team a" })).await;
    let path = "virtual-keys/team%20a";
    let rotated = gw
        .api("POST", &format!("{path}/rotate"), json!({ "grace": "1s" }))
        .await;
    let view = ok(&rotated, 200);
    let new = view["key"].as_str().unwrap().to_owned();
    assert!(view["old_key_accepted_until"].is_string(), "{view}");
    assert_ne!(new, secret);
    for secret in [&secret, &new] {
        assert_eq!(gw.chat_as(secret).await.status, 200, "both are accepted");
    }
    poll("the old one is refused", async || {
        gw.chat_as(&secret).await.status == 401
    })
    .await;
    assert_eq!(gw.read(path).await["old_key_accepted_until"], Value::Null);
    assert_eq!(gw.chat_as(&new).await.status, 200);
    let at_once = gw
        .api("POST", &format!("{path}/rotate"), json!({ "grace": "0s" }))
        .await;
    let newest = ok(&at_once, 200)["key"].as_str().unwrap().to_owned();
    assert_eq!(gw.chat_as(&new).await.status, 401);
    let default = gw.api("POST", &format!("{path}/rotate"), Value::Null).await;
    let view = ok(&default, 200);
    assert!(
        view["old_key_accepted_until"].is_string(),
        "a day by default"
    );
    assert_eq!(gw.chat_as(&newest).await.status, 200);

    let gw = gw.restarted().await;
    let current = view["key"].as_str().unwrap();
    for (secret, status) in [(&*new, 401), (&*newest, 200), (current, 200)] {
        assert_eq!(gw.chat_as(secret).await.status, status);
    }
    ok(&gw.api("DELETE", path, Value::Null).await, 204);
    for secret in [&newest, current] {
        assert_eq!(gw.chat_as(secret).await.code(), "invalid_virtual_key");
    }
    assert_eq!(gw.chat().await.status, 401, "one is required from now on");
    let gw = gw.restarted().await;
    assert_eq!(gw.chat().await.status, 401, "after a restart too");
    let log = gw.read("audit").await.to_string();
    for secret in [&secret, &new, &newest] {
        assert!(!log.contains(&secret[3..40]) && !gw.log().contains(&secret[3..40]));
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_expires_and_can_be_switched_off() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let secret = create(&gw, json!({ "name": "team" })).await;
    for (change, status) in [
        (json!({ "disabled": true }), 401),
        (json!({ "disabled": null }), 200),
        (json!({ "expires": "2020-01-01T00:00:00Z" }), 401),
        (json!({ "expires": "2999-01-01T00:00:00+02:00" }), 200),
        (json!({ "pools": ["other"] }), 403),
        (json!({ "pools": ["p"] }), 200),
        (
            json!({ "max_concurrent": 1, "on_limit": "wait", "limit_wait": "2s" }),
            200,
        ),
    ] {
        ok(
            &gw.api("PATCH", "virtual-keys/team", change.clone()).await,
            200,
        );
        let reply = gw.chat_as(&secret).await;
        assert_eq!(reply.status, status, "{change}: {reply:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_chosen_secret_and_a_digest_are_accepted() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let chosen = chosen_secret("chosen");
    let body = json!({ "name": "chosen", "key": chosen });
    let view = ok(&gw.api("POST", KEYS, body).await, 201);
    assert!(
        !view.to_string().contains(MARK),
        "what was sent is not shown: {view}"
    );
    // SHA-256 of what `chosen_secret` makes of this name.
    let digest = "b04996dbbaa4a2ed3c035c2e9bd42e8fff027e3e362aae7af3f79421338c4f03";
    let body = json!({ "name": "digest", "key_sha256": digest });
    ok(&gw.api("POST", KEYS, body).await, 201);
    for secret in [&chosen, &chosen_secret("digest")] {
        assert_eq!(gw.chat_as(secret).await.status, 200);
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_has_a_name_and_a_secret_of_its_own() {
    let mock = Mock::start().await.unwrap();
    let config = pool(&mock, 1) + &virtual_key("declared", "rpm = 5");
    let gw = Gateway::start(&config).await;
    let secret = chosen_secret("own");
    ok(
        &gw.api("POST", KEYS, json!({ "name": "own", "key": secret }))
            .await,
        201,
    );
    for (body, code) in [
        (json!({ "name": "own" }), "name_taken"),
        (json!({ "name": "declared" }), "name_taken"),
        (json!({ "name": "x", "key": secret }), "duplicate_key"),
        (
            json!({ "name": "x", "key": virtual_secret("declared") }),
            "duplicate_key",
        ),
    ] {
        problem(&gw.api("POST", KEYS, body).await, 409, code);
    }
    for (method, path) in [
        ("GET", "x"),
        ("PATCH", "x"),
        ("DELETE", "x"),
        ("POST", "x/rotate"),
    ] {
        let is_patch = method == "PATCH";
        let body = if is_patch { json!({}) } else { Value::Null };
        let reply = gw.api(method, &format!("virtual-keys/{path}"), body).await;
        problem(&reply, 404, "not_found");
    }
    for (method, path, body) in [
        ("PATCH", "virtual-keys/declared", json!({ "rpm": 6 })),
        ("DELETE", "virtual-keys/declared", Value::Null),
        ("POST", "virtual-keys/declared/rotate", Value::Null),
    ] {
        let detail = problem(&gw.api(method, path, body).await, 409, "declared");
        assert!(detail.contains("keypool.toml"), "{detail}");
    }
    assert_eq!(names(&gw.read(KEYS).await), ["declared", "own"]);
    assert_eq!(gw.read("audit").await["items"].as_array().unwrap().len(), 1);
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_in_a_virtual_key_are_named_and_nothing_is_stored() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let secret = chosen_secret("own");
    let own = json!({ "name": "own", "key": secret });
    ok(&gw.api("POST", KEYS, own).await, 201);
    for (body, says) in [
        (json!({}), "`name` is missing"),
        (json!({ "name": " " }), "`name`"),
        (json!({ "name": "a\tb" }), "`name`"),
        (json!({ "name": ".." }), "`name`"),
        (json!({ "name": "x", "key": "short" }), "16 characters"),
        (
            json!({ "name": "x", "key": format!("{MARK} with spaces") }),
            "`key`",
        ),
        (
            json!({ "name": "x", "key": format!("{MARK}-ключ-длинный") }),
            "`key`",
        ),
        (
            json!({ "name": "a-name-as-its-secret", "key": "a-name-as-its-secret" }),
            "same as `key`",
        ),
        (json!({ "name": "x", "key_sha256": "ab" }), "`key_sha256`"),
        (
            json!({ "name": "x", "key": secret, "key_sha256": "ab" }),
            "not both",
        ),
        (json!({ "name": "x", "rpm": 0 }), "`rpm`"),
        (json!({ "name": "x", "rmp": 1 }), "did you mean `rpm`?"),
        (json!({ "name": "x", "limit_wait": "0s" }), "`limit_wait`"),
        (json!({ "name": "x", "expires": "tomorrow" }), ""),
        (json!({ "name": "x", "on_limit": "queue" }), "reject"),
    ] {
        let detail = problem(&gw.api("POST", KEYS, body).await, 422, "invalid_settings");
        assert!(detail.contains(says), "{says}: {detail}");
    }
    for body in [
        json!({ "grace": "soon" }),
        json!({ "grace": "1000d" }),
        json!({ "key": "short" }),
    ] {
        let reply = gw.api("POST", "virtual-keys/own/rotate", body).await;
        problem(&reply, 422, "invalid_settings");
    }
    let same = gw
        .api("POST", "virtual-keys/own/rotate", json!({ "key": secret }))
        .await;
    problem(&same, 409, "duplicate_key");
    assert_eq!(names(&gw.read(KEYS).await), ["own"]);
    assert_eq!(gw.read("audit").await["items"].as_array().unwrap().len(), 1);
    gw.stop().await;
}

#[tokio::test]
async fn no_part_of_the_admin_api_takes_a_token_from_the_query() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (method, path) in [
        ("GET", "pools"),
        ("PUT", "pools/x"),
        ("POST", "pools/p/keys"),
        ("POST", "pools/p/keys/import"),
        ("POST", "pools/p/keys/p-1/reset"),
        ("POST", "virtual-keys"),
        ("POST", "tavily-keys/refresh-quota"),
        ("GET", "usage"),
        ("GET", "audit"),
    ] {
        for name in ["token", "key", "access_token", "api_key", "authorization"] {
            let path = format!("/api/v1/admin/{path}?{name}={}", gw.token);
            let reply = gw.send(method, &path, &[JSON], b"{}").await;
            problem(&reply, 401, "invalid_admin_token");
        }
    }
    gw.stop().await;
}

/// The limits of a virtual key outlive its changes, and count for both secrets of a rotation.
#[tokio::test]
async fn limits_hold_over_changes_and_rotations() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let old = create(&gw, json!({ "name": "team", "rpm": 3 })).await;
    assert_eq!(gw.chat_as(&old).await.status, 200);
    let rotated = gw
        .api("POST", "virtual-keys/team/rotate", Value::Null)
        .await;
    let tag = etag(&rotated);
    let new = ok(&rotated, 200)["key"].as_str().unwrap().to_owned();
    assert_eq!(gw.chat_as(&new).await.status, 200);
    ok(
        &gw.api_if(
            "PATCH",
            "virtual-keys/team",
            &[("if-match", &tag)],
            json!({ "native": true }),
        )
        .await,
        200,
    );
    assert_eq!(gw.chat_as(&old).await.status, 200);
    for secret in [&old, &new] {
        assert_eq!(gw.chat_as(secret).await.code(), "rate_limit_exceeded");
    }
    gw.stop().await;
}
