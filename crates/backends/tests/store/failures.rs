//! What the database cannot do.

use std::io::{BufRead, BufReader};
use std::process::Command;

use keypool_backends::store::PostgresStore;
use keypool_core::store::{CatalogStore, Expected, Store, StoreErrorKind};

use crate::backend::{Backend, master_key, on_every_store};
use crate::child;
use crate::data::*;
use crate::postgres::PostgresServer;

/// Makes the end of each transaction fail that writes an entry of the audit log, or notes a flush.
fn fail_commits(backend: &Backend) -> &'static str {
    if backend.url().starts_with("sqlite") {
        "CREATE TABLE refusal (id INTEGER PRIMARY KEY);
         CREATE TABLE refused (id INTEGER REFERENCES refusal (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER refuse_audit AFTER INSERT ON audit BEGIN INSERT INTO refused VALUES (1); END;
         CREATE TRIGGER refuse_batch AFTER INSERT ON flushes BEGIN INSERT INTO refused VALUES (1); END;"
    } else {
        "CREATE FUNCTION refuse() RETURNS TRIGGER AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$ LANGUAGE plpgsql;
         CREATE CONSTRAINT TRIGGER refuse_audit AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION refuse();
         CREATE CONSTRAINT TRIGGER refuse_batch AFTER INSERT ON flushes DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION refuse();"
    }
}

/// All that can be read.
async fn everything(store: &dyn Store) -> String {
    let catalog = store.catalog().await.unwrap();
    let secrets: Vec<_> = catalog
        .keys
        .iter()
        .map(|key| key.secret.expose().to_owned())
        .collect();
    format!(
        "{catalog:?} {secrets:?} {:?} {:?} {:?}",
        store.key_records(0).await.unwrap(),
        store.audit_log(None, 100).await.unwrap(),
        store.objects(None, 100).await.unwrap(),
    )
}

async fn a_commit_that_fails_leaves_every_row_as_it_was(backend: Backend) {
    let store = backend.store();
    change(store, put_pool("p", "{}", Expected::Any))
        .await
        .unwrap();
    change(store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    store
        .change_key_states(&[told("a", 4.0, at(1))], None, at(1))
        .await
        .unwrap();
    let before = everything(store).await;
    backend.sql(fail_commits(&backend)).await;

    let log = audit("refresh", at(2));
    let mut noted = flush(1, 1);
    noted.keys.push(key_use("a", 1, 0));
    let errors = [
        kind(change(store, put_pool("p", "{\"new\":1}", Expected::Any)).await),
        kind(change(store, add_keys("p", &[("l", "sk-2"), ("m", "sk-3")])).await),
        kind(
            store
                .change_key_states(
                    &[told("a", 9.0, at(2)), told("b", 9.0, at(2))],
                    Some(&log),
                    at(2),
                )
                .await,
        ),
        kind(store.record(&noted).await),
    ];
    assert_eq!(errors, [StoreErrorKind::Internal; 4]);
    assert_eq!(everything(store).await, before);
    // The connection is as good as before.
    store
        .change_key_states(&[told("a", 9.0, at(2))], None, at(2))
        .await
        .unwrap();
    assert_eq!(store.revision().await.unwrap(), 4);
}

async fn changes_at_the_same_time_take_one_revision_each(backend: Backend) {
    let store = backend.store();
    let puts = (0..40).map(|_| change(store, put_pool("p", "{}", Expected::Any)));
    let records = (1..20).map(|number| async move {
        let mut noted = flush(number, 1);
        noted.keys.push(key_use("a", 1, 0));
        store.record(&noted).await.unwrap();
    });
    let (revisions, _) = tokio::join!(
        futures_util::future::join_all(puts),
        futures_util::future::join_all(records)
    );
    let mut revisions: Vec<u64> = revisions.into_iter().map(Result::unwrap).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<u64>>());
    assert_eq!(store.catalog().await.unwrap().pools[0].version, 40);
    assert_eq!(store.audit_log(None, 100).await.unwrap().len(), 40);
    assert_eq!(store.key_records(0).await.unwrap()[0].total, 19);
}

on_every_store! {
    a_commit_that_fails_leaves_every_row_as_it_was,
    changes_at_the_same_time_take_one_revision_each,
}

#[tokio::test]
async fn two_nodes_on_one_postgresql_change_one_after_the_other() {
    let backend = Backend::postgres().await;
    let other = backend.open(&master_key()).await.unwrap();
    let nodes = [backend.store(), &*other];
    for version in 1..=20 {
        change(nodes[version % 2], put_pool("p", "{}", Expected::Any))
            .await
            .unwrap();
        let put = || {
            put_pool(
                "q",
                "{}",
                if version == 1 {
                    Expected::Absent
                } else {
                    Expected::Version(version as u64 - 1)
                },
            )
        };
        let (one, two) = tokio::join!(change(nodes[0], put()), change(nodes[1], put()));
        let refused = one.is_err();
        let errors: Vec<_> = [one, two]
            .into_iter()
            .filter_map(Result::err)
            .map(|error| error.kind)
            .collect();
        let expected = if version == 1 {
            StoreErrorKind::NameTaken
        } else {
            StoreErrorKind::VersionMismatch
        };
        assert_eq!(
            errors,
            [expected],
            "one of both is made (the first: {})",
            !refused
        );
    }
    for node in nodes {
        assert_eq!(node.revision().await.unwrap(), 40);
        assert_eq!(node.catalog().await.unwrap().pools[1].version, 20);
    }
}

#[tokio::test]
async fn nodes_that_start_at_once_prepare_one_store() {
    let server = PostgresServer::shared().await;
    let url = server.create_database().await;
    let nodes: Vec<_> = (0..4)
        .map(|_| PostgresStore::new(&url, &master_key()).unwrap())
        .collect();
    let added = nodes.iter().enumerate().map(|(number, node)| async move {
        let (name, secret) = (format!("k{number}"), format!("sk-{number}"));
        change(node, add_keys("p", &[(&name, &secret)]))
            .await
            .unwrap();
    });
    futures_util::future::join_all(added).await;
    for node in &nodes {
        assert_eq!(node.catalog().await.unwrap().keys.len(), 4);
    }
}

#[tokio::test]
async fn who_only_reads_creates_no_tables() {
    let server = PostgresServer::shared().await;
    let url = server.create_database().await;
    let reader = || PostgresStore::new_for_reading(&url, &master_key()).unwrap();
    assert_eq!(kind(reader().catalog().await), StoreErrorKind::Missing);
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let sql = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
    let tables: i64 = sqlx::query_scalar(sql)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 0);
    let store = PostgresStore::new(&url, &master_key()).unwrap();
    change(&store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    assert_eq!(reader().catalog().await.unwrap().keys.len(), 1);
}

#[tokio::test]
async fn a_store_works_again_once_postgresql_does() {
    let mut server = PostgresServer::start().await;
    let url = server.create_database().await;
    server.kill();
    let store = PostgresStore::new(&url, &master_key()).unwrap();
    let began = instant();
    let error = store.revision().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.may_pass());
    assert!(began.elapsed().as_secs_f64() < 6.0);
    assert!(
        !error.message.contains("the-password") && !error.message.contains("127.0.0.1"),
        "{error}"
    );

    server.restart().await;
    change(&store, put_pool("p", "{}", Expected::Any))
        .await
        .unwrap();
    server.kill();
    let error = change(&store, put_pool("q", "{}", Expected::Any))
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    server.restart().await;
    change(&store, put_pool("q", "{}", Expected::Any))
        .await
        .unwrap();
    assert_eq!(store.catalog().await.unwrap().pools.len(), 2);
}

#[tokio::test]
async fn a_node_that_hangs_with_the_lock_stops_others_until_the_deadline() {
    let backend = Backend::postgres().await;
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&backend.url())
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN; UPDATE meta SET revision = revision")
        .execute(&mut other)
        .await
        .unwrap();
    let began = instant();
    let error = change(backend.store(), put_pool("p", "{}", Expected::Any))
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!((4.0..8.0).contains(&began.elapsed().as_secs_f64()));
    // Reading needs no lock.
    assert_eq!(backend.store().revision().await.unwrap(), 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    change(backend.store(), put_pool("p", "{}", Expected::Any))
        .await
        .unwrap();
    assert_eq!(
        backend.store().revision().await.unwrap(),
        1,
        "the change that was given up was not made"
    );
}

/// Does its work only in the process that is stopped.
#[tokio::test]
async fn changes_of_the_process_that_hangs() {
    let Some(store) = child::store().await else {
        return;
    };
    loop {
        // The server may have ended its transaction while it was stopped.
        let _ = change(&*store, put_pool("p", "{}", Expected::Any)).await;
        child::say("made one");
    }
}

#[tokio::test]
async fn a_node_that_hangs_with_the_lock_loses_it_before_others_give_up() {
    let backend = Backend::postgres().await;
    let test = "failures::changes_of_the_process_that_hangs";
    let mut process = child::command(test, &backend.url()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("made one")));
    std::thread::spawn(move || lines.for_each(drop));
    let signal = |signal: &str| {
        let sent = Command::new("kill")
            .args([signal, &process.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    let mut waited = 0.0;
    // It has the lock most of the time, but not always.
    for _ in 0..200 {
        signal("-STOP");
        let began = instant();
        change(backend.store(), put_pool("q", "{}", Expected::Any))
            .await
            .unwrap();
        waited = began.elapsed().as_secs_f64();
        signal("-CONT");
        if waited > 3.0 {
            break;
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(waited > 3.0, "it never had the lock");
}

#[tokio::test]
async fn a_commit_that_takes_too_long_has_an_outcome_that_is_not_known() {
    let backend = Backend::postgres().await;
    backend
        .sql(
            "CREATE FUNCTION wait() RETURNS TRIGGER AS $$ BEGIN PERFORM pg_sleep(6); RETURN NULL; END $$ LANGUAGE plpgsql;
             CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION wait();",
        )
        .await;
    let error = change(backend.store(), put_pool("p", "{}", Expected::Any))
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.message.contains("not known whether"), "{error}");
}

#[tokio::test]
async fn a_server_that_accepts_no_writes_is_named_as_such() {
    let backend = Backend::postgres().await;
    // The code with which a standby refuses a transaction that may write.
    backend
        .sql(
            "CREATE FUNCTION refuse() RETURNS TRIGGER AS $$ BEGIN \
               RAISE EXCEPTION 'cannot set transaction read-write mode during recovery' USING ERRCODE = '0A000'; \
             END $$ LANGUAGE plpgsql; \
             CREATE TRIGGER refuse BEFORE UPDATE ON meta FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let error = change(backend.store(), put_pool("p", "{}", Expected::Any))
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotWritable);
    assert!(error.message.contains("primary server"), "{error}");
}

#[tokio::test]
async fn a_url_that_is_wrong_is_not_repeated() {
    for url in [
        "postgres://me:the-password@host:port/db",
        "mysql://me:the-password@host/db",
        "the-password",
    ] {
        let error = PostgresStore::new(url, &master_key()).err().unwrap();
        assert_eq!(error.kind, StoreErrorKind::Internal, "{url}");
        assert!(!error.message.contains("the-password"), "{error}");
    }
    let backend = Backend::postgres().await;
    let url = format!("{}_missing", backend.url());
    let error = PostgresStore::new(&url, &master_key())
        .unwrap()
        .revision()
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(
        error.message.contains("no database of that name"),
        "{error}"
    );
}

/// Does its work only in a process that may write no large files.
#[tokio::test]
async fn changes_of_the_process_without_space() {
    let Some(store) = child::store().await else {
        return;
    };
    let settings = format!("\"{}\"", "x".repeat(50_000));
    for number in 0..1_000 {
        if let Err(error) = change(
            &*store,
            put_pool(&format!("p{number}"), &settings, Expected::Absent),
        )
        .await
        {
            assert_eq!(error.kind, StoreErrorKind::NotWritable, "{error}");
            assert_eq!(store.catalog().await.unwrap().pools.len(), number);
            assert_eq!(store.revision().await.unwrap(), number as u64);
            child::say(&format!("made {number}"));
            return;
        }
    }
    panic!("the file grew without a limit");
}

#[tokio::test]
async fn a_file_that_cannot_grow_keeps_what_was_acknowledged() {
    let mut backend = Backend::sqlite().await;
    backend.close();
    let test = child::command(
        "failures::changes_of_the_process_without_space",
        &backend.url(),
    );
    // Writes beyond 4 MB fail, as on a full disk.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "sh"])
        .arg(test.get_program())
        .args(test.get_args());
    limited.envs(
        test.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let output = limited.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{out} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made = out
        .lines()
        .find_map(|line| line.split_once("made "))
        .unwrap()
        .1;
    let store = backend.reopen().await;
    assert_eq!(
        store.catalog().await.unwrap().pools.len(),
        made.parse::<usize>().unwrap()
    );
    change(store, put_pool("new", "{}", Expected::Absent))
        .await
        .unwrap();
}
