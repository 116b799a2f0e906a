//! Starts with a store that cannot be used: each ends with a sentence and exit code 1, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use keypool_testkit::{Mock, PostgresServer};
use serde_json::{Value, json};

use crate::harness::{Folder, Gateway, MARK, Process, key};
use crate::store_kit::{
    TOKEN, chosen_secret, names, node, ok, pool, postgres_config, problem, stored_pool,
};

/// The files of a folder and their contents, without locks and SQLite's index, which each reader writes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a file"));
    files
        .map(|file| (file.file_name().into_string().expect("text"), file.path()))
        .filter(|(name, _)| !name.ends_with(".lock") && !name.ends_with("-shm"))
        .map(|(name, path)| (name, fs::read(path).expect("a file")))
        // An empty log is as good as none.
        .filter(|(name, bytes)| !(name.ends_with("-wal") && bytes.is_empty()))
        .collect()
}

/// The same without the admin token, which is made before the store is opened.
fn stored(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let mut contents = contents(&folder.path(""));
    contents.remove("keypool.admin-token");
    contents
}

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// Starts it, and checks that it ends at once, says this, and has left the files as they were.
async fn is_refused(folder: &Arc<Folder>, says: &[&str]) {
    is_refused_as(folder, || Process::start(folder, &SERVE), says).await;
}

/// The same for a process that is started in another way.
async fn is_refused_as(folder: &Folder, start: impl FnOnce() -> Process, says: &[&str]) {
    let before = stored(folder);
    let mut process = start();
    assert_eq!(process.ended().await, 1, "{}", process.stderr());
    let said = process.stderr();
    for words in says {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    process.assert_no_secret();
    let after = stored(folder);
    assert!(before.keys().eq(after.keys()), "{:?}", after.keys());
    assert!(before == after, "a file was changed");
}

/// A folder in which a gateway has stored a pool with a key, and has been killed: the newest is in the log only.
async fn used(mock: &Mock, config: &str) -> Arc<Folder> {
    let gw = Gateway::start(config).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(mock, "own-*")).await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(77) }))
            .await,
        201,
    );
    let virtual_key = json!({ "name": "team", "key": chosen_secret("team") });
    ok(&gw.api("POST", "virtual-keys", virtual_key).await, 201);
    gw.killed().await
}

async fn serves_its_key(folder: &Arc<Folder>) {
    let gw = Gateway::start_in(folder).await;
    let body = json!({ "model": "own-x", "messages": [] }).to_string();
    let bearer = format!("Bearer {}", chosen_secret("team"));
    let headers = [crate::store_kit::JSON, ("authorization", &*bearer)];
    let reply = gw
        .send("POST", "/v1/chat/completions", &headers, body.as_bytes())
        .await;
    assert_eq!(reply.key(), "own-1", "{reply:?}");
    gw.stop().await;
}

#[tokio::test]
async fn a_wrong_master_key_is_refused_and_the_right_one_works() {
    let mock = Mock::start().await.unwrap();
    let config = |key: &str| {
        format!(
            "[store]\nmaster_key = \"{MARK}-{key}-0123456789\"\n{}",
            pool(&mock, 1)
        )
    };
    let folder = used(&mock, &config("right")).await;
    folder.write("keypool.toml", &config("wrong"));
    is_refused(&folder, &["cannot open the store", "master key"]).await;
    folder.write("keypool.toml", &pool(&mock, 1));
    is_refused(&folder, &["cannot open the store", "master key"]).await;
    folder.write("keypool.toml", &config("right"));
    serves_its_key(&folder).await;
}

#[tokio::test]
async fn a_lost_master_key_is_not_replaced_by_a_new_one() {
    let mock = Mock::start().await.unwrap();
    let folder = used(&mock, &pool(&mock, 1)).await;
    let file = folder.path("keypool.master-key");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    is_refused(
        &folder,
        &["keypool.master-key", "store.master_key", "put back"],
    )
    .await;
    assert!(!file.exists());
    fs::write(&file, " \n").unwrap();
    is_refused(&folder, &["keypool.master-key", "put back"]).await;
    fs::write(&file, "another-master-key-0123456789").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    is_refused(&folder, &["master key"]).await;
    fs::write(&file, kept).unwrap();
    serves_its_key(&folder).await;
}

#[tokio::test]
async fn a_damaged_database_is_named_and_not_overwritten() {
    let mock = Mock::start().await.unwrap();
    for damage in [0..100, 4_000..4_200] {
        let gw = Gateway::start(&pool(&mock, 1)).await;
        ok(
            &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
                .await,
            201,
        );
        let folder = Arc::clone(gw.folder());
        gw.stop().await;
        let file = folder.path("keypool.db");
        let log = folder.path("keypool.db-wal");
        assert!(!log.exists(), "after the end, all is in one file");
        let mut bytes = fs::read(&file).unwrap();
        bytes[damage].fill(b'x');
        fs::write(&file, &bytes).unwrap();
        is_refused(&folder, &["keypool.db", "damaged", "restore"]).await;
    }
    let folder = Folder::new(&pool(&mock, 1));
    fs::write(
        folder.path("keypool.db"),
        "not a database, but a note of mine",
    )
    .unwrap();
    is_refused(&folder, &["keypool.db"]).await;
}

/// Root may write everything, so it gives that right up for this.
const WITHOUT_RIGHTS: &str = "{ [ \"$(id -u)\" != 0 ] || exec setpriv --bounding-set -dac_override,-dac_read_search -- \"$0\" \"$@\"; }";

#[tokio::test]
async fn a_database_that_cannot_be_written_is_named_and_works_later() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "[admin]\ntoken = \"{TOKEN}\"\n[store]\nmaster_key = \"{MARK}-master-key\"\n{}",
        pool(&mock, 1)
    );
    let set_rights = |folder: &Folder, name: &str, mode: u32| {
        let rights = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.path(name), rights).unwrap();
    };
    // There is none, and none can be made.
    let folder = Folder::new(&config);
    set_rights(&folder, "", 0o500);
    let start = || Process::start_after(&folder, WITHOUT_RIGHTS, &SERVE);
    is_refused_as(
        &folder,
        start,
        &["keypool.db", "cannot be written", "the right to write"],
    )
    .await;
    set_rights(&folder, "", 0o700);
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    gw.stop().await;
    // It cannot be read.
    set_rights(&folder, "keypool.db", 0);
    is_refused_as(&folder, start, &["keypool.db"]).await;
    // It can be read only: what is stored is served, and nothing is changed.
    set_rights(&folder, "keypool.db", 0o400);
    let process = Process::start_after(&folder, WITHOUT_RIGHTS, &SERVE);
    let gw = Gateway {
        token: TOKEN.to_owned(),
        ..Gateway::of(process).await
    };
    let reply = gw
        .api("POST", "pools/own/keys", json!({ "key": key(2) }))
        .await;
    let detail = problem(&reply, 503, "store_not_writable");
    assert!(detail.contains("the right to write"), "{detail}");
    assert_eq!(gw.chat().await.status, 200);
    gw.store_is_degraded(true).await;
    gw.stop().await;
    set_rights(&folder, "keypool.db", 0o600);
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    assert_eq!(gw.read("pools/own").await["keys"]["total"], 0);
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(2) }))
            .await,
        201,
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_second_server_on_one_file_is_refused() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let folder = Arc::clone(gw.folder());
    is_refused(
        &folder,
        &["another keypool server uses the database", "keypool.db"],
    )
    .await;
    // Another folder that names the same file.
    let url = format!(
        "[store]\nurl = \"sqlite://{}\"\n",
        folder.path("keypool.db").display()
    );
    is_refused(
        &Folder::new(&(url + &pool(&mock, 1))),
        &["another keypool server"],
    )
    .await;
    assert_eq!(gw.chat().await.status, 200);
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    let gw = gw.restarted().await;
    assert_eq!(names(&gw.read("pools").await), ["own", "p"]);
    gw.stop().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named() {
    let mock = Mock::start().await.unwrap();
    for place in [
        "/proc/keypool.db",
        "no/such/folder/keypool.db",
        "keypool.toml/keypool.db",
    ] {
        let config = format!(
            "[admin]\ntoken = \"operator-{MARK}-token\"\n[store]\nurl = \"sqlite://{place}\"\nmaster_key = \"{MARK}-master-key\"\n{}",
            pool(&mock, 1)
        );
        is_refused(&Folder::new(&config), &["keypool.db"]).await;
    }
}

#[tokio::test]
async fn a_newer_schema_and_a_wrong_master_key_of_postgresql_are_refused() {
    let (mock, server) = (
        Mock::start().await.unwrap(),
        PostgresServer::start().await.unwrap(),
    );
    let config = pool(&mock, 1) + &postgres_config(&server.url());
    let gw = node(&config).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    let folder = Arc::clone(gw.folder());
    gw.stop().await;
    let revision = async || {
        server
            .execute("SELECT revision, key_id FROM meta")
            .await
            .unwrap()
    };
    let before = revision().await;
    folder.write("keypool.toml", &config.replace("master-key", "other-key"));
    is_refused(&folder, &["cannot use the store", "master key"]).await;
    folder.write("keypool.toml", &config);
    server
        .execute("UPDATE keypool_schema SET version = version + 1")
        .await
        .unwrap();
    is_refused(
        &folder,
        &["cannot use the store", "schema", "version of keypool"],
    )
    .await;
    assert_eq!(revision().await, before);
    server
        .execute("UPDATE keypool_schema SET version = version - 1")
        .await
        .unwrap();
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    assert_eq!(names(&gw.read("pools").await), ["own", "p"]);
    gw.stop().await;
    let no_database = config.replace("/postgres\"", "/nothing_here\"");
    assert_ne!(no_database, config);
    folder.write("keypool.toml", &no_database);
    let gw = Gateway::start_again(&folder, TOKEN.to_owned()).await;
    assert_eq!(gw.chat().await.status, 200, "it may be created yet");
    assert_eq!(
        gw.admin("GET", "/readyz").await.json()["store_is_degraded"],
        true
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_stolen_database_has_no_secret_in_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    ok(
        &gw.api("PUT", "pools/own", stored_pool(&mock, "own-*"))
            .await,
        201,
    );
    ok(
        &gw.api("POST", "pools/own/keys", json!({ "key": key(77) }))
            .await,
        201,
    );
    ok(
        &gw.api("PATCH", "pools/own/keys/own-1", json!({ "key": key(78) }))
            .await,
        200,
    );
    let text = [("content-type", "text/plain")];
    let import = format!("{}\n{}\n", key(79), key(80));
    ok(
        &gw.api_raw("POST", "pools/own/keys/import", &text, import.as_bytes())
            .await,
        200,
    );
    assert_eq!(gw.chat().await.status, 200);
    let chosen = json!({ "name": "chosen", "key": chosen_secret("chosen") });
    ok(&gw.api("POST", "virtual-keys", chosen).await, 201);
    let made = gw
        .api("POST", "virtual-keys", json!({ "name": "made" }))
        .await;
    let made = ok(&made, 201)["key"].as_str().unwrap().to_owned();
    assert_eq!(gw.chat_as(&made).await.status, 200);
    ok(
        &gw.api("POST", "virtual-keys/made/rotate", Value::Null)
            .await,
        200,
    );
    let token = gw.token.clone();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    let folder = Arc::clone(gw.folder());
    let master_key = fs::read_to_string(folder.path("keypool.master-key")).unwrap();
    let search = |when: &str| {
        let files = contents(&folder.path(""));
        let database = files
            .iter()
            .filter(|(name, _)| name.starts_with("keypool.db"));
        let mut searched = 0;
        for (name, bytes) in database {
            searched += bytes.len();
            for secret in [MARK, &made, &made[3..], token.trim(), master_key.trim()] {
                let found = bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes());
                assert!(!found, "{when}: a secret is in {name}");
            }
        }
        assert!(searched > 10_000, "{when}: {searched} bytes");
        for name in files.keys().filter(|name| name.starts_with("keypool.db")) {
            let mode = fs::metadata(folder.path(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{when}: others can read {name}");
        }
    };
    search("while it runs");
    gw.stop().await;
    search("after it");
}
