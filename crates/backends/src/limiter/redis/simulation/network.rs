//! A simulated network between nodes and a server: it delays, loses, repeats and reorders what is sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::server::Server;

/// How bad the network is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions {
    /// The usual longest delay in each direction.
    pub(super) delay: Duration,
    /// Parts of the requests and replies that are lost, and of the requests that arrive once more.
    pub(super) lost: f64,
    pub(super) repeated: f64,
    /// Part of the messages that take up to a second.
    pub(super) late: f64,
}

/// The network of one server, and the server.
pub(super) struct Network {
    pub(super) server: Server,
    conditions: Conditions,
    random: Mutex<fastrand::Rng>,
    /// Number of the server's current connections. Older ones are closed.
    generation: AtomicU64,
    /// Until when the server cannot be reached.
    down_until: Mutex<Instant>,
}

/// Where one node is in the network.
#[derive(Clone)]
pub(in super::super) struct Endpoint {
    network: Arc<Network>,
    /// Until when nothing passes.
    stalled_until: Arc<Mutex<Instant>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endpoint")
    }
}

/// A connection.
#[derive(Clone)]
pub(in super::super) struct Wire {
    endpoint: Endpoint,
    generation: u64,
}

impl Network {
    pub(super) fn new(conditions: Conditions, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            server: Server::new(),
            conditions,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            generation: AtomicU64::new(0),
            down_until: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn endpoint(self: &Arc<Self>) -> Endpoint {
        Endpoint {
            network: Arc::clone(self),
            stalled_until: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// The server closes all connections and accepts none for a while.
    pub(super) fn go_down(&self, time: Duration) {
        *self.down_until.lock() = Instant::now() + time;
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn chance(&self, part: f64) -> bool {
        self.random.lock().f64() < part
    }

    fn delay(&self) -> Duration {
        let late = self.chance(self.conditions.late);
        let longest = if late {
            Duration::from_secs(1)
        } else {
            self.conditions.delay
        };
        longest.mul_f64(self.random.lock().f64())
    }
}

impl Endpoint {
    /// Nothing passes to or from this node for a while.
    pub(super) fn stall(&self, time: Duration) {
        *self.stalled_until.lock() = Instant::now() + time;
    }

    pub(in super::super) async fn connect(&self) -> Result<Wire, redis::RedisError> {
        self.pass().await;
        if *self.network.down_until.lock() > Instant::now() {
            return Err(closed());
        }
        Ok(Wire {
            endpoint: self.clone(),
            generation: self.network.generation.load(Ordering::Relaxed),
        })
    }

    /// Waits for one way.
    async fn pass(&self) {
        sleep(self.network.delay()).await;
        let stalled_until = *self.stalled_until.lock();
        sleep_until(stalled_until).await;
    }
}

fn closed() -> redis::RedisError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

impl Wire {
    /// Sends a command. It may arrive although nobody waits for the reply any more.
    pub(in super::super) async fn send(&self, command: &Cmd) -> Result<Value, redis::RedisError> {
        let (wire, command) = (self.clone(), command.clone());
        let (reply, replied) = oneshot::channel();
        tokio::spawn(async move {
            let value = wire.exchange(&command).await;
            let _ = reply.send(value);
            if wire
                .endpoint
                .network
                .chance(wire.endpoint.network.conditions.repeated)
            {
                let _ = wire.exchange(&command).await;
            }
        });
        match replied.await {
            Ok(Some(value)) => value,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// `None`: the request or the reply is lost.
    async fn exchange(&self, command: &Cmd) -> Option<Result<Value, redis::RedisError>> {
        let network = &self.endpoint.network;
        self.endpoint.pass().await;
        if network.chance(network.conditions.lost) {
            return None;
        }
        if self.is_closed() {
            return Some(Err(closed()));
        }
        let value = network.server.run(command);
        self.endpoint.pass().await;
        if self.is_closed() {
            return Some(Err(closed()));
        }
        (!network.chance(network.conditions.lost)).then_some(value)
    }

    fn is_closed(&self) -> bool {
        self.endpoint.network.generation.load(Ordering::Relaxed) != self.generation
    }
}
