//! What decisions cost Redis: memory, and calls.

use std::time::Duration;

use futures_util::future::join_all;
use keypool_backends::limiter::redis::{Mode, OnFailure, RedisLimiter};
use keypool_core::limit::{Limiter, Settlement, Usage};
use keypool_testkit::RedisServer;

use crate::backend::{ask, now, on_redis};
use crate::fleet::in_both_modes;

const MINUTE: Duration = Duration::from_secs(60);

/// How many scripts the server has run.
async fn scripts_run(redis: &RedisServer) -> u64 {
    let stats = redis
        .command(&["INFO", "commandstats"])
        .await
        .expect("a reply");
    let calls = stats.lines().filter_map(|line| {
        let (command, facts) = line.split_once(":calls=")?;
        let is_script = command.contains("cmdstat_eval");
        is_script.then(|| facts.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

async fn ask_at_once(limiter: &RedisLimiter, count: u32) {
    let one = ask(1, [1_000_000, 1_000_000, 1_000_000], 1, 1);
    let all = join_all((0..count).map(|_| limiter.reserve(&one, now()))).await;
    assert!(all.iter().all(Result::is_ok));
}

#[expect(clippy::print_stdout, reason = "a figure")]
#[tokio::test]
async fn calls_that_ask_at_once_share_few_calls_to_redis() {
    let redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, Mode::Strict, MINUTE, OnFailure::Reject);
    ask_at_once(&limiter, 1).await;
    let before = scripts_run(&redis).await;
    ask_at_once(&limiter, 64).await;
    let calls = scripts_run(&redis).await - before;
    assert!(calls <= 8, "{calls} calls for 64 decisions");

    let (before, rounds) = (scripts_run(&redis).await, 100);
    for _ in 0..rounds {
        ask_at_once(&limiter, 64).await;
    }
    let calls = (scripts_run(&redis).await - before) as f64;
    let each = calls / f64::from(64 * rounds);
    println!("{each:.3} calls to Redis per decision with 64 that ask at once");
    assert!(each <= 0.1, "{each}");
}

/// Five calls in the window, two of them in flight.
#[expect(clippy::print_stdout, reason = "a figure")]
async fn a_thousand_typical_keys_take_at_most_230_bytes_each(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let limiter = on_redis(&redis, mode, MINUTE, OnFailure::Reject);
    let used = Usage {
        input_tokens: Some(900),
        output_tokens: Some(300),
    };
    for round in 0..5 {
        let asks: Vec<_> = (0..1000)
            .map(|id| ask(id, [600, 600_000, 120_000], 1000, 400))
            .collect();
        let admitted = join_all(asks.iter().map(|one| limiter.reserve(one, now()))).await;
        for (one, admission) in asks.iter().zip(&admitted) {
            let admission = admission.as_ref().expect("it fits");
            if round < 3 {
                limiter.settle(one.id, admission, &Settlement::Ended(used), now());
            }
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let mut total = 0;
    for id in 0..1000 {
        let key = format!("kp:{{{id:032x}}}");
        let bytes = redis.command(&["MEMORY", "USAGE", &key]).await.unwrap();
        total += bytes.parse::<u64>().unwrap();
    }
    let each = total / 1000;
    println!(
        "{mode:?}: {each} B per typical key, so {} MB for 100,000 keys",
        each / 10
    );
    assert!(each <= 230, "{each} B");
}

/// One caller with some hundred calls a second for longer than a window.
#[expect(clippy::print_stdout, reason = "a figure")]
async fn a_busy_key_takes_at_most_1050_bytes(mode: Mode) {
    let redis = RedisServer::start().await.unwrap();
    let window = Duration::from_secs(3);
    let limiter = on_redis(&redis, mode, window, OnFailure::Reject);
    let one = ask(1, [1_000_000, 1_000_000_000, 1_000_000_000], 1000, 400);
    let used = Usage {
        input_tokens: Some(900),
        output_tokens: Some(300),
    };
    let (begun, mut most) = (now(), 0);
    while begun.elapsed() < window * 2 {
        let admission = match limiter.try_reserve(&one, now()) {
            Some(decided) => decided.unwrap(),
            None => limiter.reserve(&one, now()).await.unwrap(),
        };
        limiter.settle(one.id, &admission, &Settlement::Ended(used), now());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let key = format!("kp:{{{:032x}}}", 1);
        let bytes = redis.command(&["MEMORY", "USAGE", &key]).await.unwrap();
        most = most.max(bytes.parse::<u64>().unwrap_or(0));
    }
    println!("{mode:?}: {most} B for a busy key");
    assert!((500..=1050).contains(&most), "{most} B");
}

in_both_modes! {
    a_busy_key_takes_at_most_1050_bytes,
    a_thousand_typical_keys_take_at_most_230_bytes_each,
}
