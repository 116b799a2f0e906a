//! The PostgreSQL servers of the tests: they keep their data when killed, respond to nothing when paused, and leave nothing.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use keypool_testkit::{PostgresOptions, PostgresServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Whether the port accepts a connection and the server responds to a request for encryption, as it does before any login.
async fn responds(server: &PostgresServer) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(server.addr()).await?;
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
        stream.read_u8().await
    };
    timeout(Duration::from_millis(300), asked)
        .await
        .is_ok_and(|answer| answer.is_ok())
}

/// Processes that work in this folder, as all of a server do.
fn processes_in(folder: &Path) -> usize {
    let folders = std::fs::read_dir("/proc").unwrap();
    let folders =
        folders.filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("cwd")).ok());
    folders.filter(|at| at.starts_with(folder)).count()
}

async fn folder_of(server: &PostgresServer) -> PathBuf {
    let data = server.execute("SHOW data_directory").await.unwrap();
    PathBuf::from(data).parent().unwrap().to_path_buf()
}

#[tokio::test]
async fn rows_are_text_and_errors_have_their_code() {
    let server = PostgresServer::start().await.unwrap();
    assert!(responds(&server).await);
    let url = format!("postgres://keypool@{}/postgres", server.addr());
    assert_eq!(server.url(), url);
    let rows =
        "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, NULL); SELECT * FROM t";
    assert_eq!(server.execute(rows).await.unwrap(), "1|x\n2|");
    let error = server.execute("SELECT * FROM missing").await.unwrap_err();
    assert!(error.to_string().starts_with("42P01: "), "{error}");
    let version = server.execute("SHOW server_version_num").await.unwrap();
    assert!(version.parse::<u32>().unwrap() >= 130_000, "{version}");
    assert_eq!(server.execute("SHOW fsync").await.unwrap(), "off");
}

#[tokio::test]
async fn servers_of_one_process_are_separate_and_have_their_settings() {
    let options = PostgresOptions::default()
        .setting("fsync", "on")
        .setting("application_name", "it's");
    let (one, other) = tokio::join!(PostgresServer::start(), options.start());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(other.execute("SHOW fsync").await.unwrap(), "on");
    assert_eq!(
        other.execute("SHOW application_name").await.unwrap(),
        "it's"
    );
    one.execute("CREATE TABLE t ()").await.unwrap();
    assert!(other.execute("SELECT * FROM t").await.is_err());
    assert!(
        PostgresOptions::default()
            .setting("no_such", "1")
            .start()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_killed_server_is_gone_and_restarts_with_its_data() {
    let mut server = PostgresServer::start().await.unwrap();
    let folder = folder_of(&server).await;
    server
        .execute("CREATE TABLE t AS SELECT 7 AS n")
        .await
        .unwrap();
    let addr = server.addr();
    // A session in the middle of its work, whose process has to end too.
    let work = timeout(
        Duration::from_millis(100),
        server.execute("SELECT pg_sleep(60)"),
    );
    assert!(work.await.is_err());
    assert!(processes_in(&folder) > 1);
    server.kill().unwrap();
    assert!(!responds(&server).await);
    assert_eq!(processes_in(&folder), 0);
    assert!(server.pause().is_err());
    server.restart().await.unwrap();
    assert_eq!(server.addr(), addr);
    assert_eq!(server.execute("SELECT n FROM t").await.unwrap(), "7");
    server.restart().await.unwrap();
    assert_eq!(server.execute("SELECT n FROM t").await.unwrap(), "7");
}

#[tokio::test]
async fn a_paused_server_responds_when_it_is_resumed() {
    let server = PostgresServer::start().await.unwrap();
    server.pause().unwrap();
    assert!(!responds(&server).await);
    let waiting = timeout(Duration::from_millis(100), server.execute("SELECT 1")).await;
    assert!(waiting.is_err(), "{waiting:?}");
    server.resume().unwrap();
    assert!(responds(&server).await);
    assert_eq!(server.execute("SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process_and_no_folder() {
    let mut killed = PostgresServer::start().await.unwrap();
    let server = PostgresServer::start().await.unwrap();
    let folders = [folder_of(&killed).await, folder_of(&server).await];
    assert!(folders.iter().all(|folder| folder.is_dir()));
    killed.kill().unwrap();
    drop((killed, server));
    for folder in folders {
        assert!(!folder.exists(), "{}", folder.display());
        assert_eq!(processes_in(&folder), 0);
    }
}
