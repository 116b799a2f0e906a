//! What is wrong with the server or with the settings, found at start and said so that an operator can repair it.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::RedisClient;
use super::connection::open_server;
use super::error::RedisError;
use super::script::Script;
use super::target::RedisAddress;

const CHECK: &str = include_str!("scripts/check.lua");
/// The key that the check writes for a second.
const CHECK_KEY: &[u8] = b"kp:{check}";
/// Major and minor version from which everything that the scripts need is there.
const OLDEST: (u32, u32) = (6, 2);

/// What is known of a server or cluster that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Such as `7.0.15`; of Valkey, the version of Redis that it is compatible with. `None` where INFO is forbidden.
    pub version: Option<String>,
    /// What an operator should look at.
    pub warnings: Vec<Warning>,
}

/// Something that works now, and breaks later.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Warning {
    /// Any `maxmemory-policy` except `noeviction`.
    #[error(
        "`limiter.url`: Redis at {address} evicts keys when its memory is full (maxmemory-policy {policy}), and limits \
         are forgotten with them: set maxmemory-policy to noeviction"
    )]
    Evicts {
        /// The server.
        address: String,
        /// Its policy.
        policy: String,
    },
    /// A node that was named, of a cluster that is reached through others.
    #[error(
        "`limiter.url`: {address} is not usable; the cluster is reached through the other addresses: {error}"
    )]
    NodeUnusable {
        /// The node.
        address: String,
        /// Why.
        error: RedisError,
    },
}

/// Why this Redis cannot be used with these settings. Each sentence names the setting.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// It responds with an error, or not at all.
    #[error("`limiter.url`: {address}: {error}")]
    Redis {
        /// The server.
        address: String,
        /// Its error.
        error: RedisError,
    },
    /// Older than 6.2.
    #[error(
        "`limiter.url`: Redis at {address} has version {version}, which is too old: 6.2 or later is needed"
    )]
    TooOld {
        /// The server.
        address: String,
        /// Its version.
        version: String,
    },
    /// TLS is configured, and the port does not speak it.
    #[error(
        "`limiter.url`: {address} does not speak TLS: write redis:// instead of rediss://, or use its TLS port"
    )]
    NoTls {
        /// The server.
        address: String,
    },
    /// TLS is not configured, and the port speaks nothing else.
    #[error("`limiter.url`: {address} speaks only TLS: write rediss:// instead of redis://")]
    NeedsTls {
        /// The server.
        address: String,
    },
}

impl Problem {
    /// Whether it may end by itself, without a change of settings.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Redis { error, .. } => matches!(
                error,
                RedisError::Unreachable { .. }
                    | RedisError::Timeout
                    | RedisError::Loading
                    | RedisError::ClusterUnavailable { .. }
                    | RedisError::OutOfMemory
            ),
            Self::TooOld { .. } | Self::NoTls { .. } | Self::NeedsTls { .. } => false,
        }
    }

    /// The stable name, as in logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Redis { error, .. } => error.code(),
            Self::TooOld { .. } => "redis_too_old",
            Self::NoTls { .. } => "redis_no_tls",
            Self::NeedsTls { .. } => "redis_needs_tls",
        }
    }
}

impl Warning {
    /// The stable name, as in logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Evicts { .. } => "redis_evicts",
            Self::NodeUnusable { .. } => "redis_node_unusable",
        }
    }
}

impl RedisClient {
    /// Connects to each address, asks what it is, and runs a script that reads and writes.
    ///
    /// # Errors
    /// The first problem; of a cluster, only if no address is usable.
    pub async fn check(&self) -> Result<Facts, Problem> {
        let mut facts = None;
        let mut problem = None;
        let mut warnings = Vec::new();
        for address in &self.target.addresses {
            match self.check_address(address).await {
                Ok(found) => {
                    warnings.extend(found.warnings);
                    facts.get_or_insert(found.version);
                }
                Err(Problem::Redis { address, error }) if self.target.cluster => {
                    let (unusable, why) = (address.clone(), error.clone());
                    problem.get_or_insert(Problem::Redis { address, error });
                    warnings.push(Warning::NodeUnusable {
                        address: unusable,
                        error: why,
                    });
                }
                Err(other) => return Err(other),
            }
        }
        let Some(version) = facts else {
            return Err(problem.unwrap_or_else(|| self.problem_of(RedisError::NotCluster)));
        };
        let keys = [CHECK_KEY];
        self.run::<redis::Value>(&Script::new(CHECK), &keys, &[])
            .await
            .map_err(|error| self.problem_of(error))?;
        Ok(Facts { version, warnings })
    }

    fn problem_of(&self, error: RedisError) -> Problem {
        let addresses = self.target.addresses.iter().map(RedisAddress::to_string);
        Problem::Redis {
            address: addresses.collect::<Vec<_>>().join(","),
            error,
        }
    }

    async fn check_address(&self, address: &RedisAddress) -> Result<Facts, Problem> {
        let opened = open_server(&self.target, address, self.timeouts).await;
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => return Err(self.why_unreachable(address, error).await),
        };
        let info = match timeout(self.timeouts.response, info(&mut connection)).await {
            Ok(info) => info,
            Err(_) => Err(RedisError::Timeout),
        };
        let address = address.to_string();
        let info = match info {
            Ok(info) => info,
            // A user that may run scripts and nothing else: the script says whether that is enough.
            Err(RedisError::Refused { detail })
                if detail.contains("NoPerm") || detail.contains("NOPERM") =>
            {
                return Ok(Facts::default());
            }
            Err(error) => return Err(Problem::Redis { address, error }),
        };
        judge(address, &info, self.target.cluster)
    }

    /// Whether the port speaks TLS where none is configured, or the other way round.
    async fn why_unreachable(&self, address: &RedisAddress, error: RedisError) -> Problem {
        let (tls, named) = (self.target.tls.is_some(), address.to_string());
        let is_mismatch = match error {
            RedisError::Unreachable { .. } | RedisError::Timeout => {
                let probe: &[u8] = if tls { b"PING\r\n" } else { CLIENT_HELLO };
                let answer = timeout(self.timeouts.connect, first_byte(address, probe)).await;
                let expected: &[u8] = if tls { b"+-" } else { &TLS_RECORDS };
                answer
                    .ok()
                    .flatten()
                    .is_some_and(|byte| expected.contains(&byte))
            }
            _ => false,
        };
        match (is_mismatch, tls) {
            (true, true) => Problem::NoTls { address: named },
            (true, false) => Problem::NeedsTls { address: named },
            (false, _) => Problem::Redis {
                address: named,
                error,
            },
        }
    }
}

async fn info(
    connection: &mut MultiplexedConnection,
) -> Result<HashMap<String, String>, RedisError> {
    let text: String = redis::cmd("INFO").query_async(connection).await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

fn judge(address: String, info: &HashMap<String, String>, cluster: bool) -> Result<Facts, Problem> {
    let get = |name| info.get(name).map(String::as_str);
    let version = get("redis_version").map(str::to_owned);
    if let Some(version) = version.clone().filter(|version| is_too_old(version)) {
        return Err(Problem::TooOld { address, version });
    }
    let error = match (cluster, get("cluster_enabled"), get("role")) {
        (false, Some("1"), _) => Some(RedisError::IsCluster),
        (true, Some("0"), _) => Some(RedisError::NotCluster),
        (false, _, Some("slave")) => Some(RedisError::ReadOnly),
        _ => None,
    };
    if let Some(error) = error {
        return Err(Problem::Redis { address, error });
    }
    let policy = get("maxmemory_policy").filter(|policy| *policy != "noeviction");
    let warnings = policy
        .map(|policy| Warning::Evicts {
            address,
            policy: policy.to_owned(),
        })
        .into_iter()
        .collect();
    Ok(Facts { version, warnings })
}

/// A version that does not read as numbers is not called old.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

/// The smallest beginning of a TLS handshake (RFC 5246 §7.4.1.2): one cipher suite, no extensions.
const CLIENT_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x2d, // record: handshake, 45 bytes
    0x01, 0x00, 0x00, 0x29, 0x03, 0x03, // ClientHello, 41 bytes, TLS 1.2
    0x6b, 0x65, 0x79, 0x70, 0x6f, 0x6f, 0x6c, 0x20, 0x61, 0x73, 0x6b, 0x73, 0x20, 0x77, 0x68,
    0x65, // 32 bytes that
    0x74, 0x68, 0x65, 0x72, 0x20, 0x69, 0x74, 0x20, 0x69, 0x73, 0x20, 0x54, 0x4c, 0x53, 0x3f,
    0x21, // should be random
    0x00, 0x00, 0x02, 0xc0, 0x2f, 0x01, 0x00, // no session, one suite, no compression
];
/// How a server that speaks TLS begins: with an alert or with its own handshake.
const TLS_RECORDS: [u8; 2] = [0x15, 0x16];

/// The first byte of the answer to `probe` on a connection of its own.
async fn first_byte(address: &RedisAddress, probe: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect((&*address.host, address.port))
        .await
        .ok()?;
    stream.write_all(probe).await.ok()?;
    stream.read_u8().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[(&str, &str)], cluster: bool) -> Result<Facts, Problem> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        judge("h:1".to_owned(), &lines.iter().map(own).collect(), cluster)
    }

    #[test]
    fn versions_before_6_2_are_refused() {
        for old in ["6.0.16", "5.0.14", "2.8.24"] {
            let problem = judged(&[("redis_version", old)], false).expect_err(old);
            assert_eq!(problem.code(), "redis_too_old");
            assert!(problem.to_string().contains("`limiter.url`"), "{problem}");
            assert!(problem.to_string().contains(old), "{problem}");
        }
        for new in ["6.2.0", "7.0.15", "10.0.1", "255.255.255", "unstable"] {
            let facts = judged(&[("redis_version", new)], false).expect(new);
            assert_eq!(facts.version.as_deref(), Some(new));
        }
    }

    #[test]
    fn a_server_that_hides_its_facts_passes() {
        assert_eq!(judged(&[], false), Ok(Facts::default()));
        assert_eq!(judged(&[], true), Ok(Facts::default()));
    }

    #[test]
    fn a_replica_of_a_cluster_is_a_node_like_others() {
        let replica = [("cluster_enabled", "1"), ("role", "slave")];
        assert_eq!(judged(&replica, true), Ok(Facts::default()));
        let problem = judged(&[("role", "slave")], false).expect_err("a replica");
        assert_eq!(problem.code(), "redis_read_only");
    }
}
