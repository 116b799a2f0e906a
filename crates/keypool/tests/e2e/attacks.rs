//! Clients that try to take keys, memory or capacity from others are refused or harmless, and others are served.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::bad_input::{raw, refused};
use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Gateway, STREAM, key, pool, within};
use crate::http::Connection;
use crate::memory::peak;

const MIB: u64 = 1 << 20;
const OPENAI: &str = r#"{"error":{"message":"Request too large for gpt-x in organization org-x on tokens per min (TPM): Limit 10000, Requested 12000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
const GROQ: &str = r#"{"error":{"message":"Request too large for model `llama-x` in organization `org-x` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 9000, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#;
const ANTHROPIC: &str = r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#;
const GEMINI: &str = r#"{"error":{"code":400,"message":"The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}"#;
const TAVILY: &str =
    r#"{"detail":{"error":"Query is too long. Max query length is 400 characters."}}"#;
const HTML: &str = "<html><h1>413 Request Entity Too Large</h1></html>";

/// Statuses with bodies.
type Answers = &'static [(u16, &'static str)];

/// Provider, path, and its answers to a request that is larger than a key's whole limit.
const TOO_LARGE: [(&str, &str, Answers); 13] = [
    ("openai", CHAT_PATH, &[(429, OPENAI), (413, HTML)]),
    ("ark", CHAT_PATH, &[(413, OPENAI), (413, HTML)]),
    ("deepseek", CHAT_PATH, &[(429, OPENAI), (413, OPENAI)]),
    ("openrouter", CHAT_PATH, &[(429, OPENAI), (413, OPENAI)]),
    ("moonshot", CHAT_PATH, &[(429, OPENAI), (413, OPENAI)]),
    ("siliconflow", CHAT_PATH, &[(429, OPENAI), (413, OPENAI)]),
    ("groq", CHAT_PATH, &[(413, GROQ), (429, GROQ)]),
    ("mistral", CHAT_PATH, &[(429, OPENAI), (413, OPENAI)]),
    (
        "openai-compatible",
        CHAT_PATH,
        &[(429, OPENAI), (413, GROQ)],
    ),
    ("mock", CHAT_PATH, &[(429, OPENAI), (413, HTML)]),
    (
        "anthropic",
        "/v1/messages",
        &[(413, ANTHROPIC), (413, HTML)],
    ),
    (
        "gemini",
        "/v1beta/models/gpt-x:generateContent",
        &[(400, GEMINI), (413, HTML)],
    ),
    ("tavily", "/search", &[(400, TAVILY), (413, HTML)]),
];

#[tokio::test]
async fn requests_over_a_keys_whole_limit_cool_down_no_key() {
    let mock = Mock::start().await.unwrap();
    let mut config = String::new();
    for (n, (provider, _, _)) in TOO_LARGE.iter().enumerate() {
        let base = match *provider {
            "anthropic" | "gemini" | "tavily" | "mock" => mock.origin(),
            _ => format!("{}/v1", mock.origin()),
        };
        config += &format!(
            "[pools.p-{provider}]\nprovider = \"{provider}\"\nbase_url = \"{base}\"\nmodels = [\"*\"]\n\
             keys = [\"{}\", \"{}\"]\n",
            key(2 * n),
            key(2 * n + 1)
        );
    }
    let gw = Gateway::start(&config).await;
    for (provider, path, answers) in TOO_LARGE {
        let path = format!("/p-{provider}{path}");
        for (status, body) in answers.repeat(5) {
            let step = Step::Status {
                status,
                headers: vec![("retry-after".to_owned(), "5".to_owned())],
                body: body.to_owned(),
            };
            mock.script("*", [step]);
            let reply = gw.post(&path, CHAT).await;
            assert_eq!(
                (reply.status, reply.text().as_str(), reply.attempts()),
                (status, body, "1"),
                "{provider}: {reply:?}"
            );
        }
    }
    let stats = gw.stats().await;
    for (pool, keys) in stats.as_object().unwrap() {
        for (name, key) in keys.as_object().unwrap() {
            assert_eq!(
                (&key["is_available"], &key["failed_requests"], &key["state"]),
                (&true.into(), &0.into(), &"active".into()),
                "{pool} {name}: {key}"
            );
            assert_eq!(key["cooldowns"], Value::Array(Vec::new()), "{pool} {name}");
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn websockets_are_refused_and_other_upgrades_are_ignored() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let websocket = [
        ("connection", "Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for path in [
        "/v1/realtime?model=gpt-x",
        CHAT_PATH,
        "/p/v1/realtime",
        "/nothing",
    ] {
        let reply = gw.send("GET", path, &websocket, b"").await;
        refused(&reply, 426, "upgrade_required", path);
        assert!(reply.message().contains("WebSocket"), "{reply:?}");
    }
    let headers = [("x-goog-api-key", "any"), websocket[0], websocket[1]];
    let reply = gw.send("GET", "/v1beta/models", &headers, b"").await;
    assert_eq!(reply.json()["error"]["status"], "INVALID_ARGUMENT");
    let tunnel = "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n";
    let (reply, _) = raw(&gw, tunnel.as_bytes()).await.unwrap();
    refused(&reply, 405, "method_not_allowed", "CONNECT");
    assert!(mock.seen_all().is_empty(), "no key is used");
    // What curl and Java offer with each first request.
    let offer = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ];
    let reply = gw.send("POST", CHAT_PATH, &offer, CHAT.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = mock.last_request(&key(1)).unwrap();
    for name in ["connection", "upgrade", "http2-settings"] {
        let passed = seen.headers.iter().find(|(header, _)| header == name);
        assert_eq!(passed, None);
    }
    gw.stop().await;
}

#[tokio::test]
async fn expect_100_continue_is_answered_or_refused() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let head = |path: &str, expects: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nexpect: {expects}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    // A client that never writes its body holds only its connection.
    let mut silent = Connection::open(gw.addr).await;
    silent
        .write(head(CHAT_PATH, "100-continue", CHAT.len()).as_bytes())
        .await;
    let asked = within(silent.answer()).await.unwrap();
    assert_eq!(asked.status, 100);
    let (reply, _) = raw(&gw, head("/v1/nothing", "100-continue", 10).as_bytes())
        .await
        .unwrap();
    refused(&reply, 404, "not_found", "nothing is asked for");
    assert!(mock.seen_all().is_empty());
    drop(asked);
    let mut asks = Connection::open(gw.addr).await;
    asks.write(head(CHAT_PATH, "100-continue", CHAT.len()).as_bytes())
        .await;
    asks.write(CHAT.as_bytes()).await;
    let (reply, _) = within(asks.answer()).await.unwrap().after_interim().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn connections_without_http_are_closed_and_not_logged() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03tls\x13\x01\x00";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00";
    let zeros = [0; 4096];
    let before = gw.log().lines().count();
    for _ in 0..50 {
        for bytes in [
            &hello[..],
            preface,
            &zeros,
            b"SSH-2.0-x\r\n",
            b"\r\n\r\n\r\n",
        ] {
            let mut connection = Connection::open(gw.addr).await;
            connection.write(bytes).await;
            connection.end_writing().await;
            assert!(within(connection.is_closed()).await);
        }
    }
    assert_eq!(gw.chat().await.status, 200);
    gw.logged("status=200").await;
    let said = gw.log().lines().count() - before;
    assert_eq!(said, 1, "only the request is logged:\n{}", gw.log());
    gw.stop().await;
}

#[tokio::test]
async fn endless_heads_block_nobody_and_use_little_memory() {
    const SLOW: usize = 500;
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    assert_eq!(gw.chat().await.status, 200);
    let before = peak(gw.process.pid());
    let mut slow = Vec::new();
    for n in 0..SLOW {
        let mut connection = Connection::open(gw.addr).await;
        let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\nx-a: {n}");
        connection.write(head.as_bytes()).await;
        slow.push(connection);
    }
    for connection in &mut slow {
        connection.write(b"\r\nx-b: c").await;
    }
    let reply = gw.chat().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    // Endless heads, written as fast as they are read.
    let bomb = "x-header: and its value\r\n".repeat(40_000);
    for _ in 0..20 {
        let mut connection = Connection::open(gw.addr).await;
        connection.write(b"GET /healthz HTTP/1.1\r\n").await;
        connection.write(bomb.as_bytes()).await;
        assert!(within(connection.is_closed()).await);
    }
    assert_eq!(gw.chat().await.status, 200);
    let more = peak(gw.process.pid()) - before;
    assert!(more < 24 * MIB, "{} KiB", more / 1024);
    assert_eq!(mock.seen(&key(1)).requests, 3);
    drop(slow);
    gw.stop().await;
}

/// A client with a small window that never reads.
async fn client_that_never_reads(gw: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    socket.connect(gw.addr).await.expect("connect")
}

#[tokio::test]
async fn answers_are_not_buffered_for_a_client_that_does_not_read() {
    const CLIENTS: u64 = 4;
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    assert_eq!(gw.post(CHAT_PATH, STREAM).await.status, 200);
    let pid = gw.process.pid();
    let before = peak(pid);
    mock.behave(
        "*",
        Behaviour {
            chunks: 120_000,
            ..Behaviour::default()
        },
    );
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = client_that_never_reads(&gw).await;
        let head = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ");
        let request = format!("{head}{}\r\n\r\n{STREAM}", STREAM.len());
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    within(mock.wait_for(&key(1), |seen| seen.active == CLIENTS)).await;
    // Wait until memory stops growing.
    let (mut last, mut since) = (before, Instant::now());
    let end = Instant::now() + DEADLINE;
    while since.elapsed() < Duration::from_millis(500) && Instant::now() < end {
        let now = peak(pid);
        if now > last {
            (last, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        last - before < 16 * MIB,
        "{} KiB for {CLIENTS} clients",
        (last - before) / 1024
    );
    let seen = mock.seen(&key(1));
    assert_eq!(
        seen.active, CLIENTS,
        "the provider is slowed down too: {seen:?}"
    );
    mock.behave("*", Behaviour::default());
    assert_eq!(gw.chat().await.status, 200);
    drop(clients);
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn requests_of_a_client_that_never_reads_are_not_read_further() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let mut client = client_that_never_reads(&gw).await;
    let batch = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1_000);
    let mut sent = 0;
    // Writing blocks for a second: keypool has stopped reading.
    while let Ok(written) =
        timeout(Duration::from_secs(1), client.write_all(batch.as_bytes())).await
    {
        written.unwrap();
        sent += batch.len() as u64;
        assert!(sent < 256 * MIB, "keypool reads without end");
    }
    assert_eq!(gw.chat().await.status, 200);
    assert!(peak(gw.process.pid()) < 64 * MIB);
    drop(client);
    gw.stop().await;
}
