//! A connection that is replaced when it is lost.
//!
//! While there is none, calls fail at once instead of waiting: what happens without Redis is for the caller to decide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::connection::Connection;
use super::error::RedisError;
use super::target::{RedisTarget, RedisTimeouts};

/// Wait after the first attempt to connect that failed; it doubles up to [`LONGEST_WAIT`]. So Redis is used again within
/// a second of its return.
const FIRST_WAIT: Duration = Duration::from_millis(25);
const LONGEST_WAIT: Duration = Duration::from_millis(400);
/// A connection to a cluster is replaced at most this often: it repairs its nodes itself, and knows better which. One to a
/// server that is lost sooner than this is replaced after a wait that grows, so that calls that a server closes or refuses
/// do not each cause a new one.
const SOON: Duration = Duration::from_secs(1);

/// The connection of a client.
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// Tells the task which connection failed. The task ends when this is dropped.
    lost: mpsc::Sender<u64>,
    /// The number of responses so far, of all calls.
    responses: AtomicU64,
    response_timeout: Duration,
}

#[derive(Clone)]
enum State {
    /// The first attempt after the start or a loss: calls wait for it.
    Connecting,
    Up {
        connection: Connection,
        /// Its number, so that only the current connection is replaced.
        number: u64,
    },
    /// The last attempt failed; others follow.
    Down(RedisError),
}

impl Link {
    /// Begins to connect, on the runtime that it is called in.
    pub(super) fn start(target: RedisTarget, timeouts: RedisTimeouts) -> Self {
        let (states, state) = watch::channel(State::Connecting);
        let (lost, losses) = mpsc::channel(1);
        let task = Connector {
            target,
            timeouts,
            states,
        };
        tokio::runtime::Handle::current().spawn(task.run(losses));
        Self {
            state,
            lost,
            responses: AtomicU64::new(0),
            response_timeout: timeouts.response,
        }
    }

    /// Sends one command. Returns within the response timeout.
    pub(super) async fn send(&self, command: &Cmd, deadline: Instant) -> Result<Value, RedisError> {
        let (mut connection, number) = self.connection(deadline).await?;
        let before = self.responses.load(Ordering::Relaxed);
        let error = match timeout_at(deadline, connection.send(command)).await {
            Ok(Ok(value)) => {
                self.responses.fetch_add(1, Ordering::Relaxed);
                return Ok(value);
            }
            Ok(Err(error)) => RedisError::from(error),
            Err(_) => RedisError::Timeout,
        };
        let lost = match error {
            RedisError::Unreachable { .. } => true,
            // A slow call among others that are answered is no reason; a connection on which nothing comes back is.
            RedisError::Timeout => self.responses.load(Ordering::Relaxed) == before,
            // A replica that was a primary, behind the same address: the name may lead elsewhere by now.
            RedisError::ReadOnly => true,
            _ => {
                self.responses.fetch_add(1, Ordering::Relaxed);
                false
            }
        };
        if lost {
            // A full channel means that another call has said so.
            let _ = self.lost.try_send(number);
        }
        Err(error)
    }

    /// The instant at which a call that begins now must have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.response_timeout
    }

    /// Whether the last attempt to connect failed, so that calls would fail at once.
    pub(super) fn is_down(&self) -> bool {
        matches!(&*self.state.borrow(), State::Down(_))
    }

    /// The number of the current connection.
    pub(super) fn number(&self) -> Option<u64> {
        match &*self.state.borrow() {
            State::Up { number, .. } => Some(*number),
            State::Connecting | State::Down(_) => None,
        }
    }

    /// Why there is no connection at the moment.
    pub(super) fn problem(&self) -> Option<RedisError> {
        match &*self.state.borrow() {
            State::Up { .. } => None,
            State::Connecting => Some(connecting()),
            State::Down(error) => Some(error.clone()),
        }
    }

    async fn connection(&self, deadline: Instant) -> Result<(Connection, u64), RedisError> {
        if let State::Up { connection, number } = &*self.state.borrow() {
            return Ok((connection.clone(), *number));
        }
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Connecting));
        let known = timeout_at(deadline, known)
            .await
            .map_err(|_| connecting())?;
        match known.as_deref() {
            Ok(State::Up { connection, number }) => Ok((connection.clone(), *number)),
            Ok(State::Down(error)) => Err(error.clone()),
            Ok(State::Connecting) | Err(_) => Err(connecting()),
        }
    }
}

fn connecting() -> RedisError {
    RedisError::Unreachable {
        detail: "still connecting".to_owned(),
    }
}

/// The task that keeps a link connected. It ends with the link.
struct Connector {
    target: RedisTarget,
    timeouts: RedisTimeouts,
    states: watch::Sender<State>,
}

impl Connector {
    async fn run(self, losses: mpsc::Receiver<u64>) {
        tokio::select! {
            () = self.states.closed() => {}
            () = self.keep_connected(losses) => {}
        }
    }

    async fn keep_connected(&self, mut losses: mpsc::Receiver<u64>) {
        let mut wait = FIRST_WAIT;
        for number in 0.. {
            let connection = self.connect().await;
            let begun = Instant::now();
            self.states.send_replace(State::Up { connection, number });
            while losses.recv().await.is_some_and(|lost| lost != number) {}
            // Meanwhile calls use the old connection: of a cluster, other nodes may serve.
            match (self.target.cluster, begun.elapsed() < SOON) {
                (true, _) => sleep_until(begun + SOON).await,
                (false, true) => {
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                (false, false) => wait = FIRST_WAIT,
            }
            if !self.target.cluster {
                self.states.send_replace(State::Connecting);
            }
        }
    }

    /// Tries until it succeeds.
    async fn connect(&self) -> Connection {
        let mut wait = FIRST_WAIT;
        loop {
            match Connection::open(&self.target, self.timeouts).await {
                Ok(connection) => return connection,
                Err(error) => self.states.send_replace(State::Down(error)),
            };
            // Several gateways that lost the same server should not return at the same instant.
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}
