//! What becomes of connections to a provider: kept, closed after a while, and never in the way of other calls.
//!
//! One thread, so that the gateway, the provider and the test see the same time and the same kept connections.

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

/// What should come at once has come by then.
const DEADLINE: Duration = Duration::from_secs(10);

/// A provider that answers on as many connections as come, and counts them. It ends with this.
struct Provider {
    url: String,
    accepted: Arc<AtomicUsize>,
    /// Connections that the gateway has closed.
    closed: watch::Receiver<usize>,
    orders: watch::Sender<Orders>,
    /// Requests that came and were left without an answer.
    unanswered: watch::Receiver<usize>,
    _serving: JoinSet<()>,
}

/// What the provider is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Orders {
    /// It leaves requests unanswered.
    is_silent: bool,
    /// It sends nothing more on the connections that there are, each time that this changes.
    finished: usize,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        let (closing, closed) = watch::channel(0);
        let (leaving, unanswered) = watch::channel(0);
        let (orders, given) = watch::channel(Orders::default());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (closing, given) = (closing.clone(), given.clone());
                let leaving = leaving.clone();
                connections.spawn(async move {
                    serve(stream, given, leaving).await;
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

    /// Waits until the gateway has closed so many connections.
    async fn closed(&mut self, connections: usize) {
        until(&mut self.closed, connections).await;
    }

    /// Waits until so many requests were left without an answer.
    async fn unanswered(&mut self, requests: usize) {
        until(&mut self.unanswered, requests).await;
    }
}

async fn until(count: &mut watch::Receiver<usize>, enough: usize) {
    let reached = count.wait_for(|count| *count >= enough);
    timeout(DEADLINE, reached).await.unwrap().unwrap();
}

/// Answers each request until the other side closes.
async fn serve(
    mut stream: TcpStream,
    mut orders: watch::Receiver<Orders>,
    leaving: watch::Sender<usize>,
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
        // The end of every body that the client here sends.
        if request.ends_with(b"}]}") {
            request.clear();
            if orders.borrow().is_silent {
                leaving.send_modify(|unanswered| *unanswered += 1);
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

/// Lets so much time pass in a moment.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_is_kept_for_a_while_and_closed_when_nobody_used_it() {
    let mut provider = Provider::start().await;
    let settings = pool_at(&provider.url, Duration::from_secs(5)).await;
    let running = Running::start_on(settings, 1).await;
    let mut client = Client::new(running.addr);
    served(&mut client).await;
    pass(Duration::from_secs(40)).await;
    served(&mut client).await;
    pass(Duration::from_secs(40)).await;
    served(&mut client).await;
    assert_eq!(provider.accepted(), 1, "it is used again, and stays fresh");
    pass(Duration::from_secs(60)).await;
    provider.closed(1).await;
    served(&mut client).await;
    assert_eq!(provider.accepted(), 2);
    client.hang_up();
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_connection_that_the_provider_closed_is_closed_here_too_with_no_call_to_find_it() {
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
async fn a_kept_connection_that_breaks_long_after_a_call_was_sent_is_a_failure_of_that_call() {
    for (waits, attempts) in [(1, 1), (3, 2)] {
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
        pass(Duration::from_secs(waits)).await;
        provider.be_silent(false);
        provider.finish();
        let called = timeout(DEADLINE, calling.join_next()).await.unwrap();
        let (answer, mut client) = called.unwrap().unwrap();
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.attempts),
            (200, attempts),
            "after {waits} s"
        );
        assert_eq!(provider.accepted(), 2);
        client.hang_up();
        assert!(running.stop().await);
    }
}

#[tokio::test]
async fn a_handshake_that_hangs_holds_up_no_other_call_for_long() {
    // It takes connections and says nothing: TLS never begins.
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
    // None of them has ended meanwhile: the handshakes were side by side.
    assert!(calls.try_join_next().is_none());
    calls.shutdown().await;
    assert!(running.stop().await);
}
