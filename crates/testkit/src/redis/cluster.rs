//! A Redis Cluster.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::server::{RedisOptions, RedisServer};

const SLOTS: usize = 16_384;
/// How long the nodes may take to agree: at least the two seconds in which a new node takes no writes.
const AGREE: Duration = Duration::from_secs(30);
/// After this silence, a node counts as failing.
const NODE_TIMEOUT_MS: &str = "1000";

/// A Redis Cluster on 127.0.0.1: primaries that share the slots, each with as many replicas. Killed when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries first, then the replicas: that of primary `i` is at `primaries + i`.
    nodes: Vec<RedisServer>,
    primaries: usize,
}

impl RedisCluster {
    /// Starts `primaries` nodes without replicas, and waits until all slots are served.
    pub async fn start(primaries: usize) -> io::Result<RedisCluster> {
        Self::start_with(primaries, false, RedisOptions::default()).await
    }

    /// Starts `primaries` nodes with one replica each, and waits until all slots are served and the replicas follow.
    pub async fn start_with_replicas(primaries: usize) -> io::Result<RedisCluster> {
        Self::start_with(primaries, true, RedisOptions::default()).await
    }

    async fn start_with(
        primaries: usize,
        replicas: bool,
        options: RedisOptions,
    ) -> io::Result<RedisCluster> {
        let options = options
            .setting("cluster-enabled", "yes")
            .setting("cluster-config-file", "nodes.conf")
            .setting("cluster-node-timeout", NODE_TIMEOUT_MS);
        let total = if replicas { 2 * primaries } else { primaries };
        let mut nodes = Vec::new();
        for _ in 0..total {
            nodes.push(options.clone().start().await?);
        }
        let cluster = RedisCluster { nodes, primaries };
        timeout(AGREE, cluster.join())
            .await
            .map_err(|_| io::Error::other("the nodes did not form a cluster"))??;
        Ok(cluster)
    }

    /// The addresses of the primaries that the cluster started with.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes[..self.primaries]
            .iter()
            .map(RedisServer::addr)
            .collect()
    }

    /// The node `index`: the primaries first, then the replicas.
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    /// The same, to kill or restart it.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// The number of the primary that `key`'s slot was given to at the start.
    pub async fn primary_of(&self, key: &str) -> io::Result<usize> {
        let slot = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await?;
        let slot: usize = slot.parse().map_err(io::Error::other)?;
        let holds = |index: &usize| self.slots(*index).contains(&slot);
        (0..self.primaries)
            .find(holds)
            .ok_or_else(|| io::Error::other("a slot without a primary"))
    }

    /// Kills the primary `index`, and waits until the cluster has made its replica the primary and serves all slots.
    pub async fn fail_over(&mut self, index: usize) -> io::Result<()> {
        self.nodes[index].kill()?;
        let replica = &self.nodes[self.primaries + index];
        let promoted = async {
            loop {
                let is_primary = info(replica, "replication").await?.contains("role:master");
                if is_primary && self.all_agree(index).await? {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(AGREE, promoted)
            .await
            .map_err(|_| io::Error::other("no replica became the primary"))?
    }

    fn slots(&self, index: usize) -> std::ops::Range<usize> {
        SLOTS * index / self.primaries..SLOTS * (index + 1) / self.primaries
    }

    async fn join(&self) -> io::Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            let epoch = (index + 1).to_string();
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])
                .await?;
        }
        for (index, node) in self.nodes[..self.primaries].iter().enumerate() {
            let slots: Vec<String> = self.slots(index).map(|slot| slot.to_string()).collect();
            let mut command = vec!["CLUSTER", "ADDSLOTS"];
            command.extend(slots.iter().map(String::as_str));
            node.command(&command).await?;
        }
        let first = self.nodes[0].addr();
        let (ip, port) = (first.ip().to_string(), first.port().to_string());
        for node in &self.nodes[1..] {
            node.command(&["CLUSTER", "MEET", &ip, &port]).await?;
        }
        self.each_knows(&format!("cluster_known_nodes:{}", self.nodes.len()))
            .await?;
        for (index, replica) in self.nodes[self.primaries..].iter().enumerate() {
            let primary = self.nodes[index].command(&["CLUSTER", "MYID"]).await?;
            replica.command(&["CLUSTER", "REPLICATE", &primary]).await?;
        }
        self.each_knows("cluster_state:ok").await?;
        for replica in &self.nodes[self.primaries..] {
            while !info(replica, "replication")
                .await?
                .contains("master_link_status:up")
            {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Waits until every node's `CLUSTER INFO` has the line `fact`.
    async fn each_knows(&self, fact: &str) -> io::Result<()> {
        for node in &self.nodes {
            while !knows(node, fact).await? {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Whether every node except the killed one `without` serves all slots and knows the replica as the primary.
    async fn all_agree(&self, without: usize) -> io::Result<bool> {
        let replica = &self.nodes[self.primaries + without];
        let id = replica.command(&["CLUSTER", "MYID"]).await?;
        for (index, node) in self.nodes.iter().enumerate() {
            if index == without {
                continue;
            }
            let nodes = node.command(&["CLUSTER", "NODES"]).await?;
            let mut lines = nodes.lines();
            let promoted = lines.any(|line| line.starts_with(&*id) && line.contains("master"));
            if !promoted || !knows(node, "cluster_state:ok").await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn knows(node: &RedisServer, fact: &str) -> io::Result<bool> {
    let info = node.command(&["CLUSTER", "INFO"]).await?;
    Ok(info.lines().any(|line| line == fact))
}

async fn info(node: &RedisServer, section: &str) -> io::Result<String> {
    node.command(&["INFO", section]).await
}
