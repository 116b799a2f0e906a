//! What all tests need: targets, clients, and a script that leaves a trace.

use std::net::SocketAddr;
use std::time::Duration;

use keypool_backends::limiter::redis::{
    RedisAddress, RedisClient, RedisError, RedisTarget, RedisTimeouts, Script,
};
use keypool_testkit::RedisCluster;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

/// Counts how often it ran, per key.
pub(crate) const COUNT: &str = "return redis.call('INCRBY', KEYS[1], ARGV[1])";

pub(crate) fn address(addr: SocketAddr) -> RedisAddress {
    RedisAddress {
        host: addr.ip().to_string(),
        port: addr.port(),
    }
}

pub(crate) fn target(addr: SocketAddr) -> RedisTarget {
    RedisTarget::server(address(addr))
}

pub(crate) fn cluster_target(addrs: &[SocketAddr]) -> RedisTarget {
    RedisTarget::cluster(addrs.iter().copied().map(address).collect())
}

pub(crate) fn client(target: RedisTarget) -> RedisClient {
    RedisClient::start(target, RedisTimeouts::default())
}

/// A client whose calls end after 100 ms, for tests that wait for that.
pub(crate) fn impatient(target: RedisTarget) -> RedisClient {
    let timeouts = RedisTimeouts {
        response: Duration::from_millis(100),
        connect: Duration::from_millis(400),
    };
    RedisClient::start(target, timeouts)
}

/// A cluster of three primaries, for all tests that leave it as it is. It ends with the test program.
pub(crate) async fn shared_cluster() -> &'static RedisCluster {
    static CLUSTER: OnceCell<RedisCluster> = OnceCell::const_new();
    let start = || async { RedisCluster::start(3).await.expect("a cluster") };
    CLUSTER.get_or_init(start).await
}

/// Runs [`COUNT`] once.
pub(crate) async fn count(client: &RedisClient, key: &str) -> Result<i64, RedisError> {
    client
        .run(&Script::new(COUNT), &[key.as_bytes()], &[b"1"])
        .await
}

/// Repeats [`count`] until it succeeds.
pub(crate) async fn recovered(client: &RedisClient, key: &str) -> i64 {
    let again = async {
        loop {
            match count(client, key).await {
                Ok(value) => return value,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let recovered = timeout(Duration::from_secs(20), again).await;
    recovered.expect("calls succeed again")
}
