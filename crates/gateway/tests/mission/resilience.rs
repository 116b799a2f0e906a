//! Failing keys, and what callers notice of them.

use std::collections::BTreeMap;

use keypool_testkit::{Behaviour, Mock, Step};

use crate::harness::{Answer, Client, Running, pool};

const CONCURRENCY: usize = 16;

/// Makes `total` chat calls over `CONCURRENCY` connections.
async fn call(running: &Running, total: usize) -> Vec<Answer> {
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let mut client = Client::new(running.addr);
        workers.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..total / CONCURRENCY {
                answers.push(client.chat("m", false).await.expect("an answer"));
            }
            answers
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_half_of_all_calls_fail_few_requests_do() {
    const REQUESTS: usize = 20_000;
    let behaviour = Behaviour {
        fail_share: 0.5,
        record: false,
        ..Behaviour::default()
    };
    let mock = Mock::start_on("127.0.0.1:0".parse().unwrap(), behaviour)
        .await
        .unwrap();
    mock.seed(11);
    let running = Running::start(pool(&mock, 3)).await;
    let answers = call(&running, REQUESTS).await;
    let lost = answers.iter().filter(|answer| answer.status != 200).count();
    assert!(
        lost * 50 < REQUESTS,
        "{lost} of {REQUESTS} failed; 1/64 is expected"
    );
    let emptied = answers
        .iter()
        .filter(|answer| String::from_utf8_lossy(&answer.body).contains("no_key_available"))
        .count();
    assert_eq!(emptied, 0, "at times no key was available");
    assert!(answers.iter().all(|answer| answer.attempts <= 6));
    assert!(running.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_dead_key_of_three_the_others_share_its_load() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "secret-key-2",
        Behaviour {
            fault: Some(Step::Reset),
            ..Behaviour::default()
        },
    );
    let running = Running::start(pool(&mock, 3)).await;
    let warm_up = call(&running, 160).await;
    assert!(
        warm_up.iter().all(|answer| answer.status == 200),
        "no request fails"
    );
    assert!(
        warm_up.iter().any(|answer| answer.attempts == 2),
        "some take two attempts until the breaker opens"
    );
    let after = call(&running, 3200).await;
    assert!(
        after
            .iter()
            .all(|answer| (answer.status, answer.attempts) == (200, 1)),
        "each takes one attempt once it is open"
    );
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in &after {
        *shares.entry(&answer.key).or_default() += 1;
    }
    let [one, three] = [shares["key-1"], shares["key-3"]];
    assert_eq!(one + three, after.len());
    assert!(one.abs_diff(three) * 10 <= after.len() / 2, "{shares:?}");
    assert!(running.stop().await);
}
