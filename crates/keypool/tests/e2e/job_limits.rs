//! Bounds of jobs: how many may be queued, what waiting for them costs, and a disk that is full.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, PostgresServer, Step};
use tokio::task::JoinSet;

use crate::harness::{
    CHAT, Folder, Gateway, PoolConfig, Process, bearer, key, pool, virtual_key, within,
};
use crate::store_kit::{node, postgres_config};

#[tokio::test]
async fn a_caller_with_too_many_jobs_is_refused_and_others_are_not() {
    let mock = Mock::start().await.unwrap();
    let pool = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let callers = ["a", "b"].map(|name| virtual_key(name, "")).concat();
    let limits = "[jobs]\nmax_queued = 4\nmax_queued_per_caller = 3\n";
    let gw = Gateway::start(&(pool.to_string() + limits + &callers)).await;
    mock.script(&key(1), [Step::Hang]);
    let (a, b) = (bearer("a"), bearer("b"));
    let (a, b) = (("authorization", &*a), ("authorization", &*b));
    let mut of_a = Vec::new();
    for _ in 0..3 {
        of_a.push(gw.job(CHAT, &[a]).await);
    }
    let refused = gw.submit(CHAT, &[a]).await;
    assert_eq!(
        (refused.status, refused.code()),
        (429, "job_limit_exceeded".to_owned())
    );
    assert!(
        refused.message().contains("max_queued_per_caller"),
        "{refused:?}"
    );
    assert!(refused.header("retry-after").is_some());
    gw.job(CHAT, &[b]).await;
    let full = gw.submit(CHAT, &[b]).await;
    assert!(full.message().contains("[jobs] max_queued)"), "{full:?}");
    let cancel = async |id: &str| {
        let path = format!("/v1/jobs/{id}");
        assert_eq!(gw.send("DELETE", &path, &[a], b"").await.status, 200);
    };
    cancel(&of_a[2]).await;
    let last = gw.job(CHAT, &[b]).await;
    cancel(&of_a[0]).await;
    assert_eq!(gw.ended(&last, &[b]).await["status"], "succeeded");
    gw.stop().await;
}

/// However many wait for a job, the database is asked a few times a second.
#[tokio::test]
async fn many_who_wait_cost_the_database_no_more_than_one() {
    const CLIENTS: usize = 300;
    let mock = Mock::start().await.unwrap();
    let server = PostgresServer::start().await.unwrap();
    let gw = Arc::new(node(&(pool(&mock, 1) + &postgres_config(&server.url()))).await);
    mock.script(&key(1), [Step::Hang]);
    let id = gw.job(CHAT, &[]).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    let mut waiting = JoinSet::new();
    for _ in 0..CLIENTS {
        let (gw, path) = (Arc::clone(&gw), format!("/v1/jobs/{id}?wait=25s"));
        waiting.spawn(async move { gw.get(&path).await });
    }
    let transactions = async || {
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        server
            .execute(sql)
            .await
            .unwrap()
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    // Until all have read the job once, and the statistics show it.
    let mut before = transactions().await;
    let mut settled = 0;
    while settled < 3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = transactions().await;
        settled = if now - before < 20 { settled + 1 } else { 0 };
        before = now;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = transactions().await - before;
    assert!(spent < 60, "{spent} transactions in 2 s");
    assert!(waiting.try_join_next().is_none(), "all of them wait");
    assert_eq!(gw.job_call("DELETE", &id).await.status, 200);
    while let Some(reply) = within(waiting.join_next()).await {
        assert_eq!(reply.unwrap().json()["status"], "cancelled");
    }
    Arc::into_inner(gw).unwrap().stop().await;
}

/// A limit on the size of files stands for the end of the disk.
#[tokio::test]
async fn what_was_acknowledged_before_the_disk_was_full_is_not_lost() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let folder = Folder::new(&config.to_string());
    Gateway::start_in(&folder).await.stop().await;
    mock.script(&key(1), [Step::Hang]);
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let process = Process::start_after(&folder, "trap '' XFSZ; ulimit -f 3000", &args);
    let gw = Gateway::of(process).await;
    let body = CHAT.replace("hello", &"long ".repeat(10_000));
    let mut acknowledged = Vec::new();
    let refused = loop {
        let reply = gw.submit(&body, &[]).await;
        if reply.status != 202 {
            break reply;
        }
        acknowledged.push(crate::jobs::id(&reply));
        assert!(acknowledged.len() < 100, "the disk is never full");
    };
    assert_eq!(
        (refused.status, refused.code()),
        (503, "store_unavailable".to_owned())
    );
    assert!(acknowledged.len() > 3, "{}", acknowledged.len());
    drop(gw.killed().await);
    let gw = Gateway::start_in(&folder).await;
    for id in &acknowledged {
        assert_eq!(gw.ended(id, &[]).await["status"], "succeeded");
    }
    gw.stop().await;
}
