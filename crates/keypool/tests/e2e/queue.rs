//! Caps per key, and the queue of requests that wait for a key.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    CHAT, CHAT_PATH, DEADLINE, Gateway, PoolConfig, STREAM, bearer, key, virtual_key, within,
};
use crate::http::{Connection, Reply};

fn slow(millis: u64) -> Behaviour {
    Behaviour {
        latency: Duration::from_millis(millis),
        ..Behaviour::default()
    }
}

/// A pool with one key that takes one call at a time.
fn one_slot(mock: &Mock) -> PoolConfig {
    PoolConfig::new(mock, "p", [1]).set("max_concurrent_per_key", 1)
}

/// Starts a gateway and takes its only slot.
async fn start_full(mock: &Mock, pool: &PoolConfig) -> (Arc<Gateway>, Connection) {
    let gw = Arc::new(Gateway::start(&pool.to_string()).await);
    let holder = hold(&gw, mock, None).await;
    (gw, holder)
}

/// Sends a chat request in a task of its own, with the virtual key of `caller` if there is one.
fn call(calls: &mut JoinSet<Reply>, gw: &Arc<Gateway>, caller: Option<&str>) {
    let (gw, bearer) = (Arc::clone(gw), caller.map(bearer));
    calls.spawn(async move {
        let headers: Vec<(&str, &str)> = bearer
            .iter()
            .map(|bearer| ("authorization", bearer.as_str()))
            .collect();
        gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await
    });
}

/// A connection whose request holds the only slot of the key until it is dropped.
async fn hold(gw: &Gateway, mock: &Mock, caller: Option<&str>) -> Connection {
    mock.script(&key(1), [Step::Hang]);
    let mut holder = Connection::open(gw.addr).await;
    let bearer = bearer(caller.unwrap_or_default());
    holder
        .request(
            "POST",
            CHAT_PATH,
            &[("authorization", &bearer)],
            CHAT.as_bytes(),
        )
        .await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    holder
}

async fn finish(gw: Arc<Gateway>) {
    gw.all_idle().await;
    Arc::into_inner(gw)
        .expect("all calls have ended")
        .stop()
        .await;
}

#[tokio::test]
async fn ten_callers_share_the_three_slots_of_a_key_and_all_are_served() {
    for (n_keys, waves) in [(1, 4), (3, 2), (5, 1)] {
        let mock = Mock::start().await.unwrap();
        let config = PoolConfig::new(&mock, "p", 1..=n_keys).set("max_concurrent_per_key", 3);
        let gw = Arc::new(Gateway::start(&config.to_string()).await);
        mock.behave("*", slow(150));
        let mut calls = JoinSet::new();
        let began = Instant::now();
        for _ in 0..10 {
            call(&mut calls, &gw, None);
        }
        let replies = within(calls.join_all()).await;
        let took = began.elapsed();
        assert!(replies.iter().all(|reply| reply.status == 200));
        for n in 1..=n_keys {
            let most = mock.seen(&key(n)).max_active;
            assert!(most <= 3, "key {n} had {most} calls at once");
        }
        let optimum = Duration::from_millis(150 * waves);
        assert!(
            took >= optimum && took < optimum * 3 + Duration::from_secs(1),
            "{n_keys} keys: {took:?}"
        );
        let waited = replies
            .iter()
            .filter(|reply| {
                reply
                    .header("x-keypool-queue-ms")
                    .is_some_and(|ms| ms.parse::<u64>().unwrap() > 0)
            })
            .count();
        assert!(
            waited <= 10usize.saturating_sub(3 * n_keys) && (waited > 0) == (n_keys < 5),
            "{n_keys} keys: {waited} waited"
        );
        finish(gw).await;
    }
}

#[tokio::test]
async fn the_lowest_cap_of_a_shared_secret_applies() {
    let mock = Mock::start().await.unwrap();
    let one = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 3);
    let two = PoolConfig::new(&mock, "q", [1])
        .set("max_concurrent_per_key", 1)
        .set("models", vec!["q-x"]);
    let gw = Arc::new(Gateway::start(&format!("{one}{two}")).await);
    mock.behave("*", slow(50));
    let mut calls = JoinSet::new();
    for n in 0..6 {
        let gw = Arc::clone(&gw);
        let body = CHAT.replace("gpt-x", if n % 2 == 0 { "gpt-x" } else { "q-x" });
        calls.spawn(async move { gw.post(CHAT_PATH, &body).await });
    }
    assert!(
        within(calls.join_all())
            .await
            .iter()
            .all(|reply| reply.status == 200)
    );
    let seen = mock.seen(&key(1));
    assert_eq!((seen.requests, seen.max_active), (6, 1));
    finish(gw).await;
}

#[tokio::test]
async fn a_full_queue_refuses_the_newest_at_once() {
    let mock = Mock::start().await.unwrap();
    let (gw, holder) = start_full(&mock, &one_slot(&mock).set("queue.max_waiting", 1)).await;
    let mut calls = JoinSet::new();
    call(&mut calls, &gw, None);
    call(&mut calls, &gw, None);
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "queue_full"),
        "{refused:?}"
    );
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("x-should-retry")
        ),
        (Some("1"), None)
    );
    drop(holder);
    let served = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(
        served.status, 200,
        "the slot of the disconnected client goes to the waiting request"
    );
    within(mock.wait_for(&key(1), |seen| seen.cancelled == 1)).await;
    finish(gw).await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_gets_queue_timeout() {
    let mock = Mock::start().await.unwrap();
    let (gw, holder) = start_full(&mock, &one_slot(&mock).set("queue.timeout", "100ms")).await;
    let began = Instant::now();
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (504, "queue_timeout"),
        "{reply:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(reply.header("x-should-retry"), None);
    assert_eq!(
        mock.seen(&key(1)).requests,
        1,
        "a waiting request costs no call"
    );
    drop(holder);
    finish(gw).await;
}

#[tokio::test]
async fn a_caller_with_one_request_is_not_starved_by_one_with_many() {
    let mock = Mock::start().await.unwrap();
    let config = [
        one_slot(&mock).set("queue.max_waiting", 8).to_string(),
        virtual_key("many", ""),
        virtual_key("few", ""),
    ];
    let gw = Arc::new(Gateway::start(&config.concat()).await);
    let holder = hold(&gw, &mock, Some("many")).await;
    mock.behave("*", slow(50));
    let mut calls = JoinSet::new();
    for _ in 0..9 {
        call(&mut calls, &gw, Some("many"));
    }
    // Once the ninth is refused, the other eight are waiting.
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), "queue_full");
    let mut single = JoinSet::new();
    call(&mut single, &gw, Some("few"));
    // It displaces the newest request of the caller with the most.
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), "queue_full");
    drop(holder);
    let served = within(single.join_next()).await.unwrap().unwrap();
    assert_eq!(served.status, 200);
    let before_it = mock.seen(&key(1)).requests - 1;
    assert!(
        before_it <= 3,
        "{before_it} calls of the other caller began before its own ended"
    );
    let others = within(calls.join_all()).await;
    assert_eq!(others.iter().filter(|reply| reply.status == 200).count(), 7);
    finish(gw).await;
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_the_queue() {
    let mock = Mock::start().await.unwrap();
    let (gw, holder) = start_full(&mock, &one_slot(&mock).set("queue.max_waiting", 1)).await;
    let send = async || {
        let mut connection = Connection::open(gw.addr).await;
        connection
            .request("POST", CHAT_PATH, &[], CHAT.as_bytes())
            .await;
        connection.answer().await
    };
    let refused = within(async {
        // One of them waits, so the other is refused. Then the waiting one is dropped, and so is its connection.
        tokio::select! {
            answer = send() => answer,
            answer = send() => answer,
        }
    })
    .await;
    assert_eq!(refused.map(|answer| answer.status), Some(503));
    let mut last = JoinSet::new();
    let began = Instant::now();
    loop {
        call(&mut last, &gw, None);
        let refused = tokio::time::timeout(Duration::from_millis(200), last.join_next()).await;
        match refused {
            Err(_) => break,
            Ok(reply) => assert_eq!(reply.unwrap().unwrap().code(), "queue_full"),
        }
        assert!(
            began.elapsed() < DEADLINE,
            "the place in the queue is never released"
        );
    }
    drop(holder);
    let served = within(last.join_next()).await.unwrap().unwrap();
    assert_eq!(served.status, 200);
    assert_eq!(
        mock.seen(&key(1)).requests,
        2,
        "only the holder and the last call reached the provider"
    );
    finish(gw).await;
}

#[tokio::test]
async fn a_queue_full_for_one_model_does_not_block_another() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1])
        .set("queue.max_waiting", 1)
        .set("retry.retries", 0);
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    mock.script(&key(1), [Step::rate_limited(40)]);
    assert_eq!(gw.chat().await.status, 429);
    let mut calls = JoinSet::new();
    call(&mut calls, &gw, None);
    call(&mut calls, &gw, None);
    // Once one of them is refused, the other is waiting.
    let refused = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), "queue_full", "{refused:?}");
    let other = CHAT.replace("gpt-x", "gpt-y");
    for _ in 0..3 {
        let reply = gw.post(CHAT_PATH, &other).await;
        assert_eq!((reply.status, reply.key()), (200, "p-1"), "{reply:?}");
    }
    assert!(calls.try_join_next().is_none(), "the other still waits");
    gw.reset("p", "p-1").await;
    let served = within(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(served.status, 200, "{served:?}");
    finish(gw).await;
}

#[tokio::test]
async fn time_spent_only_waiting_is_not_an_upstream_timeout() {
    let mock = Mock::start().await.unwrap();
    let config = one_slot(&mock).set("timeouts.total", "300ms");
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    // `total` limits the time to the first byte, so a stream that has begun keeps the slot.
    mock.script(&key(1), [Step::StallAfter(1)]);
    let mut holder = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    assert_eq!(holder.status, 200);
    assert!(within(holder.next()).await.unwrap().is_some());
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (504, "queue_timeout"),
        "{reply:?}"
    );
    assert_eq!(
        (reply.header("x-should-retry"), reply.attempts()),
        (None, "0"),
        "{reply:?}"
    );
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (&stats["total_requests"], &stats["failed_requests"]),
        (&1.into(), &0.into()),
        "{stats}"
    );
    drop(holder);
    finish(gw).await;
}
