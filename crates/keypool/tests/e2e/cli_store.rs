//! `keypool store`: backup, restore, and rotating the master key.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, PostgresServer};
use tokio::time::Instant;

use crate::cli::{Done, run, start};
use crate::harness::{Folder, Gateway, PoolConfig, key};

const MASTER_KEY: &str = "keypool.master-key";
const NEXT: &str = "keypool.master-key.new";
const ROTATE: [&str; 2] = ["store", "rotate-master-key"];
const EXPORT: [&str; 5] = ["keys", "export", "--pool", "p", "--secrets"];

/// A gateway with the stored key 1 in pool `p`.
async fn with_a_stored_key() -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&PoolConfig::new(&mock, "p", []).to_string()).await;
    add(&gw, 1).await.ok();
    (mock, gw)
}

async fn add(gw: &Gateway, n: usize) -> Done {
    gw.keypool_with(&["keys", "add", "--pool", "p"], &key(n))
        .await
}

/// The secrets that can be read from the store.
async fn secrets(folder: &Arc<Folder>) -> String {
    let args = [&EXPORT[..], &["--format", "text"]].concat();
    run(folder, &args, &[], "").await.ok()
}

fn read(folder: &Arc<Folder>, file: &str) -> String {
    fs::read_to_string(folder.path(file)).expect("a file")
}

/// Checks that the gateway starts, uses the stored key, and stores another one.
async fn assert_the_store_works(folder: &Arc<Folder>, n: usize) {
    let gw = Gateway::run(folder, &["serve"]).await;
    assert_eq!(gw.chat().await.status, 200, "{}", gw.log());
    add(&gw, n).await.ok();
    gw.stop().await;
    let stored = secrets(folder).await;
    assert!(
        stored.contains(&key(1)) && stored.contains(&key(n)),
        "{stored}"
    );
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored() {
    let (_mock, gw) = with_a_stored_key().await;
    let done = gw
        .keypool(&["store", "backup", "copy.db"])
        .await
        .without_secret();
    assert!(
        done.stdout.contains("to copy.db") && done.stdout.contains(MASTER_KEY),
        "{done:?}"
    );
    done.ok();
    let said = gw.keypool(&["store", "backup", "copy.db"]).await.failed();
    assert!(said.contains("copy.db exists already"), "{said}");
    let said = gw
        .keypool(&["store", "restore", "copy.db", "--yes"])
        .await
        .failed();
    assert!(
        said.contains("another keypool server uses the database"),
        "{said}"
    );
    add(&gw, 2).await.ok();
    let folder = gw.folder().clone();
    gw.stop().await;

    let said = run(&folder, &["store", "restore", "copy.db"], &[], "")
        .await
        .failed();
    assert!(said.contains("Add --yes to confirm"), "{said}");
    folder.write("garbage", "this is no database");
    let said = run(&folder, &["store", "restore", "garbage", "--yes"], &[], "")
        .await
        .failed();
    assert!(
        said.contains("garbage is damaged or no SQLite database"),
        "{said}"
    );
    assert!(secrets(&folder).await.contains(&key(2)));
    let restored = run(
        &folder,
        &["store", "restore", "copy.db", "--yes", "--json"],
        &[],
        "",
    )
    .await;
    assert_eq!(
        (restored.code, restored.json()["file"].as_str()),
        (0, Some("copy.db"))
    );
    assert_eq!(secrets(&folder).await.trim(), key(1));
    assert_the_store_works(&folder, 3).await;
}

#[tokio::test]
async fn a_backup_of_another_master_key_is_restored_only_on_request() {
    let (_mock, gw) = with_a_stored_key().await;
    gw.keypool(&["store", "backup", "copy.db"]).await.ok();
    let folder = gw.folder().clone();
    let old = read(&folder, MASTER_KEY);
    gw.stop().await;
    run(&folder, &ROTATE, &[], "").await.ok();
    let restore = ["store", "restore", "copy.db", "--yes"];
    let said = run(&folder, &restore, &[], "").await.failed();
    assert!(said.contains("so nothing was changed"), "{said}");
    assert!(!folder.path("keypool.db.before-restore").exists());
    assert_the_store_works(&folder, 2).await;
    let anyway = [&restore[..], &["--without-key-check"]].concat();
    let restored = run(&folder, &anyway, &[], "").await;
    assert_eq!(restored.code, 0, "{restored:?}");
    let kept = "keypool.db.before-restore";
    assert!(restored.stdout.contains(kept), "{restored:?}");
    assert!(folder.path(kept).exists());
    assert!(
        restored.stderr.contains("will not start with it yet"),
        "{restored:?}"
    );
    folder.write(MASTER_KEY, &old);
    assert_the_store_works(&folder, 3).await;
}

#[tokio::test]
async fn a_new_master_key_takes_effect_with_a_restart() {
    let (_mock, gw) = with_a_stored_key().await;
    let folder = gw.folder().clone();
    let old = read(&folder, MASTER_KEY);
    let done = gw.keypool(&ROTATE).await.without_secret();
    assert!(done.stdout.contains("Restart the server now"), "{done:?}");
    done.ok();
    let new = read(&folder, MASTER_KEY);
    assert!(old != new && !folder.path(NEXT).exists());
    assert_eq!(read(&folder, "keypool.master-key.before-rotation"), old);
    // What is in memory is served, and nothing is stored with the old key.
    assert_eq!(gw.chat().await.status, 200);
    let said = add(&gw, 2).await.failed();
    assert!(
        said.contains("another master key") && said.contains("restart it"),
        "{said}"
    );
    gw.stop().await;
    assert_the_store_works(&folder, 2).await;

    let chosen = "a-chosen-master-key-of-the-operator";
    let env = [("KEYPOOL_NEW_MASTER_KEY", chosen)];
    let done = run(&folder, &[&ROTATE[..], &["--json"]].concat(), &env, "").await;
    assert_eq!(
        (done.code, done.json()["status"].as_str()),
        (0, Some("rotated"))
    );
    assert_eq!(read(&folder, MASTER_KEY).trim(), chosen);
    let said = run(&folder, &ROTATE, &env, "").await.failed();
    assert!(said.contains("is the current master key"), "{said}");
    let said = run(&folder, &ROTATE, &[("KEYPOOL_NEW_MASTER_KEY", "short")], "")
        .await
        .failed();
    assert!(
        said.contains("`KEYPOOL_NEW_MASTER_KEY` must have at least 16"),
        "{said}"
    );
    folder.write(MASTER_KEY, &old);
    let said = run(&folder, &EXPORT, &[], "").await.failed();
    assert!(said.contains("master key"), "{said}");
}

/// The state after a rotation was interrupted before the file was replaced, and the new key.
async fn interrupted() -> (Mock, Arc<Folder>, String) {
    let (mock, gw) = with_a_stored_key().await;
    let folder = gw.folder().clone();
    gw.stop().await;
    let old = read(&folder, MASTER_KEY);
    run(&folder, &ROTATE, &[], "").await.ok();
    let new = read(&folder, MASTER_KEY);
    folder.write(NEXT, &new);
    folder.write(MASTER_KEY, &old);
    assert_eq!(secrets(&folder).await.trim(), key(1));
    (mock, folder, new)
}

#[tokio::test]
async fn a_start_finishes_a_rotation_that_was_interrupted() {
    let (_mock, folder, new) = interrupted().await;
    assert_the_store_works(&folder, 2).await;
    assert_eq!(read(&folder, MASTER_KEY), new);
    assert!(!folder.path(NEXT).exists());
    // Interrupted before the database was encrypted again: the old key is still the right one.
    folder.write(NEXT, "a-key-with-which-nothing-was-encrypted");
    assert_the_store_works(&folder, 3).await;
    assert_eq!(read(&folder, MASTER_KEY), new);
}

#[tokio::test]
async fn the_next_rotation_finishes_one_that_was_interrupted() {
    let (_mock, folder, new) = interrupted().await;
    let done = run(&folder, &[&ROTATE[..], &["--json"]].concat(), &[], "").await;
    assert_eq!(
        (done.code, done.json()["status"].as_str()),
        (0, Some("finished"))
    );
    assert_eq!(read(&folder, MASTER_KEY), new);
    folder.write(NEXT, "a-key-with-which-nothing-was-encrypted");
    run(&folder, &ROTATE, &[], "").await.ok();
    assert!(read(&folder, MASTER_KEY) != new && !folder.path(NEXT).exists());
    assert_the_store_works(&folder, 2).await;
}

#[tokio::test]
async fn a_rotation_that_is_killed_at_any_time_loses_nothing() {
    const KILLS: u32 = 24;
    let (_mock, gw) = with_a_stored_key().await;
    let folder = gw.folder().clone();
    gw.stop().await;
    let start = || {
        let mut keypool = Command::new(env!("CARGO_BIN_EXE_keypool"));
        let keypool = keypool
            .args(ROTATE)
            .current_dir(folder.path("."))
            .env_clear();
        keypool
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    };
    let began = Instant::now();
    assert!(start().wait().expect("an end").success());
    let whole = began.elapsed();
    let mut killed = 0;
    for n in 0..KILLS {
        let mut child = start();
        tokio::time::sleep(whole * n / KILLS).await;
        child.kill().expect("a child");
        killed += u32::from(!child.wait().expect("an end").success());
        // An exclusive lock of the killed process may last a moment longer than it.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(
            secrets(&folder).await.trim(),
            key(1),
            "after the kill at {n}/{KILLS}"
        );
    }
    assert!(killed > KILLS / 6, "only {killed} were killed in time");
    assert_the_store_works(&folder, 2).await;
}

#[tokio::test]
async fn a_configured_master_key_is_rotated_to_the_one_in_the_variable() {
    let mock = Mock::start().await.expect("a mock");
    let (old, new) = (
        "the-old-master-key-of-a-test",
        "the-new-master-key-of-a-test",
    );
    let config = |key| {
        format!(
            "[store]\nmaster_key = \"{key}\"\n{}",
            PoolConfig::new(&mock, "p", [])
        )
    };
    let gw = start(&config(old)).await;
    add(&gw, 1).await.ok();
    let folder = gw.folder().clone();
    let listen = read(&folder, "keypool.toml")
        .lines()
        .take(2)
        .collect::<Vec<_>>()
        .join("\n");
    gw.stop().await;
    let said = run(&folder, &ROTATE, &[], "").await.failed();
    assert!(said.contains("set KEYPOOL_NEW_MASTER_KEY"), "{said}");
    let env = [("KEYPOOL_NEW_MASTER_KEY", new)];
    for expected in ["on every server, and restart each", "already"] {
        let said = run(&folder, &ROTATE, &env, "").await.ok();
        assert!(said.contains(expected) && !said.contains(new), "{said}");
        assert!(said.contains(NEXT), "{said}");
    }
    assert_eq!(read(&folder, NEXT).trim(), new);
    // The only copy of the new key is not lost to a second rotation.
    let again = [("KEYPOOL_NEW_MASTER_KEY", "another-master-key-of-a-test")];
    let said = run(&folder, &ROTATE, &again, "").await.failed();
    assert!(said.contains("an earlier rotation"), "{said}");
    assert_eq!(read(&folder, NEXT).trim(), new);
    assert!(
        run(&folder, &EXPORT, &[], "")
            .await
            .failed()
            .contains("master key")
    );
    folder.write("keypool.toml", &format!("{listen}\n{}", config(new)));
    assert_the_store_works(&folder, 2).await;
}

#[tokio::test]
async fn postgres_is_backed_up_by_its_own_tools_and_rotated_here() {
    let (mock, postgres) = (
        Mock::start().await.expect("a mock"),
        PostgresServer::start().await.expect("a server"),
    );
    let (old, new) = (
        "the-old-master-key-of-a-test",
        "the-new-master-key-of-a-test",
    );
    let url = postgres.url();
    let config = |key| {
        format!(
            "[store]\nurl = \"{url}\"\nmaster_key = \"{key}\"\n[admin]\ntoken = \"a-token-of-this-test\"\n{}",
            PoolConfig::new(&mock, "p", [])
        )
    };
    let gw = start(&config(old)).await;
    add(&gw, 1).await.ok();
    assert_eq!(secrets(gw.folder()).await.trim(), key(1));
    for (verb, tool) in [
        ("backup", "pg_dump --format=custom"),
        ("restore", "pg_restore --clean"),
    ] {
        let said = gw.keypool(&["store", verb, "copy"]).await.failed();
        assert!(said.contains(tool) && !said.contains(&url), "{said}");
        assert!(
            said.contains("PGPASSWORD") && !said.contains("URL"),
            "{said}"
        );
    }
    let env = [("KEYPOOL_NEW_MASTER_KEY", new)];
    for expected in ["restart each: until then", "already"] {
        let said = run(gw.folder(), &ROTATE, &env, "").await.ok();
        assert!(said.contains(expected), "{said}");
    }
    let folder = gw.folder().clone();
    let listen = read(&folder, "keypool.toml")
        .lines()
        .take(2)
        .collect::<Vec<_>>()
        .join("\n");
    gw.stop().await;
    folder.write("keypool.toml", &format!("{listen}\n{}", config(new)));
    assert_the_store_works(&folder, 2).await;
}
