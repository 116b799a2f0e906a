//! Hot reload by file, `.env`, signal and admin API. Requests in flight continue, and kept keys keep their state.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    CHAT, CHAT_PATH, DEADLINE, Folder, Gateway, MARK, PoolConfig, eventually, key, pool, within,
};
use crate::http::Connection;

/// The promised time until a change takes effect.
const TAKES_EFFECT_WITHIN: Duration = Duration::from_secs(2);

/// Polls until the statistics satisfy `reached`, which must happen within the promised time.
async fn takes_effect(gw: &Gateway, since: Instant, reached: impl Fn(&Value) -> bool) {
    loop {
        let stats = gw.stats().await;
        if reached(&stats) {
            break;
        }
        assert!(since.elapsed() < DEADLINE, "{stats}\n{}", gw.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        since.elapsed() < TAKES_EFFECT_WITHIN,
        "in effect after {:?}",
        since.elapsed()
    );
}

/// A gateway whose configuration is a symbolic link to a file in another folder.
async fn linked(config: &str) -> (Gateway, Arc<Folder>) {
    let elsewhere = Folder::new(config);
    let folder = Folder::new("");
    std::fs::remove_file(folder.path("keypool.toml")).expect("remove");
    std::os::unix::fs::symlink(elsewhere.path("keypool.toml"), folder.path("keypool.toml"))
        .expect("link");
    (Gateway::start_in(&folder).await, elsewhere)
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_drops_no_request() {
    let mock = Mock::start().await.unwrap();
    let gw = Arc::new(Gateway::start(&pool(&mock, 1)).await);
    mock.behave(
        &key(1),
        Behaviour {
            latency: Duration::from_secs(3),
            ..Behaviour::default()
        },
    );
    let mut calls = JoinSet::new();
    for _ in 0..5 {
        let gw = Arc::clone(&gw);
        calls.spawn(async move { gw.chat().await });
    }
    within(mock.wait_for(&key(1), |seen| seen.active == 5)).await;
    let second = PoolConfig::new(&mock, "renamed", [2]);
    let changed = Instant::now();
    gw.folder().write("keypool.toml", &second.to_string());
    takes_effect(&gw, changed, |stats| {
        stats.get("renamed").is_some() && stats.get("p").is_none()
    })
    .await;
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.key(), reply.header("x-keypool-pool")),
        (200, "renamed-1", Some("renamed"))
    );
    assert_eq!(
        mock.seen(&key(1)).active,
        5,
        "the calls are still in flight"
    );
    for reply in within(calls.join_all()).await {
        assert_eq!((reply.status, reply.key()), (200, "p-1"), "{reply:?}");
    }
    Arc::into_inner(gw).unwrap().stop().await;
}

#[tokio::test]
async fn a_waiting_request_is_served_by_a_key_that_a_reload_adds() {
    let mock = Mock::start().await.unwrap();
    let config = |keys| {
        PoolConfig::new(&mock, "p", 1..=keys)
            .set("max_concurrent_per_key", 1)
            .set("queue.max_waiting", 1)
    };
    let gw = Arc::new(Gateway::start(&config(1).to_string()).await);
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
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), "queue_full", "so the other one waits");
    gw.folder().write("keypool.toml", &config(2).to_string());
    let reply = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!((reply.status, reply.key()), (200, "p-2"), "{reply:?}");
    let waited: u64 = reply.header("x-keypool-queue-ms").unwrap().parse().unwrap();
    assert!(waited > 0, "it waited for {waited} ms");
    holder.abort();
    let _ = calls.join_next().await;
    gw.all_idle().await;
    Arc::into_inner(gw).unwrap().stop().await;
}

#[tokio::test]
async fn a_request_that_is_still_arriving_is_routed_as_configured_when_it_came() {
    let mock = Mock::start().await.unwrap();
    let pool = |name: &str, n: usize, model: &str| {
        PoolConfig::new(&mock, name, [n])
            .set("models", vec![model])
            .to_string()
    };
    let other = pool("other", 3, "other-*");
    let gw = Gateway::start(&(pool("old", 1, "gpt-*") + &other)).await;
    let mut connection = Connection::open(gw.addr).await;
    let (begin, rest) = CHAT.as_bytes().split_at(CHAT.len() / 2);
    let length = CHAT.len();
    let head = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        gw.addr
    );
    connection.write(head.as_bytes()).await;
    connection.write(begin).await;
    // The gateway has read the head by then: it answers another request on another connection later.
    assert_eq!(gw.chat().await.key(), "old-1");
    let changed = Instant::now();
    let moved = pool("old", 1, "gone-*") + &pool("new", 2, "gpt-*") + &other;
    gw.folder().write("keypool.toml", &moved);
    takes_effect(&gw, changed, |stats| stats.get("new").is_some()).await;
    assert_eq!(gw.chat().await.key(), "new-1");
    connection.write(rest).await;
    let (reply, _) = within(connection.reply()).await.expect("an answer");
    assert_eq!((reply.status, reply.key()), (200, "old-1"), "{reply:?}");
    gw.stop().await;
}

#[tokio::test]
async fn a_changed_env_file_takes_effect() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start("").await;
    assert_eq!(gw.chat().await.code(), "model_not_found");
    for (keys, names) in [
        (key(1), vec!["openai-1"]),
        (
            format!("{} , {}", key(1), key(2)),
            vec!["openai-1", "openai-2"],
        ),
    ] {
        let changed = Instant::now();
        gw.folder().write(
            ".env",
            &format!(
                "OPENAI_API_KEY=\"{keys}\"\nOPENAI_BASE_URL={}/v1\n",
                mock.origin()
            ),
        );
        takes_effect(&gw, changed, |stats| {
            let keys = stats["openai"].as_object();
            keys.is_some_and(|keys| keys.keys().eq(names.iter()))
        })
        .await;
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.header("x-keypool-pool")),
            (200, Some("openai")),
            "{reply:?}"
        );
    }
    assert_eq!(mock.seen(&key(1)).requests + mock.seen(&key(2)).requests, 2);
    gw.stop().await;
}

#[tokio::test]
async fn sighup_reloads() {
    let mock = Mock::start().await.unwrap();
    let (gw, elsewhere) = linked(&pool(&mock, 1)).await;
    elsewhere.write("keypool.toml", &pool(&mock, 2));
    let changed = Instant::now();
    gw.process.signal("HUP");
    takes_effect(&gw, changed, |stats| {
        stats["p"].as_object().is_some_and(|keys| keys.len() == 2)
    })
    .await;
    gw.logged("configuration reloaded").await;
    gw.stop().await;
}

#[tokio::test]
async fn the_admin_api_reloads_and_reports_the_changes() {
    let mock = Mock::start().await.unwrap();
    let gone = PoolConfig::new(&mock, "gone", [8]);
    let (gw, elsewhere) = linked(&format!("{}{gone}", pool(&mock, 1))).await;
    let new = PoolConfig::new(&mock, "new", [9]);
    let config = format!(
        "[server]\nmax_request_body = \"1MiB\"\n[limiter]\nmode = \"strict\"\n{}{new}",
        pool(&mock, 2)
    );
    elsewhere.write("keypool.toml", &config);
    let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let changes = reply.json();
    assert_eq!(
        (
            &changes["pools_added"],
            &changes["pools_removed"],
            &changes["pools_changed"],
            &changes["sections_changed"]
        ),
        (
            &json!(["new"]),
            &json!(["gone"]),
            &json!(["p"]),
            &json!(["server"])
        ),
        "{changes}"
    );
    let warnings = changes["warnings"].to_string();
    for warning in [
        "`limiter.mode` has no effect without Redis",
        "`[limiter]` takes effect at the next start",
    ] {
        assert!(warnings.contains(warning), "{changes}");
    }
    let pools: Vec<String> = gw
        .stats()
        .await
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(pools, ["new", "p"]);
    let same = gw.admin("POST", "/api/v1/admin/config/reload").await.json();
    assert_eq!(
        (&same["pools_changed"], &same["sections_changed"]),
        (&json!([]), &json!([])),
        "{same}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn an_invalid_configuration_is_refused_and_the_old_one_stays() {
    let mock = Mock::start().await.unwrap();
    let (gw, elsewhere) = linked(&pool(&mock, 1)).await;
    let bad = PoolConfig::new(&mock, "p", 1..=3)
        .set("stratgy", "round_robin")
        .set("retry.backoff", "5 parsecs");
    elsewhere.write("keypool.toml", &bad.to_string());
    let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (422, Some("application/problem+json")),
        "{reply:?}"
    );
    let errors = reply.json()["errors"].clone();
    let errors: Vec<&str> = errors
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for says in ["stratgy", "backoff"] {
        assert!(
            errors
                .iter()
                .any(|error| error.contains(says) && error.contains("keypool.toml:")),
            "{says}: {errors:?}"
        );
    }
    gw.logged("the old one stays").await;
    let reply = gw.chat().await;
    assert_eq!((reply.status, reply.key()), (200, "p-1"));
    gw.folder().write("keypool.toml", "not even = = toml");
    eventually("the watcher refuses it too", || {
        gw.log().matches("configuration rejected").count() >= 3
    })
    .await;
    assert_eq!(gw.chat().await.status, 200);
    gw.folder().write("keypool.toml", &pool(&mock, 2));
    takes_effect(&gw, Instant::now(), |stats| {
        stats["p"].as_object().is_some_and(|keys| keys.len() == 2)
    })
    .await;
    gw.stop().await;
}

#[tokio::test]
async fn kept_keys_keep_their_state_when_moved_and_renamed() {
    let mock = Mock::start().await.unwrap();
    let (gw, elsewhere) = linked(&pool(&mock, 3)).await;
    mock.script(&key(1), [Step::rate_limited(60)]);
    mock.script(&key(2), [Step::Answer, Step::refuse(401)]);
    for _ in 0..5 {
        assert_eq!(gw.chat().await.status, 200);
    }
    let before = gw.stats().await["p"].clone();
    let mut other = PoolConfig::new(&mock, "other", []);
    for (n, name) in [(4, "new"), (3, "three"), (2, "two"), (1, "one")] {
        other = other.key(n, &format!("name = \"{name}\""));
    }
    elsewhere.write("keypool.toml", &other.to_string());
    assert_eq!(
        gw.admin("POST", "/api/v1/admin/config/reload").await.status,
        200
    );
    let after = gw.stats().await["other"].clone();
    for (old, new) in [("p-1", "one"), ("p-2", "two"), ("p-3", "three")] {
        let (mut old, mut new) = (before[old].clone(), after[new].clone());
        // The same instant may be shown a millisecond apart.
        for stats in [&mut old, &mut new] {
            if let Some(until) = stats["cooldowns"].get_mut(0) {
                until["until"] = json!("some time");
            }
        }
        assert_eq!(old, new);
    }
    assert_eq!(after["one"]["cooldowns"][0]["class"], "rate_limited");
    assert_eq!(after["two"]["state"], "invalid");
    assert_eq!(after["new"]["total_requests"], 0);
    for _ in 0..4 {
        let reply = gw.chat().await;
        assert!(["new", "three"].contains(&reply.key()), "{reply:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn auth_depends_on_the_bound_address_and_not_the_written_one() {
    for (bound, written, status) in [("0.0.0.0", "127.0.0.1", 401), ("127.0.0.1", "0.0.0.0", 200)] {
        let mock = Mock::start().await.unwrap();
        let config = |ip: &str, n| format!("[server]\nlisten = \"{ip}:0\"\n{}", pool(&mock, n));
        let gw = Gateway::run(&Folder::new(&config(bound, 1)), &["serve"]).await;
        assert_eq!(gw.chat().await.status, status, "{bound}");
        let changed = Instant::now();
        gw.folder().write("keypool.toml", &config(written, 2));
        takes_effect(&gw, changed, |stats| {
            stats["p"].as_object().is_some_and(|keys| keys.len() == 2)
        })
        .await;
        gw.logged("`server.listen` takes effect at the next start")
            .await;
        for reply in [gw.chat().await, gw.get("/v1/models").await] {
            assert_eq!(reply.status, status, "{bound} to {written}: {reply:?}");
            if status == 401 {
                assert_eq!(reply.code(), "invalid_virtual_key", "{reply:?}");
            }
        }
        if status == 401 {
            assert!(mock.seen_all().is_empty(), "{:?}", mock.recorded());
        }
        gw.stop().await;
    }
}

#[tokio::test]
async fn settings_that_need_a_restart_are_named_and_unchanged() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let changed = format!("log.format = \"json\"\n{}", pool(&mock, 1));
    for (text, expect) in [
        (changed, vec!["`log.format` takes effect at the next start"]),
        (
            format!(
                "log.level = \"debug\"\nserver.max_request_body = \"1MiB\"\n{}",
                pool(&mock, 1)
            ),
            Vec::new(),
        ),
        (
            format!(
                "log.format = \"json\"\nadmin.token = \"another-{MARK}-token\"\n{}",
                pool(&mock, 1)
            ),
            vec![
                "`log.format` takes effect at the next start",
                "`[admin]` takes effect at the next start",
            ],
        ),
    ] {
        gw.folder().write("keypool.toml", &text);
        let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.json()["warnings"], json!(expect), "{text}");
    }
    assert!(!gw.log().contains("{\"timestamp\""), "{}", gw.log());
    gw.stop().await;
}

/// Gives a file an old time, so that two files differ in nothing but their text.
fn age(path: &std::path::Path) {
    let file = std::fs::File::options()
        .append(true)
        .open(path)
        .expect("open");
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(time).expect("a time");
}

/// Points a link elsewhere in one step.
fn link(folder: &Folder, name: &str, to: &str) {
    let draft = folder.path("link.draft");
    std::os::unix::fs::symlink(to, &draft).expect("link");
    std::fs::rename(draft, folder.path(name)).expect("rename");
}

fn has_pool(stats: &Value, name: &str) -> bool {
    stats.get(name).is_some()
}

#[tokio::test]
async fn a_link_to_a_file_of_the_same_size_and_time_takes_effect() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new("");
    // As Kubernetes mounts a ConfigMap: keypool.toml -> ..data/keypool.toml, ..data -> a folder.
    for (n, dir) in ["one", "two", "three"].into_iter().enumerate() {
        std::fs::create_dir(folder.path(dir)).unwrap();
        let name = format!("{dir}/keypool.toml");
        let config = PoolConfig::new(&mock, &format!("pool{n}"), [1]);
        folder.write(&name, &config.to_string());
        age(&folder.path(&name));
    }
    link(&folder, "..data", "one");
    link(&folder, "keypool.toml", "..data/keypool.toml");
    let gw = Gateway::start_in(&folder).await;
    assert!(has_pool(&gw.stats().await, "pool0"));
    let changed = Instant::now();
    link(&folder, "..data", "two");
    takes_effect(&gw, changed, |stats| has_pool(stats, "pool1")).await;
    let changed = Instant::now();
    link(&folder, "keypool.toml", "three/keypool.toml");
    takes_effect(&gw, changed, |stats| has_pool(stats, "pool2")).await;
    gw.stop().await;
}

#[tokio::test]
async fn a_file_written_over_with_the_same_size_and_time_takes_effect() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new(&pool(&mock, 1));
    let dotenv = |n| {
        let base = mock.origin();
        format!("OPENAI_API_KEY={}\nOPENAI_BASE_URL={base}/v1\n", key(n))
    };
    folder.write(".env", &dotenv(1));
    for name in ["keypool.toml", ".env"] {
        age(&folder.path(name));
    }
    let gw = Gateway::start_in(&folder).await;
    let changed = Instant::now();
    let config = PoolConfig::new(&mock, "q", [1]).to_string();
    std::fs::write(folder.path("keypool.toml"), config).unwrap();
    age(&folder.path("keypool.toml"));
    takes_effect(&gw, changed, |stats| has_pool(stats, "q")).await;
    std::fs::write(folder.path(".env"), dotenv(2)).unwrap();
    age(&folder.path(".env"));
    let changed = Instant::now();
    while mock.seen(&key(2)).requests == 0 {
        assert!(changed.elapsed() < TAKES_EFFECT_WITHIN, "{}", gw.log());
        let body = CHAT.replace("gpt-x", "openai/gpt-x");
        assert_eq!(gw.post(CHAT_PATH, &body).await.status, 200);
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_file_that_is_empty_for_a_moment_changes_nothing() {
    let mock = Mock::start().await.unwrap();
    let dotenv = format!(
        "OPENAI_API_KEY={}\nOPENAI_BASE_URL={}/v1\n",
        key(2),
        mock.origin()
    );
    for (name, text, emptied) in [
        ("keypool.toml", pool(&mock, 1), ""),
        ("keypool.toml", pool(&mock, 1), " \n\n"),
        (".env", dotenv, ""),
    ] {
        let folder = Folder::new("");
        folder.write(name, &text);
        let gw = Gateway::start_in(&folder).await;
        let start = Instant::now();
        std::fs::write(folder.path(name), emptied).unwrap();
        while start.elapsed() < Duration::from_millis(1500) {
            assert_eq!(gw.chat().await.status, 200, "{name}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gw.logged(&format!("{name}: the file is empty")).await;
        std::fs::write(folder.path(name), &text).unwrap();
        gw.logged("configuration reloaded").await;
        while start.elapsed() < Duration::from_secs(8) {
            assert_eq!(gw.chat().await.status, 200, "{name}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_stays_empty_is_applied_after_five_seconds() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let emptied = Instant::now();
    gw.folder().write("keypool.toml", "");
    gw.process.signal("HUP");
    gw.logged("the file is empty; if it still is in 5 s, that is applied")
        .await;
    let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert!(reply.text().contains("the file is empty"), "{reply:?}");
    assert!(emptied.elapsed() < TAKES_EFFECT_WITHIN, "it does not wait");
    while has_pool(&gw.stats().await, "p") {
        assert!(emptied.elapsed() < Duration::from_secs(8), "{}", gw.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = emptied.elapsed();
    assert!(after > Duration::from_secs(5), "applied after {after:?}");
    let changed = Instant::now();
    gw.folder().write("keypool.toml", &pool(&mock, 2));
    takes_effect(&gw, changed, |stats| has_pool(stats, "p")).await;
    gw.stop().await;
}

#[tokio::test]
async fn a_file_that_is_gone_is_an_error_and_the_old_one_stays() {
    let mock = Mock::start().await.unwrap();
    let dotenv = format!(
        "OPENAI_API_KEY={}\nOPENAI_BASE_URL={}/v1\n",
        key(2),
        mock.origin()
    );
    for (name, text) in [("keypool.toml", pool(&mock, 1)), (".env", dotenv)] {
        let folder = Folder::new("");
        folder.write(name, &text);
        let gw = Gateway::start_in(&folder).await;
        std::fs::remove_file(folder.path(name)).unwrap();
        gw.logged(&format!("{name}: the file is gone")).await;
        let reply = gw.admin("POST", "/api/v1/admin/config/reload").await;
        assert_eq!(reply.status, 422, "{reply:?}");
        assert!(reply.text().contains("the file is gone"), "{reply:?}");
        gw.process.signal("HUP");
        eventually("the signal's reload is rejected too", || {
            gw.log().matches("the file is gone").count() >= 3
        })
        .await;
        assert_eq!(gw.chat().await.status, 200, "{name}");
        folder.write(name, &text);
        gw.logged("configuration reloaded").await;
        assert_eq!(gw.chat().await.status, 200, "{name}");
        gw.stop().await;
    }
}
