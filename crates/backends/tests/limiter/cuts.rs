//! Nodes that are cut off, that lose replies, and that die.

use std::sync::Arc;
use std::time::Duration;

use keypool_backends::limiter::redis::OnFailure;
use keypool_core::limit::{Limiter, Settlement, Usage};
use keypool_testkit::{RedisServer, StallingProxy};
use tokio::time::sleep;

use crate::backend::{ask, now};
use crate::fleet::{Fleet, LIMITS, decide, node, server, wall_ms};
use crate::traces::worst;

const WINDOW: Duration = Duration::from_millis(800);

/// One of four nodes is cut off for two windows. Returns the most that any window held, and any after its return.
async fn cut_off(on_failure: OnFailure) -> ([u64; 3], [u64; 3]) {
    let redis = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(redis.addr()).await.unwrap();
    let mut nodes = vec![node(server(proxy.addr()), WINDOW, on_failure)];
    nodes.extend((1..4).map(|_| node(server(redis.addr()), WINDOW, on_failure)));
    sleep(Duration::from_millis(150)).await;
    let fleet = Fleet::start(&nodes, WINDOW);
    sleep(WINDOW / 2).await;
    proxy.stall();
    sleep(2 * WINDOW).await;
    proxy.cut();
    proxy.pass();
    sleep(Duration::from_millis(900)).await;
    let returned = wall_ms() * 1_000_000;
    sleep(WINDOW * 2).await;
    let log = fleet.stop().await;
    let later = log.iter().filter(|(at, _)| *at >= returned).copied();
    let later = worst(later.collect(), WINDOW);
    assert!(later[0] >= 40, "{later:?}");
    (worst(log, WINDOW), later)
}

#[tokio::test]
async fn a_node_that_is_cut_off_degrades_to_its_share() {
    let (most, later) = cut_off(OnFailure::Degrade).await;
    assert!(most[0] <= u64::from(LIMITS[0] + LIMITS[0] / 4), "{most:?}");
    assert!(later[0] <= LIMITS[0].into(), "{later:?}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_and_rejects_admits_nothing_beyond() {
    let (most, later) = cut_off(OnFailure::Reject).await;
    assert!(most[0] <= LIMITS[0].into(), "{most:?}");
    assert!(later[0] <= LIMITS[0].into(), "{later:?}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_and_allows_admits_all_until_it_returns() {
    let (most, later) = cut_off(OnFailure::Allow).await;
    assert!(most[0] > 2 * u64::from(LIMITS[0]), "{most:?}");
    assert!(later[0] <= LIMITS[0].into(), "{later:?}");
}

#[tokio::test]
async fn replies_that_are_lost_cause_no_double_charge_or_refund() {
    let minute = Duration::from_secs(60);
    let limits = [100_000, 50_000_000, 0];
    let redis = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(redis.addr()).await.unwrap();
    let through = node(server(proxy.addr()), minute, OnFailure::Reject);
    let (mut used, mut refused) = ([0_u64; 2], 0);
    let begun = now();
    let mut random = fastrand::Rng::with_seed(5);
    while begun.elapsed() < Duration::from_millis(2_000) {
        proxy.delay(Duration::from_millis(1));
        let asks: Vec<_> = (0..8)
            .map(|_| ask(1, limits, random.u32(1..500), 0))
            .collect();
        let cut = async {
            sleep(Duration::from_micros(random.u64(500..4_000))).await;
            proxy.cut();
        };
        let decided = futures_util::future::join_all(asks.iter().map(|one| decide(&through, one)));
        let (decided, ()) = tokio::join!(decided, cut);
        for (one, decided) in asks.iter().zip(decided) {
            let Ok(admission) = decided else {
                refused += 1;
                continue;
            };
            let input = one.cost.input_tokens / 2;
            let usage = Usage {
                input_tokens: Some(input),
                output_tokens: Some(0),
            };
            through.settle(one.id, &admission, &Settlement::Ended(usage), now());
            used = [used[0] + 1, used[1] + u64::from(input)];
        }
        sleep(Duration::from_millis(random.u64(0..60))).await;
    }
    assert!(
        refused > 20 && used[0] > 20,
        "{refused} refused, {used:?} used"
    );
    proxy.delay(Duration::ZERO);
    while decide(&through, &ask(1, limits, 0, 0)).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(400)).await;
    let other = node(server(redis.addr()), minute, OnFailure::Reject);
    let last = ask(1, limits, 0, 0);
    decide(&other, &last).await.unwrap();
    let left = other.remaining(last.id, &last.limits, now());
    let found = [0, 1].map(|d| u64::from(limits[d] - left[d].unwrap().remaining));
    assert_eq!(found, [used[0] + 2, used[1]]);
}

#[tokio::test]
async fn what_a_dead_node_held_is_free_after_its_record_and_a_window() {
    let window = Duration::from_millis(600);
    let redis = RedisServer::start().await.unwrap();
    let dead = node(server(redis.addr()), window, OnFailure::Reject);
    let alive = node(server(redis.addr()), window, OnFailure::Reject);
    let limits = [0, 0, 100];
    // A long call: its node states it again and again.
    let _call = decide(&dead, &ask(1, limits, 0, 90)).await.unwrap();
    sleep(3 * window).await;
    assert!(decide(&alive, &ask(1, limits, 0, 20)).await.is_err());
    assert_eq!(Arc::strong_count(&dead), 1);
    drop(dead);
    let died = now();
    while decide(&alive, &ask(1, limits, 0, 20)).await.is_err() {
        sleep(Duration::from_millis(5)).await;
        assert!(died.elapsed() < 3 * window);
    }
    // The record's end is counted from the node's last word, up to a quarter of it before its death.
    let (least, most) = (window * 17 / 10, window * 24 / 10);
    let freed = died.elapsed();
    assert!((least..most).contains(&freed), "{freed:?}");
}
