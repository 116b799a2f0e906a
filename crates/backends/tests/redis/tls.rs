//! TLS with an authority of the test's own.

use keypool_backends::limiter::redis::{Problem, RedisTarget, Tls};
use keypool_core::secret::Secret;
use keypool_testkit::{RedisOptions, RedisServer};
use rcgen::{CertificateParams, KeyPair};

use crate::harness::{client, count, impatient, target};

/// A certificate for 127.0.0.1 that is its own authority, and its key, in PEM.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().expect("TLS");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("TLS");
    (
        params.self_signed(&key).expect("TLS").pem(),
        key.serialize_pem(),
    )
}

async fn tls_server() -> (RedisServer, String) {
    let (certificate, key) = certificate();
    let options = RedisOptions::default()
        .tls(&certificate, &key)
        .password("secret");
    (options.start().await.expect("TLS"), certificate)
}

fn with_tls(server: &RedisServer, roots: &str) -> RedisTarget {
    RedisTarget {
        tls: Some(Tls::with_roots(roots)),
        password: Some(Secret::new("secret")),
        ..target(server.addr())
    }
}

#[tokio::test]
async fn a_trusted_certificate_is_accepted() {
    let (server, certificate) = tls_server().await;
    let client = client(with_tls(&server, &certificate));
    assert_eq!(count(&client, "k").await, Ok(1));
    assert_eq!(client.check().await.unwrap().warnings, []);
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused() {
    let (server, _) = tls_server().await;
    let (stranger, _) = certificate();
    let client = client(with_tls(&server, &stranger));
    let error = count(&client, "k").await.unwrap_err();
    assert_eq!(error.code(), "redis_unreachable");
    assert!(error.to_string().contains("certificate"), "{error}");
    let problem = client.check().await.unwrap_err();
    assert_eq!(problem.code(), "redis_unreachable", "{problem}");
}

#[tokio::test]
async fn the_roots_of_the_system_do_not_trust_it_either() {
    let (server, _) = tls_server().await;
    let target = RedisTarget {
        tls: Some(Tls::with_system_roots()),
        ..target(server.addr())
    };
    let error = count(&client(target), "k").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_named() {
    let plain = RedisServer::start().await.unwrap();
    let (encrypted, certificate) = tls_server().await;

    let problem = impatient(with_tls(&plain, &certificate))
        .check()
        .await
        .unwrap_err();
    let address = plain.addr().to_string();
    assert_eq!(problem, Problem::NoTls { address });
    assert!(problem.to_string().contains("`limiter.url`"), "{problem}");

    let problem = impatient(target(encrypted.addr()))
        .check()
        .await
        .unwrap_err();
    let address = encrypted.addr().to_string();
    assert_eq!(problem, Problem::NeedsTls { address });
    assert!(problem.to_string().contains("rediss://"), "{problem}");
}
