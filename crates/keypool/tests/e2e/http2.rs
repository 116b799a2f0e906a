//! HTTP/2 to providers that offer it, HTTP/1.1 to the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use h2::Reason;
use keypool_testkit::{Mock, Step, fnv1a};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig, STREAM, eventually, within};
use crate::http::{End, Reply};
use crate::http2_provider::{Ending, Frames, Http2Provider, Plan, Rule};
use crate::tls::{Authority, TlsProxy};

async fn gateway(authority: &Authority, addr: SocketAddr, keys: usize) -> Arc<Gateway> {
    let config = PoolConfig::at(&format!("https://{addr}"), "p", 1..=keys);
    Arc::new(Gateway::start_with(&config.to_string(), &[authority.env()]).await)
}

/// Sends the same request `n` times at once.
async fn at_once(
    gw: &Arc<Gateway>,
    n: usize,
    path: &'static str,
    body: &'static str,
) -> Vec<Reply> {
    let mut calls = JoinSet::new();
    for _ in 0..n {
        let gw = Arc::clone(gw);
        calls.spawn(async move { gw.post(path, body).await });
    }
    within(calls.join_all()).await
}

async fn stop(gw: Arc<Gateway>) {
    gw.all_idle().await;
    Arc::into_inner(gw)
        .expect("all calls have ended")
        .stop()
        .await;
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[tokio::test]
async fn calls_share_connections_up_to_the_providers_stream_limit() {
    const CALLS: usize = 50;
    let authority = Authority::new();
    for (streams, least) in [(10, 5), (1000, 1)] {
        let acceptor = authority.acceptor(&["127.0.0.1"], &["h2", "http/1.1"]);
        // The provider answers none before all have arrived, so they are in flight at the same time.
        let provider = Http2Provider::start(acceptor, streams, Rule::Together(CALLS)).await;
        let gw = gateway(&authority, provider.addr, 1).await;
        for reply in at_once(&gw, CALLS, CHAT_PATH, CHAT).await {
            assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
            assert_eq!(reply.text(), "{\"id\":\"2\"}");
        }
        let (connections, most) = (
            provider.connections(),
            provider.seen.most.load(Ordering::SeqCst),
        );
        assert!(
            (least..least + threads()).contains(&connections),
            "{connections} connections with {streams} streams each"
        );
        assert!(most <= streams as usize, "{most} of {streams}");
        assert_eq!(provider.seen.requests.load(Ordering::SeqCst), CALLS);
        // The connections are kept.
        assert_eq!(gw.chat().await.status, 200);
        assert_eq!(provider.connections(), connections);
        stop(gw).await;
    }
}

#[tokio::test]
async fn headers_are_translated_between_http1_and_http2() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["localhost"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::Together(1)).await;
    let addr = format!("localhost:{}", provider.addr.port());
    let config = PoolConfig::at(&format!("https://{addr}"), "p", [1]);
    let gw = Gateway::start_with(&config.to_string(), &[authority.env()]).await;
    let headers = [
        ("te", "trailers"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-mine", "2"),
    ];
    let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
    assert_eq!((reply.status, reply.end), (200, End::Proper), "{reply:?}");
    assert_eq!(
        reply.header("transfer-encoding"),
        Some("chunked"),
        "{reply:?}"
    );
    let (uri, headers) = provider
        .seen
        .last
        .lock()
        .unwrap()
        .clone()
        .expect("a request");
    assert_eq!(uri, format!("https://{addr}{CHAT_PATH}"));
    for gone in ["host", "te", "connection", "x-hop", "transfer-encoding"] {
        assert!(!headers.contains_key(gone), "{gone}: {headers:?}");
    }
    assert_eq!(headers["x-mine"], "2");
    assert_eq!(headers["content-length"], CHAT.len().to_string());
    gw.stop().await;
}

#[tokio::test]
async fn a_disconnect_resets_only_the_clients_own_stream() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::Hold).await;
    let gw = gateway(&authority, provider.addr, 1).await;
    let mut staying = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    assert_eq!(
        within(staying.next()).await.unwrap().unwrap(),
        b"data: {\"n\":1}\n\n"
    );
    let mut leaving = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    within(leaving.next()).await.unwrap().expect("an event");
    assert_eq!(provider.connections(), 1);
    drop(leaving);
    let cancelled = || provider.seen.cancelled.load(Ordering::SeqCst);
    eventually("the stream is reset", || cancelled() == 1).await;
    provider.finish();
    let rest = within(staying.whole()).await;
    assert_eq!(
        (rest.text().as_str(), rest.end),
        ("data: [DONE]\n\n", End::Proper)
    );
    assert_eq!((cancelled(), provider.connections()), (1, 1));
    stop(gw).await;
}

#[tokio::test]
async fn a_response_of_known_length_is_complete_before_its_stream_ends() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::LateEnd).await;
    let gw = gateway(&authority, provider.addr, 1).await;
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (200, "{\"id\":\"2\"}")
    );
    gw.all_idle().await;
    gw.logged("status=200").await;
    assert!(!gw.log().contains("client_disconnected"), "{}", gw.log());
    provider.finish();
    stop(gw).await;
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::Echo).await;
    let gw = gateway(&authority, provider.addr, 1).await;
    let body = large(20_000_000);
    let reply = tokio::time::timeout(
        std::time::Duration::from_secs(60),
        gw.send("POST", CHAT_PATH, &[], &body),
    );
    let reply = reply.await.unwrap();
    assert_eq!((reply.status, reply.end), (200, End::Proper));
    assert_eq!(
        (reply.body.len(), fnv1a(&reply.body)),
        (body.len(), fnv1a(&body))
    );
    stop(gw).await;
}

/// A chat request with about `length` bytes.
fn large(length: usize) -> Vec<u8> {
    let mut body = CHAT.as_bytes().to_vec();
    body.pop();
    body.extend(b",\"x\":\"");
    body.extend((0..length).map(|at| b'a' + (at / 7 * 31 + at) as u8 % 26));
    body.extend(b"\"}");
    body
}

#[tokio::test]
async fn clients_that_do_not_read_block_no_other_stream() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::Echo).await;
    let gw = gateway(&authority, provider.addr, 1).await;
    let body = large(16 << 20);
    let mut not_reading = Vec::new();
    for _ in 0..6 {
        not_reading.push(gw.open("POST", CHAT_PATH, &[], &body).await);
    }
    let body = large(3 << 20);
    let reply = within(gw.send("POST", CHAT_PATH, &[], &body)).await;
    assert_eq!((reply.status, reply.body.len()), (200, body.len()));
    assert_eq!(provider.connections(), 1);
    drop(not_reading);
    stop(gw).await;
}

/// A call that is not repeated if the provider may have run it.
const ONCE: &str = r#"{"model":"gpt-x","input":"hello","store":true}"#;

#[tokio::test]
async fn streams_that_never_began_are_replaced_and_not_counted() {
    // What happens to streams 9 and 11 of the streams 3 to 11, and whether they are replaced.
    for (end, replaced) in [
        (Ending::GoAway(7), true),
        (Ending::Reset(7, Reason::REFUSED_STREAM), true),
        (Ending::Reset(7, Reason::INTERNAL_ERROR), false),
    ] {
        let authority = Authority::new();
        let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
        let frames = Frames::start(acceptor, Plan { after: 6, end }).await;
        let gw = gateway(&authority, frames.addr, 1).await;
        let first = gw.post("/v1/responses", ONCE).await;
        assert_eq!(first.status, 200, "{end:?}: {first:?}");
        let replies = at_once(&gw, 5, "/v1/responses", ONCE).await;
        let served = replies.iter().filter(|reply| reply.status == 200);
        assert_eq!(
            served.count(),
            if replaced { 5 } else { 3 },
            "{end:?}: {replies:?}"
        );
        assert!(
            replies.iter().all(|reply| reply.attempts() == "1"),
            "{end:?}: {replies:?}"
        );
        let stats = gw.key_stats("p", "p-1").await;
        let (failed, requests) = if replaced { (0, 8) } else { (2, 6) };
        assert_eq!(stats["failed_requests"], json!(failed), "{end:?}: {stats}");
        assert_eq!(frames.requests.load(Ordering::SeqCst), requests, "{end:?}");
        let connections = frames.connections.load(Ordering::SeqCst);
        let expect = if replaced {
            2..=1 + threads().min(2)
        } else {
            1..=1
        };
        assert!(
            expect.contains(&connections),
            "{end:?}: {connections} connections"
        );
        stop(gw).await;
    }
}

#[tokio::test]
async fn a_broken_connection_fails_its_calls_except_one_that_found_it_idle() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let end = Ending::Break;
    let frames = Frames::start(acceptor, Plan { after: 3, end }).await;
    let gw = gateway(&authority, frames.addr, 2).await;
    assert_eq!(gw.chat().await.status, 200);
    let replies = at_once(&gw, 2, CHAT_PATH, CHAT).await;
    let mut attempts: Vec<_> = replies
        .iter()
        .map(|reply| (reply.status, reply.attempts()))
        .collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [(200, "1"), (200, "2")], "{replies:?}");
    let stats = gw.stats().await["p"].clone();
    let failed: u64 = ["p-1", "p-2"]
        .iter()
        .filter_map(|name| stats[name]["failed_requests"].as_u64())
        .sum();
    assert_eq!(failed, 1, "{stats}");
    stop(gw).await;
}

#[tokio::test]
async fn providers_without_http2_get_http1_with_tls_resumption() {
    let authority = Authority::new();
    for protocols in [&[][..], &["http/1.1"]] {
        let mock = Mock::start().await.unwrap();
        let acceptor = authority.acceptor(&["127.0.0.1"], protocols);
        let front = TlsProxy::start(acceptor, mock.addr()).await;
        let gw = gateway(&authority, front.addr, 1).await;
        for _ in 0..3 {
            assert_eq!(gw.chat().await.status, 200);
        }
        assert_eq!(front.seen(), (1, 0), "the connection is kept");
        // Two calls at once need two connections; the second resumes the first one's TLS session.
        mock.script("*", [Step::slow_ms(500), Step::slow_ms(500)]);
        for reply in at_once(&gw, 2, CHAT_PATH, CHAT).await {
            assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
        }
        assert_eq!(front.seen(), (2, 1));
        stop(gw).await;
    }
}
