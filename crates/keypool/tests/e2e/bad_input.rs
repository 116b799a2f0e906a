//! Invalid requests are refused clearly or harmless. They use no key and leave nothing behind.

use std::str::FromStr;
use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::Value;

use crate::harness::{CHAT, CHAT_PATH, Gateway, key, pool, within};
use crate::http::{Connection, Reply};

const MIB: usize = 1 << 20;

/// Checks that nothing reached the provider, that no key is busy, and that the next request is served.
async fn unharmed(mock: &Mock, gw: Gateway) {
    assert!(
        mock.seen_all().is_empty(),
        "a key was used: {:?}",
        mock.recorded()
    );
    gw.all_idle().await;
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(stats["total_requests"], 0);
    let reply = gw.chat().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    gw.stop().await;
}

/// Checks one of keypool's own errors: status, code, a sentence, a request id.
pub(crate) fn refused(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (status, code),
        "{what}: {reply:?}"
    );
    assert!(
        reply.message().len() > 20,
        "{what}: a sentence is missing: {reply:?}"
    );
    assert!(reply.header("x-request-id").is_some(), "{what}: {reply:?}");
}

/// Writes raw bytes; `None` if the connection is closed without an answer.
pub(crate) async fn raw(gw: &Gateway, bytes: &[u8]) -> Option<(Reply, Connection)> {
    within(async {
        let mut connection = Connection::open(gw.addr).await;
        connection.write(bytes).await;
        connection.reply().await
    })
    .await
}

#[tokio::test]
async fn invalid_bodies_are_refused() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let deep = format!("{{\"model\":\"m\",\"messages\":{}", "[".repeat(100_000));
    let deep_objects = format!("{{\"model\":\"m\",\"a\":{}", "{\"a\":".repeat(100_000));
    let long = format!("{{\"model\":\"{}\"}}", "m".repeat(100_000));
    let cases: Vec<(&str, &[u8])> = vec![
        ("empty", b""),
        ("blank", b"  \n"),
        ("broken", b"{\"model\":\"m\",\"messages\":["),
        ("cut in a string", b"{\"model\":\"m"),
        ("no JSON", b"model=m&messages=hello"),
        ("trailing", b"{\"model\":\"m\"} {\"model\":\"n\"}"),
        ("a comma too many", b"{\"model\":\"m\",}"),
        ("no object", b"[{\"model\":\"m\"}]"),
        ("null", b"null"),
        ("no model", b"{\"messages\":[]}"),
        ("model inside only", b"{\"messages\":[{\"model\":\"m\"}]}"),
        (
            "two models",
            b"{\"model\":\"m\",\"messages\":[],\"model\":\"n\"}",
        ),
        (
            "two models, one escaped",
            b"{\"model\":\"m\",\"mo\\u0064el\":\"n\"}",
        ),
        ("model a number", b"{\"model\":5}"),
        ("model null", b"{\"model\":null}"),
        ("model a list", b"{\"model\":[\"m\"]}"),
        ("model an object", b"{\"model\":{\"name\":\"m\"}}"),
        ("model empty", b"{\"model\":\"\"}"),
        ("model too long", long.as_bytes()),
        ("invalid UTF-8 in the model", b"{\"model\":\"m\xff\"}"),
        (
            "invalid UTF-8 elsewhere",
            b"{\"model\":\"m\",\"user\":\"\xc3\x28\"}",
        ),
        ("half a surrogate in the model", b"{\"model\":\"\\ud800\"}"),
        ("a bare control character", b"{\"model\":\"m\n\"}"),
        ("UTF-16", b"\xff\xfe{\0\"\0m\0"),
        ("100,000 brackets", deep.as_bytes()),
        ("100,000 objects", deep_objects.as_bytes()),
    ];
    for (what, body) in &cases {
        let reply = gw.send("POST", CHAT_PATH, &[], body).await;
        refused(&reply, 400, "invalid_request", what);
        assert_eq!(
            reply.json()["error"]["type"],
            "invalid_request_error",
            "{what}"
        );
    }
    for coding in ["gzip", "br", "x"] {
        let headers = [("content-encoding", coding)];
        let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
        refused(&reply, 400, "invalid_request", coding);
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn brackets_nested_100_000_deep_do_no_harm() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let body = format!("{{\"model\":\"m\",\"messages\":{open}{close}}}");
    let reply = gw.post(CHAT_PATH, &body).await;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(gw.key_stats("p", "p-1").await["failed_requests"], 0);
    gw.all_idle().await;
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
}

#[tokio::test]
async fn errors_have_the_format_of_the_called_protocol() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let gemini = "/v1beta/models/m:generateContent";
    for path in [
        CHAT_PATH,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        gemini,
        "/search",
        "/extract",
        "/p/v1/chat/completions",
        "/p/v1/messages",
        "/p/search",
    ] {
        let reply = gw.post(path, "{\"model\":").await;
        refused(&reply, 400, "invalid_request", path);
        let body = reply.json();
        let own = match path {
            "/v1/messages" | "/v1/messages/count_tokens" | "/p/v1/messages" => {
                body["type"] == "error" && body["error"]["type"] == "invalid_request_error"
            }
            "/search" | "/extract" | "/p/search" => body["detail"]["error"].is_string(),
            _ if path == gemini => {
                body["error"]["status"] == "INVALID_ARGUMENT" && body["error"]["code"] == 400
            }
            _ => body["error"]["type"] == "invalid_request_error",
        };
        assert!(own, "{path}: {body}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn bodies_over_the_limit_get_a_readable_413() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[server]\nmax_request_body = \"1MiB\"\n{}", pool(&mock, 1));
    let gw = Gateway::start(&config).await;
    let head = "{\"model\":\"m\",\"messages\":[],\"user\":\"";
    let body = |length: usize| {
        let mut body = head.as_bytes().to_vec();
        body.resize(length - 2, b'x');
        body.extend(b"\"}");
        body
    };
    // By the length: one client writes everything first, another asks before it writes.
    for length in [MIB + 1, 2 * MIB] {
        let reply = gw.send("POST", CHAT_PATH, &[], &body(length)).await;
        refused(&reply, 413, "request_too_large", "by length");
    }
    let asks = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        MIB + 1
    );
    let (reply, _) = raw(&gw, asks.as_bytes()).await.unwrap();
    refused(&reply, 413, "request_too_large", "asked first");
    // By the bytes that arrive.
    let mut chunked = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in body(MIB + 1).chunks(10_000) {
        chunked.extend(format!("{:x}\r\n", piece.len()).bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let (reply, _) = raw(&gw, &chunked).await.unwrap();
    refused(&reply, 413, "request_too_large", "chunked");
    assert!(mock.seen_all().is_empty());
    let most = gw.send("POST", CHAT_PATH, &[], &body(MIB)).await;
    assert_eq!(most.status, 200, "the limit itself is allowed: {most:?}");
    gw.stop().await;
}

#[tokio::test]
async fn headers_over_64_kib_get_431() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for size in [65 * 1024, 200 * 1024] {
        let value = "x".repeat(size);
        let reply = gw
            .send("POST", CHAT_PATH, &[("x-long", &value)], CHAT.as_bytes())
            .await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (431, "headers_too_large"),
            "{size}: {reply:?}"
        );
        let path = format!("/v1/models?x={value}");
        let reply = gw.get(&path).await;
        assert!(matches!(reply.status, 414 | 431), "{size}: {reply:?}");
    }
    let lines: String = (0..2000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let huge = "x".repeat(600 * 1024);
    for headers in [lines, format!("x-huge: {huge}\r\n")] {
        let request = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        // The rest may still be in transit when the connection is closed after the answer.
        if let Some((reply, _)) = raw(&gw, request.as_bytes()).await {
            assert_eq!(reply.status, 431, "{reply:?}");
        }
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn oversized_headers_are_answered_and_logged_with_their_request_id() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[log]\nformat = \"json\"\n{}", pool(&mock, 1));
    let gw = Gateway::start(&config).await;
    let value = "x".repeat(65 * 1024);
    for (id, path, long) in [
        ("long-header", CHAT_PATH.to_owned(), value.as_str()),
        (
            "long-query",
            format!("{CHAT_PATH}?x={}", "x".repeat(40 * 1024)),
            "",
        ),
    ] {
        let headers = [("x-request-id", id), ("x-long", long)];
        let reply = gw.send("POST", &path, &headers, CHAT.as_bytes()).await;
        refused(&reply, 431, "headers_too_large", id);
        assert_eq!(reply.header("x-request-id"), Some(id));
        gw.logged(id).await;
        let line = gw
            .log()
            .lines()
            .find(|line| line.contains(id))
            .map(Value::from_str);
        let line = line.unwrap().unwrap();
        assert_eq!(
            (&line["request_id"], &line["status"], &line["path"]),
            (&id.into(), &431.into(), &CHAT_PATH.into()),
            "{line}"
        );
    }
    let headers = [("x-long", value.as_str())];
    let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
    refused(
        &reply,
        431,
        "headers_too_large",
        "without an id of the caller's",
    );
    gw.logged(reply.header("x-request-id").unwrap()).await;
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn unknown_paths_get_404_and_wrong_methods_405() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for path in [
        "/",
        "/v1",
        "/v1/nothing",
        "/v2/chat/completions",
        "/nopool/v1/chat/completions",
        "/v1beta/nothing",
        "/V1/chat/completions",
        "/v1/nothing/",
        "//v1/nothing",
    ] {
        for method in ["GET", "POST"] {
            let reply = gw.send(method, path, &[], b"").await;
            refused(&reply, 404, "not_found", &format!("{method} {path}"));
        }
    }
    for (method, path, allow) in [
        ("GET", CHAT_PATH, "POST"),
        ("PUT", CHAT_PATH, "POST"),
        ("DELETE", "/v1/messages", "POST"),
        ("HEAD", "/v1/embeddings", "POST"),
        ("OPTIONS", CHAT_PATH, "POST"),
        ("TRACE", CHAT_PATH, "POST"),
        ("NONSENSE", CHAT_PATH, "POST"),
        ("GET", "/search", "POST"),
        ("POST", "/usage", "GET"),
        ("DELETE", "/v1/models", "GET"),
    ] {
        let mut connection = Connection::open(gw.addr).await;
        connection.request(method, path, &[], b"").await;
        let answer = within(connection.answer()).await.unwrap();
        assert_eq!(answer.status, 405, "{method} {path}");
        let allowed = answer.headers.iter().find(|(name, _)| name == "allow");
        assert!(
            allowed.is_some_and(|(_, value)| value.contains(allow)),
            "{method} {path}: {:?}",
            answer.headers
        );
        if method != "HEAD" {
            let reply = within(answer.whole()).await;
            assert_eq!(reply.code(), "method_not_allowed", "{method} {path}");
        }
    }
    let (reply, _) = raw(
        &gw,
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 405, "{reply:?}");
    let (reply, _) = raw(&gw, b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!((400..500).contains(&reply.status), "{reply:?}");
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn no_spelling_of_dot_segments_escapes_the_path() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for dots in [
        "..",
        ".",
        "%2e%2e",
        "%2E%2E",
        ".%2e",
        "%2e.",
        "%2e",
        "..%2fx",
        "a%2f..",
        "a%2F..%2Fb",
        "..%5cx",
        "a%5c..%5cb",
        "a%5C.",
        "a\\..\\b",
        "a%2f.%2fb",
        "%2f..",
        "..%2F",
    ] {
        for path in [
            format!("/p/{dots}"),
            format!("/p/{dots}/x"),
            format!("/p/v1/{dots}/chat/completions"),
            format!("/{dots}/x"),
            format!("/v1/{dots}/models"),
            format!("/v1beta/models/{dots}"),
            format!("/nopool/{dots}"),
        ] {
            for method in ["GET", "POST"] {
                let reply = gw.send(method, &path, &[], b"").await;
                refused(&reply, 400, "invalid_request", &format!("{method} {path}"));
            }
        }
    }
    for path in ["/p/%", "/p/%zz", "/p/%00", "/p/a%0d%0ax", "/v1/models/%0a"] {
        let reply = gw.get(path).await;
        refused(&reply, 400, "invalid_request", path);
    }
    unharmed(&mock, gw).await;
}

/// Requests that two programs could read differently. The body names a model, so each could become a call.
fn smuggling() -> Vec<(&'static str, String)> {
    let length = CHAT.len();
    let of_length = format!("content-length: {length}");
    let headers = [
        ("two lengths", format!("{of_length}\r\ncontent-length: 5")),
        ("two lengths in one line", format!("{of_length}, 5")),
        ("a plus", format!("content-length: +{length}")),
        ("a negative length", "content-length: -1".to_owned()),
        ("a hexadecimal length", "content-length: 0x41".to_owned()),
        (
            "an endless length",
            format!("content-length: {}", "9".repeat(30)),
        ),
        ("identity", "transfer-encoding: identity".to_owned()),
        ("a folded header", format!("x-a: 1\r\n b\r\n{of_length}")),
        ("a blank before the colon", "content-length : 5".to_owned()),
        ("no colon", format!("nonsense\r\n{of_length}")),
        ("an empty name", format!(": x\r\n{of_length}")),
        ("NUL in a header", format!("x-a: a\0b\r\n{of_length}")),
        ("CR in a header", format!("x-a: a\rb\r\n{of_length}")),
    ];
    let mut all: Vec<(&str, String)> = headers
        .iter()
        .map(|(what, headers)| (*what, post(headers, CHAT)))
        .collect();
    let whole = format!("{length:x}\r\n{CHAT}\r\n0\r\n\r\n");
    for (what, header) in [
        ("chunked, identity", "transfer-encoding: chunked, identity"),
        ("xchunked", "transfer-encoding: xchunked"),
        (
            "two codings",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        ),
        ("a folded coding", "transfer-encoding:\r\n chunked"),
        ("a blank before the colon", "transfer-encoding : chunked"),
    ] {
        all.push((what, post(header, &whole)));
    }
    for (what, body) in [
        ("no size", format!("zz\r\n{CHAT}\r\n0\r\n\r\n")),
        ("too large a size", "fffffffffffffffff\r\n".to_owned()),
        ("too small a size", format!("5\r\n{CHAT}\r\n0\r\n\r\n")),
    ] {
        all.push((what, post("transfer-encoding: chunked", &body)));
    }
    let version = post(&of_length, CHAT).replace("HTTP/1.1", "HTTP/3.0");
    let path = post(&of_length, CHAT).replace(CHAT_PATH, "/p /x");
    all.extend([
        ("an unknown version", version),
        ("a blank in the path", path),
        ("no version", format!("POST {CHAT_PATH}\r\n\r\n{CHAT}")),
        (
            "HTTP/2 without asking",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
        ("noise", "\u{1}\u{2} noise \u{0}\r\n\r\n".to_owned()),
    ]);
    all
}

/// A POST with these header lines and this body.
fn post(headers: &str, body: &str) -> String {
    format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (what, request) in smuggling() {
        let Some((reply, mut connection)) = raw(&gw, request.as_bytes()).await else {
            continue;
        };
        assert!(
            matches!(reply.status, 400 | 431 | 501 | 505),
            "{what}: {reply:?}"
        );
        assert!(
            within(connection.is_closed()).await,
            "{what}: nothing after it is read as a request"
        );
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn a_request_with_both_framings_is_refused_and_closed() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for framings in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
    ] {
        let request = format!(
            "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\n{framings}\r\n\r\n0\r\n\r\n\
             GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        );
        let (reply, mut connection) = raw(&gw, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status, 400, "{framings}: {reply:?}");
        assert!(
            within(connection.is_closed()).await,
            "{framings}: nothing after it is read as a request"
        );
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn bare_line_feeds_are_harmless() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for request in [
        "GET /healthz HTTP/1.1\nhost: localhost\n\n".to_owned(),
        "GET /healthz HTTP/1.1\nhost: localhost\nx: y\r\n\r\n".to_owned(),
    ] {
        if let Some((reply, _)) = raw(&gw, request.as_bytes()).await {
            assert!(matches!(reply.status, 200 | 400), "{request:?}: {reply:?}");
        }
    }
    unharmed(&mock, gw).await;
}

#[tokio::test]
async fn incomplete_bodies_use_no_key() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for framing in ["content-length: 500", "transfer-encoding: chunked"] {
        let start = format!(
            "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n5\r\n{{\"mod\r\n"
        );
        let mut connection = Connection::open(gw.addr).await;
        connection.write(start.as_bytes()).await;
        connection.end_writing().await;
        let answer = within(connection.answer()).await;
        assert!(
            answer.is_none_or(|answer| answer.status == 400),
            "{framing}"
        );
        let mut connection = Connection::open(gw.addr).await;
        connection.write(start.as_bytes()).await;
        drop(connection);
    }
    // While one client still writes, others are served.
    let mut slow = Connection::open(gw.addr).await;
    let head = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        CHAT.len()
    );
    slow.write(head.as_bytes()).await;
    slow.write(&CHAT.as_bytes()[..10]).await;
    assert_eq!(gw.get("/healthz").await.status, 200);
    assert!(mock.seen_all().is_empty());
    for byte in &CHAT.as_bytes()[10..] {
        slow.write(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (reply, _) = within(slow.reply()).await.unwrap();
    assert_eq!(reply.status, 200, "slow is not broken: {reply:?}");
    assert_eq!(mock.last_request(&key(1)).unwrap().text(), CHAT);
    gw.all_idle().await;
    gw.stop().await;
}
