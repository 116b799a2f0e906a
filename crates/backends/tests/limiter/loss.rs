//! Redis that goes away and comes back.

use std::time::Duration;

use keypool_backends::limiter::redis::{Mode, OnFailure};
use keypool_core::limit::{Limiter, Settlement, Until};
use keypool_testkit::RedisServer;
use tokio::time::{sleep, timeout};

use crate::backend::{ask, now, on_redis};
use crate::fleet::in_both_modes;

const MINUTE: Duration = Duration::from_secs(60);

async fn admits(limiter: &dyn Limiter, limit: u32) -> bool {
    let one = ask(1, [limit, 0, 0], 0, 0);
    let deciding = async {
        match limiter.try_reserve(&one, now()) {
            Some(decided) => decided,
            None => limiter.reserve(&one, now()).await,
        }
    };
    let decided = timeout(Duration::from_secs(2), deciding).await;
    decided.expect("every decision has a deadline").is_ok()
}

async fn without_redis_each_way_to_go_on_is_taken_at_once(mode: Mode) {
    for (on_failure, admitted) in [
        (OnFailure::Degrade, 4),
        (OnFailure::Reject, 0),
        (OnFailure::Allow, 20),
    ] {
        let mut redis = RedisServer::start().await.unwrap();
        let limiter = on_redis(&redis, mode, MINUTE, on_failure);
        // Two of six are used before. The others count on.
        assert!(admits(&limiter, 6).await && admits(&limiter, 6).await);
        redis.kill().unwrap();
        sleep(Duration::from_millis(100)).await;
        let mut found = 0;
        for _ in 0..20 {
            found += usize::from(admits(&limiter, 6).await);
        }
        assert_eq!(found, admitted, "{on_failure:?}");
    }
}

async fn a_call_larger_than_a_share_waits_for_redis_and_is_not_refused_for_good(mode: Mode) {
    let mut redis = RedisServer::start().await.unwrap();
    let nodes: Vec<_> = (0..4)
        .map(|_| on_redis(&redis, mode, MINUTE, OnFailure::Degrade))
        .collect();
    assert!(admits(&nodes[0], 100).await);
    // Each has seen the others.
    sleep(Duration::from_millis(800)).await;
    redis.kill().unwrap();
    sleep(Duration::from_millis(100)).await;
    let large = ask(1, [0, 1_000, 0], 900, 0);
    let refusal = nodes[0].reserve(&large, now()).await.unwrap_err();
    assert_eq!(refusal.until, Until::StoreReturns);
    let too_large = ask(1, [0, 1_000, 0], 1_001, 0);
    let refusal = nodes[0].reserve(&too_large, now()).await.unwrap_err();
    assert_eq!(refusal.until, Until::Never);
}

async fn a_redis_that_returns_decides_again_within_two_seconds(mode: Mode) {
    let mut redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, mode, MINUTE, OnFailure::Reject);
    assert!(admits(&limiter, 1000).await);
    redis.restart_empty().await.unwrap();
    let returned = now();
    while !admits(&limiter, 1000).await {
        assert!(returned.elapsed() < Duration::from_secs(2));
        sleep(Duration::from_millis(20)).await;
    }
}

async fn a_redis_that_hangs_delays_calls_by_its_deadline_only(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, mode, MINUTE, OnFailure::Reject);
    assert!(admits(&limiter, 10).await);
    redis.pause().unwrap();
    for _ in 0..3 {
        assert!(!admits(&limiter, 10).await);
    }
    redis.resume().unwrap();
    let resumed = now();
    while !admits(&limiter, 10).await {
        assert!(resumed.elapsed() < Duration::from_secs(2));
        sleep(Duration::from_millis(20)).await;
    }
    // Of what was asked while it hung, nothing counts twice or stays.
    sleep(Duration::from_millis(300)).await;
    let mut admitted = 2;
    while admits(&limiter, 10).await {
        admitted += 1;
    }
    assert_eq!(admitted, 10);
}

async fn case_13_a_refused_caller_costs_redis_nothing_until_it_may_try(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, mode, MINUTE, OnFailure::Reject);
    let one = ask(1, [1, 0, 0], 0, 0);
    let first = limiter.reserve(&one, now()).await.unwrap();
    limiter.settle(one.id, &first, &Settlement::Failed, now());
    sleep(Duration::from_millis(250)).await;
    let refusal = limiter.reserve(&one, now()).await.unwrap_err();
    assert!(matches!(refusal.until, Until::At(_)));
    for _ in 0..50_000 {
        assert_eq!(limiter.try_reserve(&one, now()), Some(Err(refusal)));
    }
    // What is given back may make room.
    let mut two = ask(2, [0, 0, 0], 0, 0);
    two.limits.concurrent = Some(1);
    let first = limiter.reserve(&two, now()).await.unwrap();
    let refusal = limiter.reserve(&two, now()).await.unwrap_err();
    assert_eq!(refusal.until, Until::CallEnds(None));
    limiter.settle(two.id, &first, &Settlement::NotSent, now());
    assert!(limiter.try_reserve(&two, now()).is_none());
    assert!(limiter.reserve(&two, now()).await.is_ok());
}

async fn a_client_that_leaves_while_redis_is_asked_holds_nothing(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, mode, MINUTE, OnFailure::Reject);
    let one = ask(1, [5, 0, 0], 0, 0);
    for _ in 0..50 {
        let asking = limiter.reserve(&one, now());
        // Too short for a reply, or just long enough.
        let _ = timeout(Duration::from_micros(fastrand::u64(0..400)), asking)
            .await
            .map(|decided| {
                decided.map(|it| limiter.settle(one.id, &it, &Settlement::NotSent, now()))
            });
    }
    sleep(Duration::from_millis(400)).await;
    for n in 0..5 {
        assert!(limiter.reserve(&one, now()).await.is_ok(), "{n}");
    }
}

in_both_modes! {
    without_redis_each_way_to_go_on_is_taken_at_once,
    a_call_larger_than_a_share_waits_for_redis_and_is_not_refused_for_good,
    a_redis_that_returns_decides_again_within_two_seconds,
    a_redis_that_hangs_delays_calls_by_its_deadline_only,
    case_13_a_refused_caller_costs_redis_nothing_until_it_may_try,
    a_client_that_leaves_while_redis_is_asked_holds_nothing,
}
