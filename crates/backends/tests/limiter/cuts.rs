//! Nodes that are cut off, that lose replies, and that die.

use std::sync::Arc;
use std::time::Duration;

use keypool_backends::limiter::redis::{Mode, OnFailure, RedisLimiter};
use keypool_core::limit::{Limiter, Settlement, Usage};
use keypool_testkit::{RedisServer, StallingProxy};
use tokio::time::sleep;

use crate::backend::{ask, now};
use crate::fleet::{Fleet, LIMITS, decide, in_both_modes, most_since, node, server, wall_ms};
use crate::traces::worst;

const WINDOW: Duration = Duration::from_millis(1200);

/// One of four nodes is cut off for more than a window. Returns the most calls in any window, and in any that ends with a
/// call after its return.
async fn cut_off(mode: Mode, on_failure: OnFailure) -> (u64, usize) {
    let redis = RedisServer::start().await.expect("a server");
    let proxy = StallingProxy::start(redis.addr()).await.expect("a proxy");
    let mut nodes = vec![node(server(proxy.addr()), mode, WINDOW, on_failure)];
    nodes.extend((1..4).map(|_| node(server(redis.addr()), mode, WINDOW, on_failure)));
    sleep(Duration::from_millis(150)).await;
    let fleet = Fleet::start(&nodes, WINDOW);
    sleep(WINDOW / 2).await;
    proxy.stall();
    sleep(3 * WINDOW / 2).await;
    proxy.cut();
    proxy.pass();
    sleep(Duration::from_millis(600)).await;
    let returned = wall_ms() * 1_000_000;
    sleep(WINDOW).await;
    let log = fleet.stop().await;
    let later = most_since(&log, WINDOW, returned);
    assert!(later >= 40, "{later:?}");
    (worst(log, WINDOW)[0], later)
}

async fn a_node_that_is_cut_off_goes_on_as_it_was_told_and_tells_it_later(mode: Mode) {
    let (degrade, reject, allow) = tokio::join!(
        cut_off(mode, OnFailure::Degrade),
        cut_off(mode, OnFailure::Reject),
        cut_off(mode, OnFailure::Allow),
    );
    let limit = u64::from(LIMITS[0]);
    assert!(degrade.0 <= limit + limit / 4, "{degrade:?}");
    assert!(reject.0 <= limit, "{reject:?}");
    assert!(allow.0 > limit + limit / 4, "{allow:?}");
    for (_, later) in [degrade, reject, allow] {
        assert!(later <= LIMITS[0] as usize, "{later:?}");
    }
}

/// What a caller's calls used: requests and input tokens.
type Used = [u64; 2];

/// Some calls of many callers at once. Adds what they used, and returns how many were refused.
async fn some_calls(node: &RedisLimiter, used: &mut [Used], random: &mut fastrand::Rng) -> usize {
    let callers = 0..used.len() * 4;
    let asks: Vec<_> = callers
        .map(|n| ask((n / 4) as u128, MANY, random.u32(1..500), 0))
        .collect();
    let decided = futures_util::future::join_all(asks.iter().map(|one| decide(node, one))).await;
    let mut refused = 0;
    for (n, (one, decided)) in asks.iter().zip(decided).enumerate() {
        let Ok(admission) = decided else {
            refused += 1;
            continue;
        };
        let input = one.cost.input_tokens / 2;
        let usage = Usage {
            input_tokens: Some(input),
            output_tokens: Some(0),
        };
        node.settle(one.id, &admission, &Settlement::Ended(usage), now());
        used[n / 4][0] += 1;
        used[n / 4][1] += u64::from(input);
    }
    refused
}

const MANY: [u32; 3] = [100_000, 50_000_000, 0];

async fn case_8_lost_replies_cause_no_double_charge_or_refund(mode: Mode) {
    let minute = Duration::from_secs(60);
    let redis = RedisServer::start().await.unwrap();
    let proxy = StallingProxy::start(redis.addr()).await.unwrap();
    let through = node(server(proxy.addr()), mode, minute, OnFailure::Reject);
    let mut random = fastrand::Rng::with_seed(5);
    let (mut used, mut refused, mut rounds_refused) = ([[0; 2]; 24], 0, 0);
    for _ in 0..12 {
        refused += some_calls(&through, &mut used, &mut random).await;
        let pause = Duration::from_micros(random.u64(300..6_000));
        let cut = async {
            sleep(pause).await;
            proxy.cut();
        };
        let (lost, ()) = tokio::join!(some_calls(&through, &mut used, &mut random), cut);
        refused += lost;
        rounds_refused += usize::from(lost > 0);
        while decide(&through, &ask(99, MANY, 0, 0)).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    }
    // On leases, calls go on.
    assert!(
        rounds_refused > 2 || mode == Mode::Leased,
        "{refused} refused in {rounds_refused} rounds"
    );
    // Everybody's last step is confirmed, and Redis knows every end of a call.
    some_calls(&through, &mut used, &mut random).await;
    sleep(Duration::from_millis(300)).await;
    let other = node(server(redis.addr()), mode, minute, OnFailure::Reject);
    // What was lent is returned if it is missing elsewhere.
    for id in 0..used.len() as u128 {
        let all = ask(id, MANY, MANY[1], 0);
        decide(&other, &all).await.unwrap_err();
    }
    sleep(Duration::from_millis(600)).await;
    for (id, used) in (0..).zip(used) {
        let last = ask(id, MANY, 0, 0);
        decide(&other, &last).await.unwrap();
        let left = other.remaining(last.id, &last.limits, now());
        let found = [0, 1].map(|d| u64::from(MANY[d] - left[d].unwrap().remaining));
        assert_eq!(found, [used[0] + 1, used[1]], "caller {id}");
    }
}

async fn what_a_dead_node_held_is_free_after_its_record_and_a_window(mode: Mode) {
    let window = Duration::from_millis(600);
    let redis = RedisServer::start().await.unwrap();
    let dead = node(server(redis.addr()), mode, window, OnFailure::Reject);
    let alive = node(server(redis.addr()), mode, window, OnFailure::Reject);
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

in_both_modes! {
    a_node_that_is_cut_off_goes_on_as_it_was_told_and_tells_it_later,
    case_8_lost_replies_cause_no_double_charge_or_refund,
    what_a_dead_node_held_is_free_after_its_record_and_a_window,
}
