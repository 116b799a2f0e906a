//! Shutdown: first keypool stops accepting, then the requests in flight end, then the process exits.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Gateway, STREAM, key, pool, within};
use crate::http::{Connection, End};
use crate::streams::{STREAMS, assert_ends_with_error};

async fn refuses_connections(gw: &Gateway) -> bool {
    TcpStream::connect(gw.addr).await.is_err()
}

async fn wait_until_refused(gw: &Gateway) {
    within(async {
        while !refuses_connections(gw).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A request that the provider never answers.
async fn hang(gw: &Gateway, mock: &Mock) -> Connection {
    hang_at(gw, mock, CHAT_PATH, CHAT).await
}

async fn hang_at(gw: &Gateway, mock: &Mock, path: &str, body: &str) -> Connection {
    mock.script(&key(1), [Step::Hang]);
    let mut connection = Connection::open(gw.addr).await;
    connection.request("POST", path, &[], body.as_bytes()).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    connection
}

#[tokio::test]
async fn a_stream_finishes_while_nothing_new_is_accepted() {
    let mock = Mock::start().await.unwrap();
    let mut gw = Gateway::start(&pool(&mock, 1)).await;
    mock.behave(
        "*",
        Behaviour {
            chunks: 10,
            chunk_interval: Duration::from_millis(80),
            ..Behaviour::default()
        },
    );
    let mut stream = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    assert!(stream.next().await.unwrap().is_some());
    gw.process.signal("TERM");
    wait_until_refused(&gw).await;
    assert!(!gw.process.has_ended(), "it waits for the stream in flight");
    let reply = within(stream.whole()).await;
    assert_eq!((reply.status, reply.end), (200, End::Proper));
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{reply:?}");
    assert_eq!(gw.process.ended().await, 0);
    assert_eq!(mock.seen(&key(1)).cancelled, 0);
    gw.process.assert_no_secret();
}

#[tokio::test]
async fn during_the_delay_it_serves_but_is_not_ready() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[server]\nshutdown_delay = \"1500ms\"\n{}", pool(&mock, 1));
    let mut gw = Gateway::start(&config).await;
    assert_eq!(gw.get("/readyz").await.status, 200);
    let began = Instant::now();
    gw.process.signal("TERM");
    gw.logged("shutting down").await;
    let ready = gw.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(gw.get("/healthz").await.status, 200);
    assert_eq!(gw.chat().await.status, 200);
    wait_until_refused(&gw).await;
    assert!(
        began.elapsed() >= Duration::from_millis(1450),
        "it accepted for only {:?}",
        began.elapsed()
    );
    assert_eq!(gw.process.ended().await, 0);
}

#[tokio::test]
async fn idle_connections_do_not_delay_shutdown() {
    let mock = Mock::start().await.unwrap();
    let mut gw = Gateway::start(&pool(&mock, 2)).await;
    let silent = Connection::open(gw.addr).await;
    let mut used = Connection::open(gw.addr).await;
    used.request("POST", CHAT_PATH, &[], CHAT.as_bytes()).await;
    let (reply, mut kept) = within(used.reply()).await.unwrap();
    assert_eq!(reply.status, 200);
    let began = Instant::now();
    gw.process.signal("TERM");
    assert_eq!(gw.process.ended().await, 0);
    assert!(
        began.elapsed() < DEADLINE,
        "far below the shutdown timeout of 30 s: {:?}",
        began.elapsed()
    );
    assert!(within(kept.is_closed()).await);
    drop(silent);
}

#[tokio::test]
async fn requests_over_the_shutdown_timeout_are_cut() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[server]\nshutdown_timeout = \"400ms\"\n{}", pool(&mock, 1));
    let mut gw = Gateway::start(&config).await;
    let mut hanging = hang(&gw, &mock).await;
    let began = Instant::now();
    gw.process.signal("TERM");
    assert_eq!(gw.process.ended().await, 0);
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
    assert!(
        gw.log().contains("aborted"),
        "the log says so: {}",
        gw.log()
    );
    assert!(within(hanging.is_closed()).await);
}

#[tokio::test]
async fn a_stream_cut_by_shutdown_says_so_to_the_client_and_in_the_log() {
    for (path, body) in STREAMS {
        let mock = Mock::start().await.unwrap();
        let config = format!("[server]\nshutdown_timeout = \"200ms\"\n{}", pool(&mock, 1));
        let mut gw = Gateway::start(&config).await;
        mock.behave(
            "*",
            Behaviour {
                chunks: 1000,
                chunk_interval: Duration::from_millis(100),
                ..Behaviour::default()
            },
        );
        let mut stream = gw.open("POST", path, &[], body.as_bytes()).await;
        assert!(stream.next().await.unwrap().is_some());
        gw.process.signal("TERM");
        let reply = within(stream.whole()).await;
        assert_ends_with_error(&reply, path);
        assert!(reply.text().contains("was shut down"), "{}", reply.text());
        assert_eq!(gw.process.ended().await, 0);
        let log = gw.log();
        assert!(
            log.contains("ended=\"shutdown\"") && !log.contains("client_disconnected"),
            "{log}"
        );
        assert!(
            !log.contains("failed after it had begun"),
            "no key is blamed: {log}"
        );
    }
}

#[tokio::test]
async fn a_call_cut_by_shutdown_gets_an_error() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[server]\nshutdown_timeout = \"200ms\"\n{}", pool(&mock, 1));
    let mut gw = Gateway::start(&config).await;
    let hanging = hang(&gw, &mock).await;
    gw.process.signal("TERM");
    let (reply, mut connection) = within(hanging.reply()).await.expect("an answer");
    assert_eq!(
        (reply.status, &*reply.code()),
        (502, "upstream_unreachable"),
        "{reply:?}"
    );
    assert!(reply.message().contains("was shut down"), "{reply:?}");
    assert!(within(connection.is_closed()).await);
    assert_eq!(gw.process.ended().await, 0);
    let log = gw.log();
    assert!(
        log.contains("status=502") && log.contains("ended=\"shutdown\""),
        "{log}"
    );
    assert!(!log.contains("client_disconnected"), "{log}");
}

#[tokio::test]
async fn a_second_signal_exits_at_once() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mock = Mock::start().await.unwrap();
        let mut gw = Gateway::start(&pool(&mock, 1)).await;
        let _hanging = hang(&gw, &mock).await;
        gw.process.signal(signals[0]);
        gw.logged("shutting down").await;
        wait_until_refused(&gw).await;
        assert!(!gw.process.has_ended());
        let began = Instant::now();
        gw.process.signal(signals[1]);
        assert_ne!(
            gw.process.ended().await,
            0,
            "the exit code says that requests were cut"
        );
        assert!(
            began.elapsed() < DEADLINE,
            "far below the shutdown timeout of 30 s: {:?}",
            began.elapsed()
        );
        gw.process.assert_no_secret();
    }
}

#[tokio::test]
async fn the_shutdown_error_has_the_format_of_the_protocol() {
    let messages = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
    let contents = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    for (path, body, has) in [
        ("/v1/messages", messages, r#""type":"error""#),
        ("/v1beta/models/m:generateContent", contents, r#""status":"#),
    ] {
        let mock = Mock::start().await.unwrap();
        let config = format!("[server]\nshutdown_timeout = \"200ms\"\n{}", pool(&mock, 1));
        let mut gw = Gateway::start(&config).await;
        let hanging = hang_at(&gw, &mock, path, body).await;
        gw.process.signal("TERM");
        let (reply, _) = within(hanging.reply()).await.expect("an answer");
        assert_eq!(reply.status, 502, "{reply:?}");
        assert!(reply.text().contains(has), "{path}: {}", reply.text());
        assert_eq!(gw.process.ended().await, 0);
    }
}
