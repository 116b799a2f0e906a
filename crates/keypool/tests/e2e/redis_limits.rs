//! Limits that several processes count in one Redis.

use std::time::Duration;

use futures_util::future::join_all;
use keypool_testkit::{Mock, RedisOptions, RedisServer};

use crate::harness::{Folder, Gateway, PoolConfig, Process, key, pool, virtual_key};
use crate::http::Reply;
use crate::limits::{chat, remaining};

pub(crate) fn limiter(redis: &RedisServer, settings: &str) -> String {
    let port = redis.addr().port();
    format!("[limiter]\nurl = \"redis://127.0.0.1:{port}\"\n{settings}\n")
}

/// In seconds.
fn retry_after(reply: &Reply) -> u64 {
    let text = reply.header("retry-after").expect("a header");
    text.parse().expect("a number")
}

async fn processes_share_the_limits(mode: &str) {
    let (mock, redis) = (
        Mock::start().await.expect("a mock"),
        RedisServer::start().await.expect("a server"),
    );
    let limits = "rpm = 5\ninput_tpm = 100_000\noutput_tpm = 100_000";
    let config = pool(&mock, 1) + &virtual_key("team", limits) + &limiter(&redis, mode);
    let nodes = [Gateway::start(&config).await, Gateway::start(&config).await];
    let mut served = 0;
    for n in 0..8 {
        let reply = chat(&nodes[n % 2]).await;
        match reply.status {
            200 => served += 1,
            _ => assert_eq!(&*reply.code(), "rate_limit_exceeded", "{reply:?}"),
        }
    }
    assert_eq!(served, 5);
    let refused = chat(&nodes[0]).await;
    let retry_after = retry_after(&refused);
    assert!((50..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(remaining(&refused, "requests"), 0);
    for gw in nodes {
        gw.stop().await;
    }
}

#[tokio::test]
async fn processes_with_one_redis_share_the_limits() {
    tokio::join!(
        processes_share_the_limits("mode = \"leased\""),
        processes_share_the_limits("mode = \"strict\""),
    );
}

/// Two processes with a key that has these limits, and a Redis.
async fn two_with_a_key(settings: &str) -> ([Gateway; 2], Mock, RedisServer) {
    let (mock, redis) = (
        Mock::start().await.expect("a mock"),
        RedisServer::start().await.expect("a server"),
    );
    let config = PoolConfig::new(&mock, "p", [])
        .set("queue.timeout", "2s")
        .key(1, settings)
        .to_string()
        + &limiter(&redis, "");
    let nodes = [Gateway::start(&config).await, Gateway::start(&config).await];
    (nodes, mock, redis)
}

#[tokio::test]
async fn processes_with_one_redis_share_the_limits_of_a_key() {
    let (nodes, mock, _redis) = two_with_a_key("rpm = 7").await;
    for n in 0..4 {
        assert_eq!(nodes[n % 2].chat().await.status, 200, "call {n}");
    }
    let both = [&nodes[0], &nodes[1]].into_iter().cycle();
    let replies = join_all(both.take(8).map(Gateway::chat)).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(served.len(), 3);
    assert_eq!(mock.seen(&key(1)).requests, 7);
    for reply in refused {
        assert_eq!(&*reply.code(), "no_key_available", "{reply:?}");
        let retry_after = retry_after(&reply);
        assert!((40..=60).contains(&retry_after), "{retry_after}");
    }
    for gw in nodes {
        gw.stop().await;
    }
}

/// Calls wait for leases in the queue, not for the limits of the key.
#[tokio::test]
async fn a_key_with_room_serves_many_calls_of_all_processes() {
    let (nodes, mock, _redis) = two_with_a_key("rpm = 1000\noutput_tpm = 10_000_000").await;
    for round in 0..5 {
        let both = [&nodes[0], &nodes[1]].into_iter().cycle();
        let replies = join_all(both.take(20).map(Gateway::chat)).await;
        for reply in replies {
            assert_eq!(reply.status, 200, "round {round}: {reply:?}");
        }
    }
    assert_eq!(mock.seen(&key(1)).requests, 100);
    for gw in nodes {
        gw.stop().await;
    }
}

/// The caller's limits and the key's are in different places, so one can have room while the other has none.
#[tokio::test]
async fn case_19_a_call_that_no_key_can_serve_gives_its_room_back() {
    let (mock, redis) = (
        Mock::start().await.unwrap(),
        RedisServer::start().await.unwrap(),
    );
    let limits = "rpm = 10\ninput_tpm = 100_000\nmax_concurrent = 2";
    let config = PoolConfig::new(&mock, "p", [])
        .set("queue.timeout", "300ms")
        .key(1, "rpm = 1")
        .to_string()
        + &virtual_key("team", limits)
        + &limiter(&redis, "");
    let gw = Gateway::start(&config).await;
    assert_eq!(chat(&gw).await.status, 200);
    for _ in 0..5 {
        let reply = chat(&gw).await;
        assert_eq!(&*reply.code(), "no_key_available", "{reply:?}");
        // Redis learns of the end a moment later.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let reply = chat(&gw).await;
    assert_eq!(&*reply.code(), "no_key_available", "{reply:?}");
    assert!(remaining(&reply, "requests") >= 8, "{reply:?}");
    gw.stop().await;
}

#[tokio::test]
async fn without_redis_each_process_admits_its_share() {
    let (mock, mut redis) = (
        Mock::start().await.unwrap(),
        RedisServer::start().await.unwrap(),
    );
    let config = pool(&mock, 1) + &virtual_key("team", "rpm = 10") + &limiter(&redis, "");
    let nodes = [Gateway::start(&config).await, Gateway::start(&config).await];
    assert_eq!(chat(&nodes[0]).await.status, 200);
    // Each has seen the other.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    redis.kill().unwrap();
    let mut served = [0, 0];
    for _ in 0..8 {
        for (gw, served) in nodes.iter().zip(&mut served) {
            *served += u32::from(chat(gw).await.status == 200);
        }
    }
    assert_eq!(served, [4, 5], "five each, and one was used before");
    for gw in nodes {
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_redis_that_cannot_be_used_is_named_at_the_start() {
    let mock = Mock::start().await.unwrap();
    let with_password = RedisOptions::default()
        .password("right")
        .start()
        .await
        .unwrap();
    let port = with_password.addr().port();
    for (url, says) in [
        (
            format!("redis://127.0.0.1:{port}"),
            "refuses the user or its password",
        ),
        (
            format!("redis://:wrong@127.0.0.1:{port}"),
            "refuses the user or its password",
        ),
        (
            format!("redis-cluster://:right@127.0.0.1:{port}"),
            "is not a cluster",
        ),
        (
            format!("rediss://:right@127.0.0.1:{port}"),
            "does not speak TLS",
        ),
    ] {
        let config = pool(&mock, 1) + &format!("[limiter]\nurl = \"{url}\"\n");
        let folder = Folder::new(&config);
        let mut process = Process::start(&folder, &["serve", "--listen", "127.0.0.1:0"]);
        assert_eq!(process.ended().await, 1, "{url}: {}", process.stderr());
        let said = process.stderr();
        assert!(
            said.contains(says) && said.contains("limiter.url"),
            "{url}: {said}"
        );
        assert!(!said.contains("right"), "{said}");
    }
    // One that is not there may return.
    let nobody = pool(&mock, 1)
        + &virtual_key("team", "rpm = 3")
        + "[limiter]\nurl = \"redis://127.0.0.1:9\"\n";
    let gw = Gateway::start(&nobody).await;
    assert_eq!(chat(&gw).await.status, 200);
    gw.stop().await;
}
