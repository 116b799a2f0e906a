//! Queueing in scaled time: 10 callers, calls of 150 ms, at most 3 at once per key.

use std::time::{Duration, Instant};

use keypool_testkit::{Behaviour, Mock};

use crate::harness::{Client, Running, pool};

const CALL: Duration = Duration::from_millis(150);
const CALLERS: usize = 10;
const CAP: u32 = 3;

/// Serves all callers and returns how long it took.
async fn serve_all(keys: usize) -> Duration {
    let behaviour = Behaviour {
        latency: CALL,
        ..Behaviour::default()
    };
    let mock = Mock::start_on("127.0.0.1:0".parse().unwrap(), behaviour)
        .await
        .unwrap();
    let mut settings = pool(&mock, keys);
    settings
        .keys
        .iter_mut()
        .for_each(|key| key.max_concurrent = Some(CAP));
    let running = Running::start(settings).await;
    let began = now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = Client::new(running.addr);
        calls.spawn(async move {
            client
                .chat("doubao-vision", false)
                .await
                .expect("an answer")
                .status
        });
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let took = began.elapsed();
    for (key, seen) in mock.seen_all() {
        assert!(
            seen.max_active <= u64::from(CAP),
            "{key}: the provider saw {} at once",
            seen.max_active
        );
    }
    assert!(running.active().iter().all(|active| *active == 0));
    assert!(running.stop().await);
    took
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_three_and_five_keys_serve_ten_callers_in_4_2_and_1_waves() {
    for (keys, waves) in [(1, 4), (3, 2), (5, 1)] {
        let took = serve_all(keys).await;
        assert!(
            took >= CALL * waves,
            "{keys} keys: {took:?} is faster than {waves} waves"
        );
        assert!(
            took < CALL * waves + CALL * 3 / 4,
            "{keys} keys: {took:?} is not {waves} waves"
        );
    }
}
