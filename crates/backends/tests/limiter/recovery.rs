//! Redis that loses its data: what the nodes admitted counts again.

use std::sync::Arc;
use std::time::Duration;

use keypool_backends::limiter::redis::{Mode, OnFailure, RedisLimiter, RedisTarget};
use keypool_core::limit::Limiter;
use keypool_testkit::{RedisCluster, RedisServer};
use tokio::time::sleep;

use crate::backend::{ask, counts_at, now};
use crate::fleet::{
    BEAT, Fleet, LIMITS, address, decide, decide_after_a_wait, in_both_modes, most_since, node,
    server, wall_ms,
};
use crate::traces::worst;

const WINDOW: Duration = Duration::from_millis(800);

fn nodes(
    redis: &RedisServer,
    mode: Mode,
    on_failure: OnFailure,
    window: Duration,
) -> Vec<Arc<RedisLimiter>> {
    let one = |_| node(server(redis.addr()), mode, window, on_failure);
    (0..4).map(one).collect()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn a_redis_that_restarts_empty_under_load_admits_nothing_beyond(mode: Mode) {
    let mut redis = RedisServer::start().await.unwrap();
    // Longer than it takes to return and to tell.
    let window = 2 * WINDOW;
    let nodes = nodes(&redis, mode, OnFailure::Reject, window);
    let fleet = Fleet::start(&nodes, window);
    for _ in 0..2 {
        sleep(window / 2).await;
        redis.kill().unwrap();
        sleep(millis(60)).await;
        redis.restart_empty().await.unwrap();
    }
    let returned = wall_ms() * 1_000_000;
    sleep(millis(2_000)).await;
    // As much as fits into that time, since nothing is withheld once all nodes have told what they used.
    let admitted = fleet.admitted_since(returned);
    assert!(admitted >= 50, "{admitted}");
    fleet.assert_no_more_than_the_limit().await;
}

async fn degraded_nodes_admit_less_than_twice_the_limit_and_it_counts(mode: Mode) {
    let mut redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Degrade, WINDOW);
    let fleet = Fleet::start(&nodes, WINDOW);
    sleep(WINDOW / 2).await;
    redis.kill().unwrap();
    sleep(WINDOW).await;
    redis.restart_empty().await.unwrap();
    sleep(millis(500)).await;
    let returned = wall_ms() * 1_000_000;
    sleep(2 * WINDOW).await;
    let log = fleet.stop().await;
    let most = worst(log.clone(), WINDOW);
    assert!(most[0] < 2 * u64::from(LIMITS[0]), "{most:?}");
    // What was admitted without Redis keeps others out after its return.
    let most = most_since(&log, WINDOW, returned);
    assert!(most <= LIMITS[0] as usize, "{most:?}");
}

async fn data_that_is_deleted_under_load_counts_again(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Reject, WINDOW);
    let fleet = Fleet::start(&nodes, WINDOW);
    for _ in 0..8 {
        sleep(millis(250)).await;
        redis.command(&["FLUSHALL"]).await.unwrap();
    }
    let before = wall_ms() * 1_000_000;
    sleep(WINDOW).await;
    let admitted = fleet.admitted_since(before);
    assert!(admitted >= 40, "{admitted}");
    fleet.assert_no_more_than_the_limit().await;
}

/// As an eviction does it: the nodes stay known.
async fn case_16_a_key_that_is_evicted_under_load_counts_again(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Reject, WINDOW);
    let fleet = Fleet::start(&nodes, WINDOW);
    for _ in 0..10 {
        sleep(millis(170)).await;
        let key = format!("kp:{{{:032x}}}", 1);
        redis.command(&["DEL", &key]).await.unwrap();
    }
    sleep(WINDOW / 2).await;
    fleet.assert_no_more_than_the_limit().await;
}

async fn scripts_that_are_deleted_under_load_are_loaded_again(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Reject, WINDOW);
    let fleet = Fleet::start(&nodes, WINDOW);
    let begun = wall_ms() * 1_000_000;
    for _ in 0..60 {
        sleep(millis(20)).await;
        redis.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    }
    assert!(fleet.admitted_since(begun) >= 55);
    fleet.assert_no_more_than_the_limit().await;
}

async fn what_one_node_used_keeps_out_others_that_never_asked(mode: Mode) {
    let window = millis(2_000);
    let redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Reject, window);
    let one = ask(1, [10, 0, 0], 0, 0);
    let begun = now();
    for _ in 0..10 {
        decide(&nodes[0], &one).await.unwrap();
    }
    redis.command(&["FLUSHALL"]).await.unwrap();
    sleep(BEAT * 6).await;
    while begun.elapsed() < window {
        for node in &nodes[1..] {
            let decided = decide(node, &one).await;
            let age = begun.elapsed();
            assert!(decided.is_err() || age >= window, "after {age:?}");
        }
        sleep(millis(50)).await;
    }
    // Another caller, whom Redis has never known, had to wait for the nodes at most.
    redis.command(&["FLUSHALL"]).await.unwrap();
    let lost = now();
    while decide(&nodes[2], &ask(2, [10, 0, 0], 0, 0)).await.is_err() {
        assert!(lost.elapsed() < millis(1_000));
        sleep(millis(5)).await;
    }
    let mut admitted = 1;
    while lost.elapsed() < millis(1_500) {
        let decided = decide(&nodes[2], &ask(2, [10, 0, 0], 0, 0)).await;
        admitted += usize::from(decided.is_ok());
        sleep(millis(20)).await;
    }
    assert_eq!(admitted, 10, "nothing is withheld when all nodes have told");
}

async fn the_share_of_a_node_that_died_before_a_loss_is_withheld_for_a_window(mode: Mode) {
    let window = millis(2_000);
    let redis = RedisServer::start().await.unwrap();
    let mut nodes = nodes(&redis, mode, OnFailure::Reject, window);
    sleep(BEAT * 3).await;
    let one = ask(1, [40, 0, 0], 0, 0);
    for n in 0..20 {
        decide(&nodes[n % 4], &one).await.unwrap();
    }
    nodes.pop();
    redis.command(&["FLUSHALL"]).await.unwrap();
    let lost = now();
    let (mut early, mut later) = (0, 0);
    while lost.elapsed() < window + millis(200) {
        for node in &nodes {
            let admitted = usize::from(decide(node, &one).await.is_ok());
            match lost.elapsed() {
                // When what the living nodes had used leaves the window.
                age if age < window - millis(100) => early += admitted,
                _ => later += admitted,
            }
        }
        sleep(millis(10)).await;
    }
    assert_eq!(
        early,
        30 - 15,
        "three nodes' shares, without what they had told"
    );
    assert!(later >= 15, "{later}");
}

async fn a_caller_who_was_idle_for_a_window_has_lost_nothing(mode: Mode) {
    let window = millis(900);
    let redis = RedisServer::start().await.unwrap();
    let nodes = nodes(&redis, mode, OnFailure::Reject, window);
    let one = ask(1, [40, 0, 0], 0, 0);
    for round in 0..4 {
        for n in 0..40 {
            let decided = decide_after_a_wait(&nodes[n % 4], &one).await;
            assert!(decided.is_ok(), "call {n} of round {round}: {decided:?}");
        }
        // About as long as Redis keeps the nodes' records.
        sleep(window + BEAT + millis(4 * round)).await;
    }
}

/// The replica lacks the last moments of its primary.
async fn case_11_a_replica_that_lags_becomes_primary(mode: Mode) {
    let window = millis(5_000);
    let mut cluster = RedisCluster::start_with_replicas(3).await.unwrap();
    let addresses = cluster.addrs().into_iter().map(address).collect();
    let target = RedisTarget::cluster(addresses);
    let nodes: Vec<_> = (0..4)
        .map(|_| node(target.clone(), mode, window, OnFailure::Reject))
        .collect();
    let primary = cluster
        .primary_of(&format!("kp:{{{:032x}}}", 1))
        .await
        .unwrap();
    let one = ask(1, [40, 0, 0], 0, 0);
    let mut admitted = 0;
    for n in 0..20 {
        admitted += usize::from(decide_after_a_wait(&nodes[n % 4], &one).await.is_ok());
    }
    let begun = wall_ms();
    sleep(millis(50)).await;
    let replica = 3 + primary;
    cluster.node(replica).pause().unwrap();
    let cut = ["CLIENT", "KILL", "TYPE", "replica"];
    cluster.node(primary).command(&cut).await.unwrap();
    for n in 0..20 {
        admitted += usize::from(decide_after_a_wait(&nodes[n % 4], &one).await.is_ok());
    }
    assert_eq!(admitted, 40);
    cluster.node_mut(primary).kill().unwrap();
    cluster.node(replica).resume().unwrap();
    let (mut admitted, mut asked) = (Vec::new(), 0);
    cluster.fail_over(primary).await.unwrap();
    let promoted = wall_ms();
    assert!(
        promoted + 500 < begun + 5_000,
        "too slow: {}",
        promoted - begun
    );
    while wall_ms() < begun + 6_500 {
        for node in &nodes {
            asked += 1;
            if let Ok(admission) = decide(node, &one).await {
                admitted.push(counts_at(node.as_ref(), &admission) / 1_000_000);
            }
        }
        sleep(millis(5)).await;
    }
    let early = admitted
        .iter()
        .filter(|at| **at < begun + 5_000 - 200)
        .count();
    assert_eq!(
        early,
        0,
        "of {asked} calls, {} were admitted",
        admitted.len()
    );
    assert!(admitted.len() >= 20, "{}", admitted.len());
    assert!(
        nodes[0]
            .try_reserve(&ask(9, [1, 0, 0], 0, 0), now())
            .is_none()
    );
}

in_both_modes! {
    a_redis_that_restarts_empty_under_load_admits_nothing_beyond,
    degraded_nodes_admit_less_than_twice_the_limit_and_it_counts,
    data_that_is_deleted_under_load_counts_again,
    case_16_a_key_that_is_evicted_under_load_counts_again,
    scripts_that_are_deleted_under_load_are_loaded_again,
    what_one_node_used_keeps_out_others_that_never_asked,
    the_share_of_a_node_that_died_before_a_loss_is_withheld_for_a_window,
    a_caller_who_was_idle_for_a_window_has_lost_nothing,
    case_11_a_replica_that_lags_becomes_primary,
}
