//! Opening a connection: to one server, or to all nodes of a cluster.

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates, Value,
};
use rustls::crypto::ring;

use super::error::RedisError;
use super::target::{RedisAddress, RedisTarget, RedisTimeouts, Tls};

/// How often the `redis` crate repeats a call of a cluster, within the deadline: for a slot that moved, a node that is
/// gone, a primary that is being replaced.
const CLUSTER_RETRIES: u32 = 8;
/// Between two of them, in milliseconds.
const CLUSTER_RETRY_WAIT: (u64, u64) = (10, 100);

/// A connection that many calls share. Clones are cheap.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
    #[cfg(test)]
    Simulated(super::simulation::Wire),
}

impl Connection {
    pub(super) async fn open(
        target: &RedisTarget,
        timeouts: RedisTimeouts,
    ) -> Result<Self, RedisError> {
        #[cfg(test)]
        if let Some(endpoint) = &target.simulated {
            return Ok(Self::Simulated(endpoint.connect().await?));
        }
        match target.cluster {
            true => open_cluster(target, timeouts).await.map(Self::Cluster),
            false => {
                let address = target.addresses.first().cloned().unwrap_or_default();
                open_server(target, &address, timeouts)
                    .await
                    .map(Self::Server)
            }
        }
    }

    /// Sends one command and waits for its response, however long that takes.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, redis::RedisError> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
            #[cfg(test)]
            Self::Simulated(wire) => wire.send(command).await,
        }
    }
}

/// Connects to one server, or to one node of a cluster.
pub(super) async fn open_server(
    target: &RedisTarget,
    address: &RedisAddress,
    timeouts: RedisTimeouts,
) -> Result<MultiplexedConnection, RedisError> {
    let info = connection_info(target, address)?;
    let client = match &target.tls {
        Some(tls) => Client::build_with_tls(info, certificates(tls))?,
        None => Client::open(info)?,
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(None);
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

async fn open_cluster(
    target: &RedisTarget,
    timeouts: RedisTimeouts,
) -> Result<ClusterConnection, RedisError> {
    let nodes = target.addresses.iter();
    let nodes: Vec<ConnectionInfo> = nodes
        .map(|address| connection_info(target, address))
        .collect::<Result<_, _>>()?;
    let (min_wait, max_wait) = CLUSTER_RETRY_WAIT;
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(timeouts.connect)
        .response_timeout(timeouts.response)
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(min_wait)
        .max_retry_wait(max_wait)
        .tcp_settings(tcp());
    if let Some(tls) = &target.tls {
        builder = builder.certs(certificates(tls));
    }
    // Each node has its own timeout, but a cluster that answers slowly could take the sum of all.
    let opened = tokio::time::timeout(timeouts.connect, async {
        builder.build()?.get_async_connection().await
    });
    match opened.await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(RedisError::Timeout),
    }
}

fn connection_info(
    target: &RedisTarget,
    address: &RedisAddress,
) -> Result<ConnectionInfo, RedisError> {
    let mut redis = RedisConnectionInfo::default().set_db(i64::from(target.database));
    if let Some(user) = &target.user {
        redis = redis.set_username(user);
    }
    if let Some(password) = &target.password {
        redis = redis.set_password(password.expose());
    }
    let (host, port) = (address.host.clone(), address.port);
    let addr = match target.tls {
        Some(_) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        None => ConnectionAddr::Tcp(host, port),
    };
    let info = addr.into_connection_info()?;
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp()))
}

/// Small commands must not wait for others.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn certificates(tls: &Tls) -> TlsCertificates {
    // The `redis` crate uses the process's default. Fails if it was installed before.
    let _ = ring::default_provider().install_default();
    TlsCertificates {
        client_tls: None,
        root_cert: tls.roots.clone(),
    }
}
