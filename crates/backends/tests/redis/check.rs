//! What the check at start says of each wrong setting.

use keypool_backends::limiter::redis::{Problem, RedisError, RedisTarget, Warning};
use keypool_core::secret::Secret;
use keypool_testkit::{RedisCluster, RedisOptions, RedisServer};

use crate::harness::{client, cluster_target, impatient, shared_cluster, target};

async fn problem(target: RedisTarget) -> (String, String) {
    let problem: Problem = client(target).check().await.expect_err("a problem");
    (problem.code().to_owned(), problem.to_string())
}

fn names(text: &str, words: &[&str]) {
    for word in words.iter().chain(&["`limiter.url`"]) {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
}

#[tokio::test]
async fn a_usable_server_has_a_version_and_no_warnings() {
    let server = RedisServer::start().await.unwrap();
    let facts = client(target(server.addr())).check().await.unwrap();
    let version = facts.version.unwrap();
    assert!(version.contains('.'), "{version}");
    assert_eq!(facts.warnings, []);
}

#[tokio::test]
async fn a_policy_that_evicts_is_a_warning() {
    let options = RedisOptions::default().setting("maxmemory-policy", "allkeys-lru");
    let server = options.start().await.unwrap();
    let facts = client(target(server.addr())).check().await.unwrap();
    let [Warning::Evicts { policy, .. }] = &*facts.warnings else {
        panic!("{:?}", facts.warnings);
    };
    assert_eq!(policy, "allkeys-lru");
    names(
        &facts.warnings[0].to_string(),
        &["allkeys-lru", "noeviction"],
    );
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let options = RedisOptions::default().password("right");
    let server = options.start().await.unwrap();
    let (code, text) = problem(target(server.addr())).await;
    assert_eq!(code, "redis_refused");
    names(&text, &["password", &server.addr().to_string()]);
    let wrong = RedisTarget {
        password: Some(Secret::new("a-wrong-one")),
        ..target(server.addr())
    };
    let (code, text) = problem(wrong).await;
    assert_eq!(code, "redis_refused");
    names(&text, &["password"]);
    assert!(!text.contains("a-wrong-one"), "{text}");
}

#[tokio::test]
async fn a_user_without_info_is_usable_and_one_without_scripts_is_not() {
    let server = RedisServer::start().await.unwrap();
    let with = |user: &str| RedisTarget {
        user: Some(user.to_owned()),
        password: Some(Secret::new("secret")),
        ..target(server.addr())
    };
    for rules in [
        "ACL SETUSER scripts on >secret ~kp:* -@all +eval +evalsha +set +get +time",
        "ACL SETUSER reader on >secret ~kp:* -@all +info +get",
        "ACL SETUSER other on >secret ~other:* +@all",
    ] {
        let rules: Vec<&str> = rules.split(' ').collect();
        server.command(&rules).await.unwrap();
    }
    let facts = client(with("scripts")).check().await.unwrap();
    assert_eq!(facts.version, None);
    for user in ["reader", "other"] {
        let (code, text) = problem(with(user)).await;
        assert_eq!(code, "redis_refused", "{user}: {text}");
        names(&text, &["what the user may do"]);
    }
}

#[tokio::test]
async fn a_replica_is_named() {
    let primary = RedisServer::start().await.unwrap();
    let options = RedisOptions::default().replica_of(&primary);
    let replica = options.start().await.unwrap();
    let (code, text) = problem(target(replica.addr())).await;
    assert_eq!(code, "redis_read_only");
    names(&text, &["replica", "primary"]);
}

#[tokio::test]
async fn nothing_on_the_port_is_named() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().unwrap();
    let (code, text) = problem(target(server.addr())).await;
    assert_eq!(code, "redis_unreachable");
    names(&text, &["refused", &server.addr().to_string()]);
    let (code, _) = problem(cluster_target(&[server.addr()])).await;
    assert_eq!(code, "redis_unreachable");
}

#[tokio::test]
async fn a_server_that_does_not_respond_is_named() {
    let server = RedisServer::start().await.unwrap();
    server.pause().unwrap();
    let problem = impatient(target(server.addr())).check().await.unwrap_err();
    assert_eq!(problem.code(), "redis_timeout", "{problem}");
}

#[tokio::test]
async fn a_cluster_for_a_server_and_a_server_for_a_cluster_are_named() {
    let server = RedisServer::start().await.unwrap();
    let (code, text) = problem(cluster_target(&[server.addr()])).await;
    assert_eq!(code, "redis_not_cluster");
    names(&text, &["redis://"]);
    let node = shared_cluster().await.addrs()[0];
    let (code, text) = problem(target(node)).await;
    assert_eq!(code, "redis_is_cluster");
    names(&text, &["redis-cluster://"]);
}

#[tokio::test]
async fn a_cluster_is_usable_while_one_of_its_addresses_responds() {
    let mut cluster = RedisCluster::start_with_replicas(3).await.unwrap();
    let addrs = cluster.addrs();
    let facts = client(cluster_target(&addrs)).check().await.unwrap();
    assert_eq!(facts.warnings, []);
    cluster.fail_over(0).await.unwrap();
    let facts = client(cluster_target(&addrs)).check().await.unwrap();
    let [Warning::NodeUnusable { address, error }] = &*facts.warnings else {
        panic!("{:?}", facts.warnings);
    };
    assert_eq!(*address, addrs[0].to_string());
    assert!(matches!(error, RedisError::Unreachable { .. }), "{error}");
}
