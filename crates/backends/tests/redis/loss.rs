//! Connections that are lost, and servers that come back.

use std::time::Duration;

use keypool_backends::limiter::redis::RedisError;
use keypool_testkit::{RedisOptions, RedisServer, StallingProxy};
use tokio::time::{Instant, sleep};

use crate::harness::{client, count, impatient, recovered, target};

#[tokio::test]
async fn a_server_that_is_not_there_fails_calls_at_once() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().unwrap();
    let client = client(target(server.addr()));
    let error = count(&client, "k").await.unwrap_err();
    assert_eq!(error.code(), "redis_unreachable", "{error}");
    let begun = Instant::now();
    for _ in 0..1000 {
        assert_eq!(
            count(&client, "k").await.unwrap_err().code(),
            "redis_unreachable"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(client.problem().unwrap().code(), "redis_unreachable");
}

#[tokio::test]
async fn a_server_that_restarts_empty_is_used_again_at_once() {
    let mut server = RedisServer::start().await.unwrap();
    let client = client(target(server.addr()));
    for _ in 0..3 {
        assert_eq!(count(&client, "k").await, Ok(1));
        server.kill().unwrap();
        let error = count(&client, "k").await.unwrap_err();
        assert_eq!(error.code(), "redis_unreachable", "{error}");
        // Long enough for several attempts to connect.
        sleep(Duration::from_millis(300)).await;
        server.restart_empty().await.unwrap();
        let begun = Instant::now();
        assert_eq!(recovered(&client, "k").await, 1);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(client.problem(), None);
        server.command(&["FLUSHALL"]).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_pause_calls_fail_at_once_and_then_succeed_again() {
    let server = RedisServer::start().await.unwrap();
    let client = impatient(target(server.addr()));
    assert_eq!(count(&client, "k").await, Ok(1));
    server.pause().unwrap();
    assert_eq!(count(&client, "k").await, Err(RedisError::Timeout));
    // The attempt to connect again ends without success.
    let down = async {
        while client
            .problem()
            .is_none_or(|problem| problem.to_string().contains("still connecting"))
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), down)
        .await
        .unwrap();
    let begun = Instant::now();
    assert!(count(&client, "k").await.is_err());
    assert!(
        begun.elapsed() < Duration::from_millis(90),
        "{:?}",
        begun.elapsed()
    );
    server.resume().unwrap();
    let begun = Instant::now();
    // The call that timed out had been sent, and ran when the server continued.
    assert_eq!(recovered(&client, "k").await, 3);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_connection_that_is_cut_is_replaced() {
    let server = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(server.addr()).await.unwrap();
    let client = client(target(proxy.addr()));
    for n in 1..=5 {
        assert_eq!(recovered(&client, "k").await, n);
        proxy.cut();
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_noticed() {
    let server = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(server.addr()).await.unwrap();
    let client = impatient(target(proxy.addr()));
    assert_eq!(count(&client, "k").await, Ok(1));
    proxy.stall();
    assert_eq!(count(&client, "k").await, Err(RedisError::Timeout));
    sleep(Duration::from_millis(600)).await;
    let error = count(&client, "k").await.unwrap_err();
    assert!(client.problem().is_some(), "{error}");
    // What was swallowed never comes: only a new connection helps.
    proxy.cut();
    proxy.pass();
    let begun = Instant::now();
    assert_eq!(recovered(&client, "other").await, 1);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

/// Behind the name of a primary, a former primary may answer: a new connection may lead elsewhere.
#[tokio::test]
async fn a_replica_is_connected_to_again_but_not_for_every_call() {
    let primary = RedisServer::start().await.unwrap();
    let options = RedisOptions::default().replica_of(&primary);
    let replica = options.start().await.unwrap();
    let client = client(target(replica.addr()));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(count(&client, "k").await, Err(RedisError::ReadOnly));
    }
    let info = replica.command(&["INFO", "clients"]).await.unwrap();
    let ids = replica.command(&["CLIENT", "LIST"]).await.unwrap();
    let newest = ids
        .lines()
        .filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
    let newest: u64 = newest.filter_map(|id| id.parse().ok()).max().unwrap();
    // Some of them are those of the test itself.
    assert!((4..20).contains(&newest), "{newest} connections: {info}");
}

#[tokio::test]
async fn one_slow_call_does_not_cost_the_connection() {
    let server = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(server.addr()).await.unwrap();
    let client = impatient(target(proxy.addr()));
    assert_eq!(count(&client, "k").await, Ok(1));
    proxy.delay(Duration::from_millis(20));
    for n in 2..=4 {
        assert_eq!(count(&client, "k").await, Ok(n));
    }
    let list = server.command(&["CLIENT", "LIST"]).await.unwrap();
    let ours = list.lines().filter(|line| line.contains("laddr=127.0.0.1"));
    let ages: Vec<&str> = ours.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ages.len(), 1, "{list}");
}

#[tokio::test]
async fn a_client_that_is_dropped_closes_its_connection() {
    let server = RedisServer::start().await.unwrap();
    let gone = client(target(server.addr()));
    assert_eq!(count(&gone, "k").await, Ok(1));
    drop(gone);
    let closed = async {
        while server
            .command(&["CLIENT", "LIST"])
            .await
            .unwrap()
            .contains("laddr=127.0.0.1")
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .unwrap();
}
