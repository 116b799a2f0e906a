//! Which Redis, and how to reach it.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keypool_core::secret::Secret;

/// A Redis server or cluster.
#[derive(Clone, Debug)]
pub struct RedisTarget {
    /// One server; of a cluster, one or more of its nodes. The others are found through them.
    pub addresses: Vec<RedisAddress>,
    /// Whether they are nodes of a Redis Cluster.
    pub cluster: bool,
    /// `None`: connections are not encrypted.
    pub tls: Option<Tls>,
    /// `None`: the server's default user.
    pub user: Option<String>,
    /// `None`: the server asks for none.
    pub password: Option<Secret>,
    /// The number of the database; 0 for a cluster.
    pub database: u32,
    /// Where it is in a simulated network.
    #[cfg(test)]
    pub(super) simulated: Option<super::simulation::Endpoint>,
}

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisAddress {
    /// A name or an IP address; one of version 6 without brackets.
    pub host: String,
    /// Usually 6379.
    pub port: u16,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM. `None`: Mozilla's roots.
    pub(super) roots: Option<Vec<u8>>,
}

/// How long is waited for Redis.
#[derive(Clone, Copy, Debug)]
pub struct RedisTimeouts {
    /// For a connection, with TLS and the password.
    pub connect: Duration,
    /// For the response to a call, with all that is repeated for it.
    pub response: Duration,
}

impl Default for RedisTimeouts {
    /// 2 s and 500 ms.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response: Duration::from_millis(500),
        }
    }
}

impl RedisTarget {
    /// One server, without TLS, user or password.
    pub fn server(address: RedisAddress) -> Self {
        Self {
            addresses: vec![address],
            cluster: false,
            tls: None,
            user: None,
            password: None,
            database: 0,
            #[cfg(test)]
            simulated: None,
        }
    }

    /// A cluster with these nodes, without TLS, user or password.
    pub fn cluster(addresses: Vec<RedisAddress>) -> Self {
        Self {
            addresses,
            cluster: true,
            ..Self::server(RedisAddress::default())
        }
    }
}

impl Default for RedisAddress {
    /// Redis's own port on this machine.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 6379,
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Tls {
    /// Trusts the system's roots, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`; where there are none, as in a small
    /// container, Mozilla's. Reads files.
    pub fn with_system_roots() -> Self {
        let found = rustls_native_certs::load_native_certs().certs;
        let pem: String = found.iter().map(|root| pem(root)).collect();
        Self {
            roots: (!found.is_empty()).then(|| pem.into_bytes()),
        }
    }

    /// Trusts only these roots, in PEM.
    pub fn with_roots(pem: impl Into<Vec<u8>>) -> Self {
        Self {
            roots: Some(pem.into()),
        }
    }
}

/// The `redis` crate takes roots as text only.
fn pem(certificate: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
