//! What only the store in a file does.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keypool_backends::store::{MasterKey, SqliteStore};
use keypool_core::store::{CatalogStore, StoreErrorKind};

use crate::backend::{Directory, master_key};
use crate::data::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, &master_key()).await.unwrap()
}

/// A closed store with one key.
async fn store_with_a_key(directory: &Directory, name: &str) -> PathBuf {
    let path = directory.path("keypool.db");
    let store = open(&path).await;
    change(&store, add_keys("p", &[(name, "sk-1")]))
        .await
        .unwrap();
    store.close().await;
    path
}

async fn names(path: &Path) -> Vec<String> {
    let store = SqliteStore::open_for_reading(path, &master_key())
        .await
        .unwrap();
    let catalog = store.catalog().await.unwrap();
    catalog
        .keys
        .iter()
        .map(|key| key.name.to_string())
        .collect()
}

#[tokio::test]
async fn a_new_file_is_readable_by_its_owner_only() {
    let directory = Directory::new();
    let path = directory.path("keypool.db");
    let store = open(&path).await;
    change(&store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    for name in [
        "keypool.db",
        "keypool.db-wal",
        "keypool.db-shm",
        "keypool.db.lock",
    ] {
        assert_eq!(mode(&directory.path(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_second_server_on_the_file_is_refused() {
    let directory = Directory::new();
    let path = directory.path("keypool.db");
    let store = open(&path).await;
    let error = SqliteStore::open(&path, &master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::InUse);
    assert!(error.message.contains("keypool.db"), "{error}");
    drop(store);
    open(&path).await;
}

#[tokio::test]
async fn a_file_is_new_until_a_store_was_opened_in_it() {
    let directory = Directory::new();
    let path = directory.path("keypool.db");
    assert!(SqliteStore::is_new(&path).await.unwrap());
    fs::write(&path, "").unwrap();
    assert!(SqliteStore::is_new(&path).await.unwrap());
    let store = open(&path).await;
    assert!(
        !SqliteStore::is_new(&path).await.unwrap(),
        "while a server runs"
    );
    drop(store);
    assert!(!SqliteStore::is_new(&path).await.unwrap());
}

#[tokio::test]
async fn a_store_is_read_while_a_server_runs() {
    let directory = Directory::new();
    let path = directory.path("keypool.db");
    let missing = SqliteStore::open_for_reading(&path, &master_key()).await;
    assert_eq!(missing.err().unwrap().kind, StoreErrorKind::Missing);
    assert!(!path.exists());

    let server = open(&path).await;
    change(&server, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    assert_eq!(names(&path).await, ["k"]);
    let wrong = SqliteStore::open_for_reading(&path, &MasterKey::new("wrong")).await;
    assert_eq!(wrong.err().unwrap().kind, StoreErrorKind::WrongMasterKey);
    let reader = SqliteStore::open_for_reading(&path, &master_key())
        .await
        .unwrap();
    let refused = change(&reader, add_keys("p", &[("l", "sk-2")])).await;
    assert_eq!(kind(refused), StoreErrorKind::NotWritable);
    change(&server, add_keys("p", &[("l", "sk-2")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_directory_that_is_missing_or_a_file_instead_is_named() {
    let directory = Directory::new();
    let path = directory.path("missing/keypool.db");
    let error = SqliteStore::open(&path, &master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::NotWritable);
    assert!(error.message.contains("create its directory"), "{error}");
    let error = SqliteStore::open(&directory.path(""), &master_key())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind, StoreErrorKind::NotWritable, "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_the_way_to_restore_it() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    fs::write(
        &path,
        "This is not a database, but it is long enough to be taken for one. ".repeat(99),
    )
    .unwrap();
    let error = SqliteStore::open(&path, &master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Internal);
    assert!(error.message.contains("keypool store restore"), "{error}");
    assert!(error.message.contains("keypool.db"), "{error}");
    let is_new = SqliteStore::is_new(&path).await;
    assert_eq!(kind(is_new), StoreErrorKind::Internal);
}

#[tokio::test]
async fn a_backup_of_a_running_store_is_restored() {
    let directory = Directory::new();
    let (path, backup) = (directory.path("keypool.db"), directory.path("backup.db"));
    let store = open(&path).await;
    change(&store, add_keys("p", &[("kept", "sk-1")]))
        .await
        .unwrap();
    // What a backup that was killed has left.
    let partial = directory.path("backup.db.partial");
    fs::write(&partial, "half").unwrap();
    SqliteStore::backup(&path, &backup).await.unwrap();
    assert_eq!(mode(&backup), 0o600);
    assert!(!partial.exists());
    change(&store, add_keys("p", &[("later", "sk-2")]))
        .await
        .unwrap();
    let again = SqliteStore::backup(&path, &backup).await;
    assert_eq!(kind(again), StoreErrorKind::NameTaken);
    assert_eq!(names(&backup).await, ["kept"]);

    let running = SqliteStore::restore(&backup, &path).await;
    assert_eq!(kind(running), StoreErrorKind::InUse);
    drop(store);
    SqliteStore::restore(&backup, &path).await.unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(&path).await, ["kept"]);
    assert_eq!(
        names(&directory.path("keypool.db.before-restore")).await,
        ["kept", "later"]
    );
    let store = open(&path).await;
    change(&store, add_keys("p", &[("new", "sk-3")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_backup_is_restored_in_the_place_of_a_damaged_or_lost_file() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    let backup = directory.path("backup.db");
    SqliteStore::backup(&path, &backup).await.unwrap();
    fs::write(&path, "damaged").unwrap();
    fs::write(directory.path("keypool.db-wal"), "of the damaged one").unwrap();
    SqliteStore::restore(&backup, &path).await.unwrap();
    assert_eq!(names(&path).await, ["k"]);
    fs::remove_file(&path).unwrap();
    SqliteStore::restore(&backup, &path).await.unwrap();
    assert_eq!(names(&path).await, ["k"]);
}

#[tokio::test]
async fn each_restore_keeps_the_store_before_under_another_name() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "first").await;
    let backup = directory.path("backup.db");
    SqliteStore::backup(&path, &backup).await.unwrap();
    let store = open(&path).await;
    change(&store, add_keys("p", &[("second", "sk-2")]))
        .await
        .unwrap();
    store.close().await;
    drop(store);
    let kept = "keypool.db.before-restore";
    for (name, keys) in [
        (kept.to_owned(), Some(vec!["first", "second"])),
        (format!("{kept}-2"), Some(vec!["first"])),
        (format!("{kept}-3"), None),
        (format!("{kept}-4"), Some(vec!["first"])),
    ] {
        if keys.is_none() {
            fs::write(&path, "damaged").unwrap();
        }
        let kept = SqliteStore::restore(&backup, &path).await.unwrap().unwrap();
        assert_eq!(kept.file_name().unwrap(), &*name);
        match keys {
            Some(keys) => assert_eq!(names(&kept).await, keys),
            None => assert_eq!(fs::read(&kept).unwrap(), b"damaged"),
        }
        assert_eq!(names(&path).await, ["first"]);
    }
    assert_eq!(names(&directory.path(kept)).await, ["first", "second"]);
}

#[tokio::test]
async fn a_symbolic_link_is_the_file_that_it_leads_to() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    let (link, backup) = (directory.path("link.db"), directory.path("backup.db"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let store = open(&path).await;
    let error = SqliteStore::open(&link, &master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::InUse);
    drop(store);
    SqliteStore::backup(&link, &backup).await.unwrap();
    SqliteStore::restore(&backup, &link).await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(directory.path("keypool.db.before-restore").exists());
    assert_eq!(names(&path).await, ["k"]);
}

#[tokio::test]
async fn a_copy_of_a_database_is_restored_with_its_log() {
    let directory = Directory::new();
    let (path, backup) = (directory.path("keypool.db"), directory.path("backup.db"));
    let store = open(&path).await;
    change(&store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    fs::copy(&path, &backup).unwrap();
    let log = directory.path("keypool.db-wal");
    fs::copy(&log, directory.path("backup.db-wal")).unwrap();
    drop(store);
    let restored = directory.path("restored.db");
    SqliteStore::restore(&backup, &restored).await.unwrap();
    assert_eq!(mode(&restored), 0o600);
    assert_eq!(names(&restored).await, ["k"]);
}

#[tokio::test]
async fn no_empty_store_is_made_where_a_restore_was_interrupted() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    let backup = directory.path("backup.db");
    SqliteStore::backup(&path, &backup).await.unwrap();
    fs::write(directory.path("keypool.db.restoring"), "half").unwrap();
    open(&path).await;
    fs::remove_file(&path).unwrap();
    let error = SqliteStore::open(&path, &master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Missing);
    assert!(error.message.contains("keypool store restore"), "{error}");
    assert!(!path.exists());
    assert_eq!(SqliteStore::restore(&backup, &path).await.unwrap(), None);
    assert_eq!(names(&path).await, ["k"]);
}

#[tokio::test]
async fn what_is_no_backup_is_not_restored() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    let backup = directory.path("backup.db");
    let error = SqliteStore::restore(&backup, &path).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Missing);
    assert!(error.message.contains("cannot read the backup"), "{error}");

    fs::write(&backup, "some notes ".repeat(1_000)).unwrap();
    let error = SqliteStore::restore(&backup, &path).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Internal);
    assert!(error.message.contains("backup.db"), "{error}");

    fs::remove_file(&backup).unwrap();
    sql(&backup, "CREATE TABLE recipes (name TEXT)").await;
    let error = SqliteStore::restore(&backup, &path).await.unwrap_err();
    assert!(error.message.contains("no database of keypool"), "{error}");
    let error = SqliteStore::backup(&backup, &directory.path("copy.db"))
        .await
        .unwrap_err();
    assert!(error.message.contains("no database of keypool"), "{error}");
    assert!(!directory.path("copy.db").exists());

    fs::remove_file(&backup).unwrap();
    SqliteStore::backup(&path, &backup).await.unwrap();
    sql(&backup, "UPDATE keypool_schema SET version = 99").await;
    assert_eq!(
        kind(SqliteStore::restore(&backup, &path).await),
        StoreErrorKind::NewerSchema
    );
    let mut damaged = fs::read(&backup).unwrap();
    sql(&backup, "UPDATE keypool_schema SET version = 1").await;
    damaged.truncate(damaged.len() / 2);
    fs::write(&backup, damaged).unwrap();
    assert_eq!(
        kind(SqliteStore::restore(&backup, &path).await),
        StoreErrorKind::Internal
    );

    assert_eq!(names(&path).await, ["k"]);
    assert!(!directory.path("keypool.db.restoring").exists());
    assert!(!directory.path("keypool.db.before-restore").exists());
}

async fn sql(path: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}

#[tokio::test]
async fn a_file_with_the_rights_of_everyone_is_still_opened() {
    let directory = Directory::new();
    let path = store_with_a_key(&directory, "k").await;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(open(&path).await.catalog().await.unwrap().keys.len(), 1);
}
