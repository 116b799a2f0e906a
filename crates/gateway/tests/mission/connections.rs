//! Connections to a provider: reused, closed after a while, and never blocking other calls.
//!
//! On one thread, so that the gateway, the provider and the test share the same time and the same idle connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keypool_core::settings::PoolSettings;
use keypool_testkit::Mock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{Client, Running, pool};

/// A generous limit for what should happen immediately.
const DEADLINE: Duration = Duration::from_secs(10);

/// A provider that answers on every connection and counts them. Dropping it stops it.
struct Provider {
    url: String,
    accepted: Arc<AtomicUsize>,
    /// Number of connections that the gateway has closed.
    closed: watch::Receiver<usize>,
    orders: watch::Sender<Orders>,
    /// Number of requests that were left unanswered.
    unanswered: watch::Receiver<usize>,
    _serving: JoinSet<()>,
}

/// What the provider should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Orders {
    /// Leave requests unanswered.
    is_silent: bool,
    /// Whenever this changes, finish all open connections.
    finished: usize,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        let (closing, closed) = watch::channel(0);
        let (ignoring, unanswered) = watch::channel(0);
        let (orders, received) = watch::channel(Orders::default());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (closing, received) = (closing.clone(), received.clone());
                let ignoring = ignoring.clone();
                connections.spawn(async move {
                    serve(stream, received, ignoring).await;
                    closing.send_modify(|closed| *closed += 1);
                });
            }
        });
        Self {
            url,
            accepted,
            closed,
            orders,
            unanswered,
            _serving: serving,
        }
    }

    fn finish(&self) {
        self.orders.send_modify(|orders| orders.finished += 1);
    }

    fn be_silent(&self, is_silent: bool) {
        self.orders
            .send_modify(|orders| orders.is_silent = is_silent);
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until the gateway has closed this many connections.
    async fn closed(&mut self, connections: usize) {
        until(&mut self.closed, connections).await;
    }

    /// Waits until this many requests were left unanswered.
    async fn unanswered(&mut self, requests: usize) {
        until(&mut self.unanswered, requests).await;
    }
}

async fn until(count: &mut watch::Receiver<usize>, enough: usize) {
    let reached = count.wait_for(|count| *count >= enough);
    timeout(DEADLINE, reached).await.unwrap().unwrap();
}

/// Answers each request until the gateway closes the connection.
async fn serve(
    mut stream: TcpStream,
    mut orders: watch::Receiver<Orders>,
    ignoring: watch::Sender<usize>,
) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"id\":1}";
    let mut request = Vec::new();
    let before = orders.borrow().finished;
    loop {
        let is_finished = tokio::select! {
            read = stream.read_buf(&mut request) => match read {
                Ok(1..) => false,
                _ => return,
            },
            finish = orders.wait_for(|orders| orders.finished > before) => finish.is_ok(),
        };
        if is_finished {
            stream.shutdown().await.unwrap();
            while let Ok(1..) = stream.read_buf(&mut request).await {}
            return;
        }
        // Every body of the test's client ends like this.
        if request.ends_with(b"}]}") {
            request.clear();
            if orders.borrow().is_silent {
                ignoring.send_modify(|unanswered| *unanswered += 1);
                continue;
            }
            stream.write_all(ANSWER).await.unwrap();
        }
    }
}

async fn pool_at(url: &str, connect: Duration) -> PoolSettings {
    let mock = Mock::start().await.unwrap();
    let mut settings = pool(&mock, 1);
    settings.keys[0].base_url = url.parse().unwrap();
    settings.timeouts.connect = connect;
    settings
}

async fn served(client: &mut Client) {
    let answer = timeout(DEADLINE, client.chat("m", false)).await.unwrap();
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.attempts), (200, 1));
}

/// Lets `time` pass instantly.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_is_reused_and_closed_when_idle_for_too_long() {
    let mut provider = Provider::start().await;
    let settings = pool_at(&provider.url, Duration::from_secs(5)).await;
    let running = Running::start_on(settings, 1).await;
    let mut client = Client::new(running.addr);
    served(&mut client).await;
    pass(Duration::from_secs(40)).await;
    served(&mut client).await;
    pass(Duration::from_secs(40)).await;
    served(&mut client).await;
    assert_eq!(
        provider.accepted(),
        1,
        "it is reused, and each use keeps it open"
    );
    pass(Duration::from_secs(60)).await;
    provider.closed(1).await;
    served(&mut client).await;
    assert_eq!(provider.accepted(), 2);
    client.hang_up();
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_connection_closed_by_the_provider_is_closed_without_a_call() {
    let mut provider = Provider::start().await;
    let settings = pool_at(&provider.url, Duration::from_secs(5)).await;
    let running = Running::start_on(settings, 1).await;
    let mut client = Client::new(running.addr);
    served(&mut client).await;
    provider.finish();
    pass(Duration::from_secs(6)).await;
    provider.closed(1).await;
    client.hang_up();
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_reused_connection_that_breaks_late_is_a_failed_attempt() {
    for (delay, attempts) in [(1, 1), (3, 2)] {
        let mut provider = Provider::start().await;
        let mut settings = pool_at(&provider.url, Duration::from_secs(5)).await;
        settings.retry.backoff = Duration::from_millis(5);
        let running = Running::start_on(settings, 1).await;
        let mut client = Client::new(running.addr);
        served(&mut client).await;
        provider.be_silent(true);
        let mut calling = JoinSet::new();
        calling.spawn(async move { (client.chat("m", false).await, client) });
        provider.unanswered(1).await;
        pass(Duration::from_secs(delay)).await;
        provider.be_silent(false);
        provider.finish();
        let called = timeout(DEADLINE, calling.join_next()).await.unwrap();
        let (answer, mut client) = called.unwrap().unwrap();
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.attempts),
            (200, attempts),
            "after {delay} s"
        );
        assert_eq!(provider.accepted(), 2);
        client.hang_up();
        assert!(running.stop().await);
    }
}

#[tokio::test]
async fn a_hanging_handshake_does_not_block_other_calls_for_long() {
    // It accepts connections and sends nothing: TLS never starts.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let connect = Duration::from_secs(120);
    let running = Running::start_on(pool_at(&url, connect).await, 1).await;
    let mut calls = JoinSet::new();
    let mut hanging = Vec::new();
    for call in 1..=3 {
        let mut client = Client::new(running.addr);
        calls.spawn(async move { client.chat("m", false).await.map(|answer| answer.status) });
        let accepted = timeout(DEADLINE, listener.accept()).await;
        let (stream, _) = accepted
            .unwrap_or_else(|_| panic!("call {call} waits for another's handshake"))
            .unwrap();
        hanging.push(stream);
    }
    // None of them has ended: the handshakes ran side by side.
    assert!(calls.try_join_next().is_none());
    calls.shutdown().await;
    assert!(running.stop().await);
}
