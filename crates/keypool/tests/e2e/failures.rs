//! A failing key must not cause blame for a healthy one, a call that runs twice, or a connection over the cap.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keypool_testkit::{Mock, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::{
    CHAT_PATH, DEADLINE, Gateway, PoolConfig, STREAM, eventually, key, pool, within,
};
use crate::http::End;

#[tokio::test]
async fn a_key_that_hangs_until_the_deadline_is_the_only_one_blamed() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", 1..=3).set("timeouts.total", "1s");
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(&key(1), [Step::Hang]);
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.attempts()),
        (504, "upstream_timeout", "1"),
        "{reply:?}"
    );
    let stats = gw.stats().await["p"].clone();
    for (name, attempts) in [("p-1", 1), ("p-2", 0), ("p-3", 0)] {
        assert_eq!(
            (
                &stats[name]["total_requests"],
                &stats[name]["failed_requests"]
            ),
            (&json!(attempts), &json!(attempts)),
            "{name}: {stats}"
        );
    }
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn a_key_with_too_little_time_left_is_not_blamed() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", 1..=2)
        .set("timeouts.total", "3s")
        .set("timeouts.first_byte", "1800ms");
    let gw = Gateway::start(&config.to_string()).await;
    mock.script("*", [Step::Hang, Step::Hang]);
    let reply = gw.post(CHAT_PATH, STREAM).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.attempts()),
        (504, "upstream_timeout", "2"),
        "{reply:?}"
    );
    let stats = gw.stats().await["p"].clone();
    for (name, failed) in [("p-1", 1), ("p-2", 0)] {
        assert_eq!(
            (
                &stats[name]["total_requests"],
                &stats[name]["failed_requests"]
            ),
            (&json!(1), &json!(failed)),
            "{name}: {stats}"
        );
    }
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn a_call_that_may_have_run_does_not_get_an_earlier_refusal() {
    // Whether the response is stored (then the call is not repeatable), status, attempts, calls of the third key.
    for (store, status, attempts, third) in [
        ("", 502, "2", 0),
        (",\"store\":true", 502, "2", 0),
        (",\"store\":false", 200, "3", 1),
    ] {
        let mock = Mock::start().await.unwrap();
        let gw = Gateway::start(&pool(&mock, 3)).await;
        mock.script(&key(1), [Step::rate_limited(30)]);
        mock.script(&key(2), [Step::Reset, Step::Reset]);
        let body = format!("{{\"model\":\"gpt-x\",\"input\":\"hello\"{store}}}");
        let reply = gw.post("/v1/responses", &body).await;
        assert_eq!(
            (reply.status, reply.attempts()),
            (status, attempts),
            "{store}: {reply:?}"
        );
        if status == 502 {
            assert_eq!(reply.code(), "upstream_unreachable", "{reply:?}");
            assert_eq!(
                mock.seen(&key(2)).requests,
                1,
                "{store}: the call was repeated"
            );
        }
        assert_eq!(mock.seen(&key(3)).requests, third, "{store}");
        gw.stop().await;
    }
}

/// A provider whose streams all begin with an error and stay open until the other side closes them.
struct OpenEnded {
    addr: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// Calls that arrived while the connection of the one before was still open.
    at_once: Arc<AtomicUsize>,
    /// Stops when dropped.
    _serving: JoinSet<()>,
}

/// The event that the provider sends.
const ERROR_EVENT: &str = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";

impl OpenEnded {
    async fn start() -> OpenEnded {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (calls, at_once) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&calls), Arc::clone(&at_once));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let open = Arc::new(watch::Sender::new(0usize));
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (calls, at_once) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                let open = Arc::clone(&open);
                connections.spawn(async move {
                    let stream = receive(stream).await;
                    calls.fetch_add(1, Ordering::SeqCst);
                    if !is_free(&open).await {
                        at_once.fetch_add(1, Ordering::SeqCst);
                    }
                    open.send_modify(|open| *open += 1);
                    refuse_and_stay(stream).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        OpenEnded {
            addr,
            calls,
            at_once,
            _serving: serving,
        }
    }
}

/// Reads one request, whose body is known.
async fn receive(mut stream: TcpStream) -> TcpStream {
    let mut request = Vec::new();
    while !request.ends_with(STREAM.as_bytes()) {
        let n = stream.read_buf(&mut request).await.expect("a request");
        assert!(n > 0, "a request broke off");
    }
    stream
}

/// Whether all connections are closed; waits a while for a close in transit.
async fn is_free(open: &watch::Sender<usize>) -> bool {
    let mut changes = open.subscribe();
    let closed = changes.wait_for(|open| *open == 0);
    timeout(DEADLINE / 4, closed).await.is_ok()
}

/// Answers with an error in a stream that does not end.
async fn refuse_and_stay(mut stream: TcpStream) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{ERROR_EVENT}\r\n",
        ERROR_EVENT.len()
    );
    // Fails if the other side has gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let mut rest = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut rest).await {}
}

#[tokio::test]
async fn a_retained_error_holds_no_connection_during_retries() {
    let provider = OpenEnded::start().await;
    let config = PoolConfig::at(&format!("http://{}", provider.addr), "p", [1])
        .set("max_concurrent_per_key", 1);
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    let mut requests = JoinSet::new();
    for _ in 0..3 {
        let gw = Arc::clone(&gw);
        requests.spawn(async move { gw.post(CHAT_PATH, STREAM).await });
    }
    // The provider never ends its streams, so an answer comes only if keypool does not wait for their end.
    for reply in within(requests.join_all()).await {
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.end),
            (200, ERROR_EVENT, End::Proper),
            "{reply:?}"
        );
        assert_eq!(reply.attempts(), "2");
    }
    assert_eq!(
        (
            provider.calls.load(Ordering::SeqCst),
            provider.at_once.load(Ordering::SeqCst)
        ),
        (6, 0),
        "calls, and calls that came while another was open"
    );
    let gw = Arc::into_inner(gw).expect("all calls have ended");
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn a_truncated_error_body_reaches_the_client() {
    const CAME: &str = r#"{"error":{"message":"made up"#;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut provider = JoinSet::new();
    provider.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = receive(stream).await;
            let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 500\r\n\r\n";
            let _ = stream.write_all(format!("{head}{CAME}").as_bytes()).await;
        }
    });
    let config = PoolConfig::at(&format!("http://{addr}"), "p", [1]).set("retry.retries", 0);
    let gw = Gateway::start(&config.to_string()).await;
    let reply = gw.post(CHAT_PATH, STREAM).await;
    assert_eq!(
        (reply.status, reply.text().as_str(), reply.end),
        (503, CAME, End::Proper),
        "{reply:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn the_log_reports_each_trouble_of_a_pool_and_its_recovery() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let reports = || -> Vec<&str> {
        let log = gw.log();
        let lines = log.lines().filter_map(|line| {
            let marks = ["some_keys_fail", "recovered"];
            marks.into_iter().find(|mark| line.contains(mark))
        });
        lines.collect()
    };
    let mut expect = Vec::new();
    // One recovery by a reset, one by the end of a cooldown, and one more by a reset.
    for (step, repaired) in [
        (Step::refuse(401), true),
        (Step::rate_limited(1), false),
        (Step::refuse(401), true),
    ] {
        mock.script("*", [step.clone()]);
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.attempts()), (200, "2"), "{reply:?}");
        expect.push("some_keys_fail");
        eventually("the trouble is logged", || reports().len() >= expect.len()).await;
        if repaired {
            gw.reset("p", "p-1").await;
            gw.reset("p", "p-2").await;
        }
        expect.push("recovered");
        let began = Instant::now();
        while reports().len() < expect.len() {
            assert!(began.elapsed() < DEADLINE, "no recovery: {step:?}");
            assert_eq!(gw.chat().await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(reports(), expect, "{step:?}");
    }
    gw.stop().await;
}
