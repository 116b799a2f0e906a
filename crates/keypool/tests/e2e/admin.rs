//! The admin API: authentication, the statistics, the health checks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, Gateway, MARK, key, pool, within};
use crate::http::Connection;

#[tokio::test]
async fn every_admin_path_requires_the_token() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let token = gw.token.clone();
    let (basic, wrong, short) = (
        format!("Basic {token}"),
        format!("Bearer {token}x"),
        format!("Bearer {}", &token[..token.len() - 1]),
    );
    for path in [
        "/api",
        "/api/",
        "/api/keys/stats",
        "/api/keys/stats/",
        "/api/nothing/here",
        "/api/v1/admin/config/reload",
        "/api/v1/admin/traces",
        "/api/v1/admin/pools/p/keys/p-1/reset",
        "/api/../api/keys/stats",
        "//api/keys/stats",
        "/metrics",
        "/metrics/x",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let reply = gw.send(method, path, &[], b"").await;
            assert_eq!(reply.status, 401, "{method} {path}: {reply:?}");
            assert_eq!(
                reply.header("content-type"),
                Some("application/problem+json")
            );
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert_eq!(reply.json()["status"], 401);
            assert!(reply.json()["title"].is_string() && reply.json()["detail"].is_string());
        }
    }
    for value in [basic.as_str(), &wrong, &short, "Bearer", "Bearer ", &token] {
        let reply = gw
            .send("GET", "/api/keys/stats", &[("authorization", value)], b"")
            .await;
        assert_eq!(reply.status, 401, "{value}");
    }
    for name in ["token", "key", "access_token", "authorization"] {
        let reply = gw.get(&format!("/api/keys/stats?{name}={token}")).await;
        assert_eq!(reply.status, 401, "a token in the query as {name}");
    }
    for path in [
        "/%61pi/keys/stats",
        "/API/keys/stats",
        "/v1/../api/keys/stats",
    ] {
        let reply = gw.get(path).await;
        assert!(
            reply.status >= 400 && !reply.text().contains("p-1"),
            "{path}: {reply:?}"
        );
    }
    assert!(mock.seen_all().is_empty());
    gw.stop().await;
}

#[tokio::test]
async fn unknown_admin_paths_and_methods_get_problem_documents() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (method, path, status, code) in [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/metrics/x", 404, "not_found"),
        ("POST", "/api/keys/stats", 405, "method_not_allowed"),
        (
            "GET",
            "/api/v1/admin/pools/p/keys/p-1/reset",
            405,
            "method_not_allowed",
        ),
        (
            "POST",
            "/api/v1/admin/pools/nope/keys/p-1/reset",
            404,
            "not_found",
        ),
        (
            "POST",
            "/api/v1/admin/pools/p/keys/nope/reset",
            404,
            "not_found",
        ),
    ] {
        let reply = gw.admin(method, path).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{method} {path}: {reply:?}"
        );
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(
            reply.header("allow").is_some(),
            status == 405,
            "{method} {path}"
        );
    }
    gw.stop().await;
}

/// The fields of a key's statistics that programs may rely on, before any others.
const STABLE: [&str; 8] = [
    "active_requests",
    "total_requests",
    "failed_requests",
    "success_rate",
    "is_available",
    "last_used",
    "state",
    "cooldowns",
];

/// These fields of a key's statistics.
fn stable(stats: &Value) -> Value {
    let fields = STABLE.map(|name| (name.to_owned(), stats[name].clone()));
    Value::Object(fields.into_iter().collect())
}

#[tokio::test]
async fn statistics_have_the_documented_shape() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let unused = json!({
        "active_requests": 0, "total_requests": 0, "failed_requests": 0, "success_rate": 100.0,
        "is_available": true, "last_used": null, "state": "active", "cooldowns": [],
    });
    let reply = gw.admin("GET", "/api/keys/stats").await;
    let pools = reply.json();
    assert!(pools.as_object().unwrap().keys().eq(["p"]), "{pools}");
    assert!(
        pools["p"].as_object().unwrap().keys().eq(["p-1", "p-2"]),
        "{pools}"
    );
    for name in ["p-1", "p-2"] {
        assert_eq!(stable(&pools["p"][name]), unused);
    }
    // The stable fields come first, in this order.
    let order = STABLE.map(|field| reply.text().find(&format!("\"{field}\"")));
    assert!(order.is_sorted() && order[0].is_some(), "{order:?}");
    assert!(reply.text().contains("\"success_rate\":100.0"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    mock.script(&key(1), [Step::refuse(503), Step::Answer, Step::Answer]);
    for _ in 0..5 {
        assert_eq!(gw.chat().await.status, 200);
    }
    let mut stats = gw.key_stats("p", "p-1").await;
    let last_used = stats["last_used"].take();
    let last_used = last_used.as_str().unwrap();
    assert!(
        last_used.starts_with("20") && last_used.ends_with('Z') && last_used.contains('T'),
        "{last_used}"
    );
    assert_eq!(
        stable(&stats),
        json!({
            "active_requests": 0, "total_requests": 3, "failed_requests": 1, "success_rate": 66.7,
            "is_available": true, "last_used": null, "state": "active", "cooldowns": [],
        })
    );
    mock.script(&key(1), [Step::Hang]);
    mock.script(&key(2), [Step::Hang]);
    let mut held = Connection::open(gw.addr).await;
    held.request("POST", CHAT_PATH, &[], CHAT.as_bytes()).await;
    let (one, two) = (key(1), key(2));
    within(async {
        tokio::select! {
            () = mock.wait_for(&one, |seen| seen.active == 1) => {}
            () = mock.wait_for(&two, |seen| seen.active == 1) => {}
        }
    })
    .await;
    let stats = gw.stats().await["p"].clone();
    let active: Vec<u64> = ["p-1", "p-2"]
        .iter()
        .filter_map(|name| stats[name]["active_requests"].as_u64())
        .collect();
    assert_eq!(active.iter().sum::<u64>(), 1, "{stats}");
    drop(held);
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn health_checks_need_no_token_and_give_details_only_with_one() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let alive = gw.get("/healthz").await;
    assert_eq!(alive.status, 200);
    let ready = gw.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["degraded"]),
        (200, &json!(false))
    );
    mock.script(&key(1), [Step::refuse(401)]);
    assert_eq!(gw.chat().await.code(), "no_key_available");
    let ready = gw.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["degraded"]),
        (200, &json!(true)),
        "key trouble does not take the node out"
    );
    assert!(!ready.text().contains("\"p\""), "{ready:?}");
    let details = gw.admin("GET", "/readyz").await;
    assert!(details.text().contains("\"p\""), "{details:?}");
    gw.stop().await;
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_the_right_one_is_not() {
    let mock = Mock::start().await.unwrap();
    let gw = Arc::new(Gateway::start(&pool(&mock, 1)).await);
    let mut wrong = JoinSet::new();
    let began = Instant::now();
    for n in 0..9 {
        let gw = Arc::clone(&gw);
        wrong.spawn(async move {
            let bearer = format!("Bearer guess-{n}");
            gw.send("GET", "/api/keys/stats", &[("authorization", &bearer)], b"")
                .await
                .status
        });
    }
    for _ in 0..5 {
        assert_eq!(within(wrong.join_next()).await.unwrap().unwrap(), 401);
    }
    assert_eq!(gw.stats().await["p"]["p-1"]["state"], "active");
    assert!(
        !wrong.is_empty(),
        "the right token is answered while wrong ones wait"
    );
    assert!(
        within(wrong.join_all())
            .await
            .iter()
            .all(|status| *status == 401)
    );
    assert!(
        began.elapsed() >= Duration::from_millis(1500),
        "nine guesses took only {:?}",
        began.elapsed()
    );
    Arc::into_inner(gw).unwrap().stop().await;
}

#[tokio::test]
async fn a_generated_token_is_readable_only_by_its_owner() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let folder = Arc::clone(gw.folder());
    let path = folder.path("keypool.admin-token");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = gw.token.clone();
    assert!(token.len() >= 32, "{}", token.len());
    gw.stop().await;
    let again = Gateway::start_in(&folder).await;
    assert_eq!(again.token, token);
    again.stats().await;
    again.stop().await;
}

#[tokio::test]
async fn a_configured_token_replaces_the_generated_one() {
    let mock = Mock::start().await.unwrap();
    let token = format!("operator-{MARK}-token");
    let config = format!("[admin]\ntoken = \"{token}\"\n{}", pool(&mock, 1));
    let mut gw = Gateway::start(&config).await;
    assert!(gw.token.is_empty(), "no token is generated beside it");
    gw.token = token;
    gw.stats().await;
    gw.stop().await;
}
