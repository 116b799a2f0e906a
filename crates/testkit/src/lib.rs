//! The mock provider: responds like OpenAI, Anthropic, Gemini, Ark and Tavily, fails on demand, and counts its requests.
//! Beside it, for tests: real Redis and PostgreSQL servers, and a network that fails.
//!
//! This crate must never know the gateway or its settings: a test that shares code with what it tests proves nothing.

mod answer;
mod anthropic;
mod balances;
mod body;
mod call;
mod control;
mod gemini;
mod objects;
mod openai;
mod postgres;
mod prompt_cache;
mod quota;
mod recorded;
mod redis;
mod request_text;
mod route;
mod script;
mod server;
mod server_process;
mod shape;
mod stalling_proxy;
mod state;
mod tavily;
mod upload;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use postgres::{PostgresOptions, PostgresServer};
pub use quota::Quota;
pub use recorded::{MAX_RECORDED_BODY, Recorded, fnv1a};
pub use redis::{RedisCluster, RedisOptions, RedisServer};
pub use script::{Behaviour, Seen, Step};
pub use stalling_proxy::StallingProxy;
pub use state::MAX_RECORDED_REQUESTS;
use state::State;

/// A handle on a running mock provider. Clones share it. The server stops at `shutdown`, or when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Mock {
    inner: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    addr: SocketAddr,
    state: Arc<State>,
    /// The server stops when this is `true` or dropped.
    stop: watch::Sender<bool>,
    /// Closes when the server has stopped.
    alive: watch::Receiver<()>,
}

impl Mock {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Mock> {
        Self::start_on(
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Behaviour::default(),
        )
        .await
    }

    /// Starts on `addr`. `defaults` is the behaviour of keys that have none of their own.
    pub async fn start_on(addr: SocketAddr, defaults: Behaviour) -> io::Result<Mock> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State::new(defaults, addr.port()));
        let (stop, stopped) = watch::channel(false);
        let alive = server::start(listener, Arc::clone(&state), stopped);
        Ok(Mock {
            inner: Arc::new(Running {
                addr,
                state,
                stop,
                alive,
            }),
        })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Its origin, such as `http://127.0.0.1:1234`, without a trailing slash.
    pub fn origin(&self) -> String {
        format!("http://{}", self.inner.addr)
    }

    /// Sets what happens to the next requests with `key`, in order. Afterwards, the key's behaviour applies again.
    ///
    /// A scripted step ignores the behaviour's limits and faults. The key `"*"` scripts the next requests of any keys
    /// without steps of their own.
    pub fn script(&self, key: &str, steps: impl IntoIterator<Item = Step>) {
        self.inner.state.script(key, steps);
    }

    /// Sets the behaviour of `key`. The key `"*"` sets that of all keys without one of their own.
    pub fn behave(&self, key: &str, behaviour: Behaviour) {
        self.inner.state.behave(key, behaviour);
    }

    /// Sets what `key` has left. The key `"*"` sets it for all keys without a quota of their own. Without this call, a key has
    /// 1,000 credits, of which each response with status 200 costs one.
    pub fn set_quota(&self, key: &str, quota: Quota) {
        self.inner.state.set_quota(key, quota);
    }

    /// Adds keys that `Behaviour::require_key` accepts.
    pub fn allow_keys<I: IntoIterator<Item = S>, S: Into<String>>(&self, keys: I) {
        self.inner
            .state
            .allow_keys(keys.into_iter().map(Into::into));
    }

    /// Restarts the random numbers (for `fail_share`) from `seed`. Without this call, the seed is fixed.
    pub fn seed(&self, seed: u64) {
        self.inner.state.seed(seed);
    }

    /// The counts of `key` so far. All zero for a key without requests.
    pub fn seen(&self, key: &str) -> Seen {
        self.inner.state.seen(key)
    }

    /// The counts of every key with requests.
    pub fn seen_all(&self) -> BTreeMap<String, Seen> {
        self.inner.state.seen_all()
    }

    /// Waits until the counts of `key` satisfy `reached`. It has no timeout: tests put one around it.
    pub async fn wait_for(&self, key: &str, reached: impl Fn(&Seen) -> bool) {
        self.inner.state.wait_for(key, reached).await;
    }

    /// The last request with `key`.
    pub fn last_request(&self, key: &str) -> Option<Recorded> {
        self.inner.state.last_request(key)
    }

    /// The newest requests of all keys, oldest first, at most [`MAX_RECORDED_REQUESTS`].
    pub fn recorded(&self) -> Vec<Recorded> {
        self.inner.state.recorded()
    }

    /// Resets counts, recordings, scripts, behaviours, quotas and allowed keys to the state after start.
    pub fn clear(&self) {
        self.inner.state.clear();
    }

    /// Stops the server: closes the port and breaks connections.
    pub fn shutdown(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Waits until the server has stopped and its port is free.
    pub async fn stopped(&self) {
        let mut alive = self.inner.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// Common steps.
impl Step {
    /// `status` with a JSON or text body and no further headers.
    pub fn status(status: u16, body: impl Into<String>) -> Step {
        Step::Status {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// 429 in the format of the request's protocol, with a Retry-After of `seconds`.
    pub fn rate_limited(seconds: u64) -> Step {
        Step::Refuse {
            status: 429,
            retry_after: Some(seconds),
        }
    }

    /// `status` with an error body in the format of the request's protocol.
    pub fn refuse(status: u16) -> Step {
        Step::Refuse {
            status,
            retry_after: None,
        }
    }

    /// The normal response after `millis` milliseconds.
    pub fn slow_ms(millis: u64) -> Step {
        Step::Slow(Duration::from_millis(millis))
    }
}
