//! A real Redis Cluster of three primaries.

use std::time::Duration;

use keypool_backends::limiter::redis::{RedisError, Script};
use keypool_testkit::{RedisCluster, RedisServer};
use tokio::time::Instant;

use crate::harness::{client, cluster_target, count, recovered, shared_cluster, target};

const KEYS: [&str; 6] = ["kp:{a}", "kp:{b}", "kp:{c}", "kp:{d}", "kp:{e}", "kp:{f}"];

#[tokio::test]
async fn keys_of_all_primaries_are_reached_through_one_address() {
    let cluster = shared_cluster().await;
    let client = client(cluster_target(&cluster.addrs()[..1]));
    let mut primaries = Vec::new();
    for key in KEYS {
        assert_eq!(count(&client, key).await, Ok(1));
        let primary = cluster.primary_of(key).await.unwrap();
        let value = cluster.node(primary).command(&["GET", key]).await.unwrap();
        assert_eq!(value, "1", "{key}");
        primaries.push(primary);
    }
    primaries.sort_unstable();
    primaries.dedup();
    assert_eq!(primaries, [0, 1, 2], "the keys are spread");
    // Each primary loads the script on its first call, and again after a loss.
    for node in 0..3 {
        cluster
            .node(node)
            .command(&["SCRIPT", "FLUSH"])
            .await
            .unwrap();
    }
    for key in KEYS {
        assert_eq!(count(&client, key).await, Ok(2));
    }
}

#[tokio::test]
async fn keys_with_the_same_tag_are_in_one_slot_and_others_are_not() {
    let cluster = shared_cluster().await;
    let client = client(cluster_target(&cluster.addrs()));
    let both = Script::new("return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])");
    let together = client
        .run::<i64>(&both, &[b"kp:{a}:1", b"kp:{a}:2"], &[])
        .await;
    assert_eq!(together, Ok(2));
    let apart = client.run::<i64>(&both, &[b"kp:{a}", b"kp:{b}"], &[]).await;
    let error = apart.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("slot"), "{error}");
}

#[tokio::test]
async fn when_a_primary_dies_its_replica_serves_its_keys() {
    let mut cluster = RedisCluster::start_with_replicas(3).await.unwrap();
    let client = client(cluster_target(&cluster.addrs()));
    for key in KEYS {
        assert_eq!(count(&client, key).await, Ok(1));
    }
    let lost = cluster.primary_of(KEYS[0]).await.unwrap();
    cluster.fail_over(lost).await.unwrap();
    let begun = Instant::now();
    for key in KEYS {
        assert!(recovered(&client, key).await >= 1, "{key}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    for key in KEYS {
        assert!(count(&client, key).await.is_ok(), "{key}");
    }
}

#[tokio::test]
async fn while_one_primary_is_down_the_others_serve() {
    let mut cluster = RedisCluster::start(3).await.unwrap();
    for node in 0..3 {
        let whole = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
        cluster.node(node).command(&whole).await.unwrap();
    }
    let client = client(cluster_target(&cluster.addrs()));
    let mut primaries = Vec::new();
    for key in KEYS {
        assert_eq!(count(&client, key).await, Ok(1));
        primaries.push(cluster.primary_of(key).await.unwrap());
    }
    cluster.node_mut(primaries[0]).kill().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        for (key, primary) in KEYS.iter().zip(&primaries) {
            let result = count(&client, key).await;
            assert_eq!(
                result.is_ok(),
                *primary != primaries[0],
                "{key}: {result:?}"
            );
        }
    }
    cluster
        .node_mut(primaries[0])
        .restart_empty()
        .await
        .unwrap();
    let begun = Instant::now();
    for key in KEYS {
        recovered(&client, key).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_cluster_that_is_gone_and_returns_is_used_again() {
    let mut cluster = RedisCluster::start(3).await.unwrap();
    let client = client(cluster_target(&cluster.addrs()));
    assert_eq!(count(&client, KEYS[0]).await, Ok(1));
    for node in 0..3 {
        cluster.node_mut(node).kill().unwrap();
    }
    let error = count(&client, KEYS[0]).await.unwrap_err();
    assert!(
        matches!(error, RedisError::Unreachable { .. } | RedisError::Timeout),
        "{error}"
    );
    for node in 0..3 {
        cluster.node_mut(node).restart_empty().await.unwrap();
    }
    assert_eq!(recovered(&client, KEYS[0]).await, 1);
    assert_eq!(client.problem(), None);
}

#[tokio::test]
async fn a_server_is_not_a_cluster() {
    let server = RedisServer::start().await.unwrap();
    let wrong = client(cluster_target(&[server.addr()]));
    assert_eq!(count(&wrong, "k").await, Err(RedisError::NotCluster));
    assert_eq!(count(&client(target(server.addr())), "k").await, Ok(1));
}
