//! Scripts, their recovery, and every error of a server that is there.

use keypool_backends::limiter::redis::{RedisError, RedisTarget, Script};
use keypool_core::secret::Secret;
use keypool_testkit::{RedisOptions, RedisServer};
use tokio::time::Instant;

use crate::harness::{client, count, impatient, shared_cluster, target};

#[tokio::test]
async fn a_script_runs_with_its_keys_and_arguments() {
    let server = RedisServer::start().await.unwrap();
    let client = client(target(server.addr()));
    let script = Script::new("return {KEYS[1], KEYS[2], ARGV[1], #ARGV}");
    let bytes = [0, 13, 10, 255];
    let reply: (Vec<u8>, Vec<u8>, Vec<u8>, i64) = client
        .run(&script, &[b"{a}1", &bytes], &[&bytes, b""])
        .await
        .unwrap();
    assert_eq!(reply, (b"{a}1".to_vec(), bytes.to_vec(), bytes.to_vec(), 2));
}

#[tokio::test]
async fn a_script_that_redis_forgot_is_sent_again_and_runs_once() {
    let server = RedisServer::start().await.unwrap();
    let client = client(target(server.addr()));
    for expected in 1..=3 {
        assert_eq!(count(&client, "k").await, Ok(expected));
        assert_eq!(count(&client, "other").await, Ok(expected));
        server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    }
    // Only the first call after each loss sends the source.
    let stats = server.command(&["INFO", "commandstats"]).await.unwrap();
    assert!(stats.contains("cmdstat_eval:calls=3,"), "{stats}");
    assert!(stats.contains("cmdstat_evalsha:calls=6,"), "{stats}");
}

#[tokio::test]
async fn calls_share_one_connection_and_do_not_wait_for_each_other() {
    let server = RedisServer::start().await.unwrap();
    let client = client(target(server.addr()));
    let calls = (0..100).map(|_| count(&client, "k"));
    let mut seen: Vec<i64> = Vec::new();
    for call in futures(calls).await {
        seen.push(call.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    let list = server.command(&["CLIENT", "LIST"]).await.unwrap();
    let of_client = list.lines().filter(|line| line.contains("laddr=127.0.0.1"));
    assert_eq!(of_client.count(), 1, "{list}");
}

/// Polls all `calls` together on one task.
async fn futures<F: Future>(calls: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut calls: Vec<_> = calls.map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(move |cx| {
        for (call, output) in &mut calls {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = call.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        match calls.iter().all(|(_, output)| output.is_some()) {
            true => {
                std::task::Poll::Ready(calls.drain(..).filter_map(|(_, output)| output).collect())
            }
            false => std::task::Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_refused() {
    let options = RedisOptions::default().password("right");
    let server = options.start().await.unwrap();
    let with = |password: Option<&str>| RedisTarget {
        password: password.map(Secret::new),
        ..target(server.addr())
    };
    assert_eq!(count(&client(with(Some("right"))), "k").await, Ok(1));
    for password in [None, Some("wrong")] {
        let error = count(&client(with(password)), "k").await.unwrap_err();
        assert_eq!(error.code(), "redis_refused", "{password:?}: {error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}

#[tokio::test]
async fn a_user_needs_its_password_and_its_permissions() {
    let server = RedisServer::start().await.unwrap();
    let rules = "ACL SETUSER limits on >secret ~kp:* resetchannels -@all +eval +evalsha +incrby";
    let rules: Vec<&str> = rules.split(' ').collect();
    server.command(&rules).await.unwrap();
    let with = |password: &str| RedisTarget {
        user: Some("limits".to_owned()),
        password: Some(Secret::new(password)),
        ..target(server.addr())
    };
    let limited = client(with("secret"));
    assert_eq!(count(&limited, "kp:{a}").await, Ok(1));
    let error = count(&limited, "other").await.unwrap_err();
    assert_eq!(error.code(), "redis_refused", "{error}");
    let forbidden: Result<(), _> = limited
        .run(&Script::new("redis.call('FLUSHALL')"), &[b"kp:{a}"], &[])
        .await;
    assert_eq!(forbidden.unwrap_err().code(), "redis_refused");
    let error = count(&client(with("wrong")), "kp:{a}").await.unwrap_err();
    assert_eq!(error.code(), "redis_refused", "{error}");
}

#[tokio::test]
async fn a_replica_is_read_only() {
    let primary = RedisServer::start().await.unwrap();
    let options = RedisOptions::default().replica_of(&primary);
    let replica = options.start().await.unwrap();
    let error = count(&client(target(replica.addr())), "k").await;
    assert_eq!(error, Err(RedisError::ReadOnly));
}

#[tokio::test]
async fn a_full_memory_is_named() {
    let server = RedisServer::start().await.unwrap();
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await
        .unwrap();
    let error = count(&client(target(server.addr())), "k").await;
    assert_eq!(error, Err(RedisError::OutOfMemory));
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_named() {
    // 5 ms for each key, so that loading outlasts the test.
    let options = RedisOptions::default()
        .setting("key-load-delay", "5000")
        .setting("loading-process-events-interval-bytes", "1024");
    let mut server = options.start().await.unwrap();
    let fill = "for i = 1, 4000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end";
    server.command(&["EVAL", fill, "0"]).await.unwrap();
    server.command(&["SAVE"]).await.unwrap();
    let client = client(target(server.addr()));
    assert_eq!(count(&client, "other").await, Ok(1));
    let seen = async {
        while count(&client, "other").await != Err(RedisError::Loading) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        started = server.restart_empty() => panic!("no call saw it: {started:?}"),
        () = seen => {}
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_a_server() {
    let client = client(target(shared_cluster().await.addrs()[0]));
    let mut errors = Vec::new();
    for key in ["a", "b", "c", "d", "e"] {
        errors.extend(count(&client, key).await.err());
    }
    assert!(errors.contains(&RedisError::IsCluster), "{errors:?}");
    assert!(
        errors.iter().all(|error| *error == RedisError::IsCluster),
        "{errors:?}"
    );
}

#[tokio::test]
async fn an_error_of_a_script_is_passed_on() {
    let server = RedisServer::start().await.unwrap();
    let client = client(target(server.addr()));
    let script = Script::new("return redis.error_reply('ERR three is not enough')");
    let error = client.run::<i64>(&script, &[b"k"], &[]).await.unwrap_err();
    assert_eq!(error.code(), "redis_unexpected");
    assert!(error.to_string().contains("three is not enough"), "{error}");
    let script = Script::new("return 'text'");
    let error = client.run::<i64>(&script, &[b"k"], &[]).await.unwrap_err();
    assert_eq!(error.code(), "redis_unexpected", "{error}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let server = RedisServer::start().await.unwrap();
    let client = impatient(target(server.addr()));
    assert_eq!(count(&client, "k").await, Ok(1));
    server.pause().unwrap();
    let begun = Instant::now();
    let error = count(&client, "k").await;
    assert_eq!(error, Err(RedisError::Timeout));
    let passed = begun.elapsed();
    assert!((100..2000).contains(&passed.as_millis()), "{passed:?}");
}
