//! The mock provider: answers like OpenAI, Anthropic, Gemini, Ark and Tavily, fails as it is told to, and counts what it saw.
//!
//! It must never know the gateway, its settings or its words: a test that shares code with what it tests proves nothing.

mod answer;
mod anthropic;
mod body;
mod call;
mod control;
mod gemini;
mod kept;
mod openai;
mod prompt_cache;
mod reading;
mod recorded;
mod route;
mod script;
mod server;
mod shape;
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

pub use recorded::{KEPT_BODY, Recorded, fnv1a};
pub use script::{Behaviour, Seen, Step};
pub use state::KEPT_REQUESTS;
use state::State;

/// A handle on a running mock provider; clones share it. The server ends with `shutdown`, or when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Mock {
    inner: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    addr: SocketAddr,
    state: Arc<State>,
    /// The server ends when this says `true`, and when it is dropped.
    stop: watch::Sender<bool>,
    /// Closes when the server has ended.
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

    /// Starts on `addr`; `defaults` is how keys behave that were told nothing else.
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

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// `http://127.0.0.1:1234`, without a slash at the end.
    pub fn origin(&self) -> String {
        format!("http://{}", self.inner.addr)
    }

    /// What the next requests with `key` meet, in order; afterwards the key's behaviour holds again.
    /// A scripted step is not subject to the behaviour's limits and faults. `"*"`: the next requests of any key without steps of its own.
    pub fn script(&self, key: &str, steps: impl IntoIterator<Item = Step>) {
        self.inner.state.script(key, steps);
    }

    /// The standing behaviour of `key`; `"*"` sets that of all keys without one.
    pub fn behave(&self, key: &str, behaviour: Behaviour) {
        self.inner.state.behave(key, behaviour);
    }

    /// Adds keys that `Behaviour::require_key` lets in.
    pub fn allow_keys<I: IntoIterator<Item = S>, S: Into<String>>(&self, keys: I) {
        self.inner
            .state
            .allow_keys(keys.into_iter().map(Into::into));
    }

    /// Starts the random numbers (`fail_share`) anew from `seed`; they start from a fixed one.
    pub fn seed(&self, seed: u64) {
        self.inner.state.seed(seed);
    }

    /// What `key` has met so far; all zero for a key never seen.
    pub fn seen(&self, key: &str) -> Seen {
        self.inner.state.seen(key)
    }

    /// The same for every key seen.
    pub fn seen_all(&self) -> BTreeMap<String, Seen> {
        self.inner.state.seen_all()
    }

    /// Waits until what `key` has met satisfies `reached`. Has no limit of its own: tests put a timeout around it.
    pub async fn wait_for(&self, key: &str, reached: impl Fn(&Seen) -> bool) {
        self.inner.state.wait_for(key, reached).await;
    }

    /// The last request with `key`.
    pub fn last_request(&self, key: &str) -> Option<Recorded> {
        self.inner.state.last_request(key)
    }

    /// The newest requests of all keys, oldest first, at most [`KEPT_REQUESTS`].
    pub fn recorded(&self) -> Vec<Recorded> {
        self.inner.state.recorded()
    }

    /// Forgets counts, recordings, scripts, behaviours and allowed keys: as freshly started.
    pub fn clear(&self) {
        self.inner.state.clear();
    }

    /// Ends the server: the port closes and connections break.
    pub fn shutdown(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Waits until the server has ended and its port is free.
    pub async fn stopped(&self) {
        let mut alive = self.inner.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// Steps that tests need often.
impl Step {
    /// `status` with a JSON or text body and no further headers.
    pub fn status(status: u16, body: impl Into<String>) -> Step {
        Step::Status {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// 429 in the form of the protocol called, to be tried again after `seconds`.
    pub fn rate_limited(seconds: u64) -> Step {
        Step::Refuse {
            status: 429,
            retry_after: Some(seconds),
        }
    }

    /// `status` with an error body in the form of the protocol called.
    pub fn refuse(status: u16) -> Step {
        Step::Refuse {
            status,
            retry_after: None,
        }
    }

    /// A normal answer after `millis` milliseconds.
    pub fn slow_ms(millis: u64) -> Step {
        Step::Slow(Duration::from_millis(millis))
    }
}
