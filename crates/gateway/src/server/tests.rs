//! What is written to a client's connection, observed on the gateway's side.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use crate::settings::Settings;
use keypool_core::clock::Clock;
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::{KeySettings, PoolSettings, RetrySettings, Strategy};
use keypool_testkit::{Behaviour, Mock, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::timeout;

use super::*;
use crate::clock::PollClock;

const DEADLINE: Duration = Duration::from_secs(10);

fn settings(mock: &Mock) -> Settings {
    let base_url = mock.origin().parse().unwrap();
    let key = KeySettings::new("key", Secret::new("a-made-up-key"), base_url);
    let pool = PoolSettings {
        second_opinion: true,
        name: "pool".into(),
        provider: "mock",
        strategy: Strategy::RoundRobin,
        models: vec!["*".into()],
        keys: vec![key],
        retry: RetrySettings {
            backoff: Duration::from_millis(1),
            ..RetrySettings::default()
        },
        source: "test".into(),
        ..PoolSettings::default()
    };
    Settings {
        pools: vec![pool.into()],
        ..Settings::default()
    }
}

/// Counts the writes that would be system calls on a socket.
struct Counted {
    stream: DuplexStream,
    writes: Arc<Writes>,
}

#[derive(Default)]
struct Writes {
    number: AtomicUsize,
    /// Size of the largest write, in bytes.
    largest: AtomicUsize,
}

impl Writes {
    fn count(&self, length: usize) {
        self.number.fetch_add(1, Ordering::Relaxed);
        self.largest.fetch_max(length, Ordering::Relaxed);
    }

    fn number(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.writes.count(buf.len());
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.writes.count(bufs.iter().map(|buf| buf.len()).sum());
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn contains(bytes: &[u8], what: &str) -> bool {
    let mut parts = bytes.windows(what.len());
    parts.any(|part| part == what.as_bytes())
}

/// A client's connection to a gateway in front of `mock`.
struct Client {
    stream: DuplexStream,
    writes: Arc<Writes>,
    /// Dropping it tells the connection to finish.
    _closing: watch::Sender<()>,
}

impl Client {
    fn connect(mock: &Mock) -> Self {
        let load = || Err(vec!["nothing is loaded again".to_owned()]);
        let clock: Arc<dyn Clock> = Arc::new(PollClock);
        let token = Digest256::of(b"unused");
        let gw = Gateway::new(
            settings(mock),
            token,
            clock,
            crate::context::Backends::without_store(crate::limits::unlimited()),
            Box::new(load),
        );
        let admin = Arc::new(Admin::new(Arc::clone(&gw)));
        let (ours, stream) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(Writes::default());
        let counted = Counted {
            stream: ours,
            writes: Arc::clone(&writes),
        };
        let (closing, closed) = watch::channel(());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let tasks = gw.tasks.clone();
        let serving = serve_http(gw, admin, counted, peer, closed);
        tasks.spawn(PollScope::of(async move { drop(serving.await) }));
        Self {
            stream,
            writes,
            _closing: closing,
        }
    }

    async fn post(&mut self, path: &str, body: &str) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads until `what` has arrived, or to the end of the response.
    async fn read_until(&mut self, what: &str) -> String {
        let mut read = Vec::new();
        let reading = async {
            let mut searched = 0;
            while !contains(&read[searched..], what) {
                searched = read.len().saturating_sub(what.len());
                if self.stream.read_buf(&mut read).await.unwrap() == 0 {
                    break;
                }
            }
        };
        let arrived = timeout(DEADLINE, reading).await;
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(
            arrived.is_ok(),
            "{what:?} did not arrive within {DEADLINE:?}: {text}"
        );
        text
    }
}

const STREAM: &str =
    r#"{"model":"gpt-x","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
const JSON_STREAM: &str = "/v1beta/models/gemini-x:streamGenerateContent";
const GEMINI: &str = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;

#[tokio::test]
async fn events_that_arrive_together_are_written_together() {
    const EVENTS: usize = 600;
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "*",
        Behaviour {
            chunks: EVENTS,
            ..Behaviour::default()
        },
    );
    let mut client = Client::connect(&mock);
    client.post("/v1/chat/completions", STREAM).await;
    let response = client.read_until("data: [DONE]").await;
    let events = response.matches("data: {").count();
    assert!(events >= EVENTS, "{events} events");
    let writes = client.writes.number();
    assert!(
        writes <= events / 8,
        "{writes} writes for {events} events that arrived at once"
    );
}

#[tokio::test]
async fn events_that_arrive_one_by_one_are_written_one_by_one() {
    const EVENTS: usize = 8;
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "*",
        Behaviour {
            chunks: EVENTS,
            chunk_interval: Duration::from_millis(30),
            ..Behaviour::default()
        },
    );
    let mut client = Client::connect(&mock);
    client.post("/v1/chat/completions", STREAM).await;
    client.read_until("data: [DONE]").await;
    let writes = client.writes.number();
    assert!(writes >= EVENTS, "{writes} writes");
}

#[tokio::test]
async fn large_events_are_written_without_batching() {
    let mock = Mock::start().await.unwrap();
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(100 * 1024));
    let stream = Step::Status {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        body: format!("{}data: [DONE]\n\n", event.repeat(60)),
    };
    mock.script("*", [stream]);
    let mut client = Client::connect(&mock);
    client.post("/v1/chat/completions", STREAM).await;
    client.read_until("data: [DONE]").await;
    let largest = client.writes.largest.load(Ordering::Relaxed);
    assert!(largest <= 1 << 20, "{largest} bytes were held at once");
}

#[tokio::test]
async fn white_space_before_a_json_stream_is_held_up_to_64_kib() {
    let mock = Mock::start().await.unwrap();
    // The stream itself does not arrive in this test: what arrives is what was no longer held.
    let prelude = Step::Prelude {
        text: " \n".repeat(34 * 1024),
        pause: DEADLINE * 100,
    };
    mock.script("*", [prelude]);
    let mut client = Client::connect(&mock);
    client.post(JSON_STREAM, GEMINI).await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Less is held until its meaning is known: here it precedes an error, so another attempt is made.
    let error = r#"[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]"#;
    let refused = Step::InBandError {
        status: None,
        body: format!("{}{error}", " \n".repeat(30 * 1024)),
    };
    mock.script("*", [refused]);
    let mut client = Client::connect(&mock);
    client.post(JSON_STREAM, GEMINI).await;
    let response = client.read_until("\"candidates\"").await;
    assert!(response.contains("x-keypool-attempts: 2"), "{response}");
    assert!(!response.contains("UNAVAILABLE"), "{response}");
}
