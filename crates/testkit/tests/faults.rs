//! Scripted steps, standing behaviour, counters, pacing and the remote control, over real sockets.
//!
//! These tests never depend on timing: they wait for events, and for the end of what the mock itself times.

mod client;

use std::time::Duration;

use client::{CHAT, Client, End, STREAM, call, get, post, within};
use keypool_testkit::{Behaviour, MAX_RECORDED_BODY, Mock, Step, fnv1a};
use serde_json::{Value, json};
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";

async fn try_post(mock: &Mock, body: &str) -> Result<client::Reply, End> {
    call(mock, "POST", PATH, &["authorization: Bearer k"], body).await
}

#[tokio::test]
async fn scripted_steps_run_in_order_and_then_the_behaviour() {
    let mock = Mock::start().await.unwrap();
    let limited = Step::Status {
        status: 429,
        headers: vec![("Retry-After".to_owned(), "7".to_owned())],
        body: r#"{"error":{}}"#.to_owned(),
    };
    mock.script(
        "k",
        [
            limited,
            Step::status(500, "<html>"),
            Step::refuse(503),
            Step::status(204, ""),
        ],
    );
    mock.behave(
        "k",
        Behaviour {
            fault: Some(Step::status(418, "")),
            ..Behaviour::default()
        },
    );
    let first = try_post(&mock, CHAT).await.unwrap();
    assert_eq!(
        (
            first.status,
            first.header("retry-after"),
            first.text().as_str()
        ),
        (429, Some("7"), r#"{"error":{}}"#)
    );
    assert_eq!(first.header("content-type"), Some("application/json"));
    let second = try_post(&mock, CHAT).await.unwrap();
    assert_eq!(
        (second.status, second.header("content-type")),
        (500, Some("text/plain; charset=utf-8"))
    );
    assert_eq!(
        try_post(&mock, CHAT).await.unwrap().json()["error"]["code"],
        "server_is_overloaded"
    );
    // A 204 has no body: its head is the whole response.
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("POST", PATH, &["authorization: Bearer k"], CHAT)
        .await;
    assert_eq!(within(client.head()).await.unwrap().status, 204);
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 418);
    assert_eq!(post(&mock, "other", PATH, CHAT).await.status, 200);
    let seen = mock.seen("k");
    assert_eq!(
        seen.by_status,
        [(204, 1), (418, 1), (429, 1), (500, 1), (503, 1)].into()
    );
    assert_eq!(
        (seen.requests, seen.active, seen.cancelled, seen.max_active),
        (5, 0, 0, 1)
    );
}

#[tokio::test]
async fn clients_see_resets_and_cuts() {
    let mock = Mock::start().await.unwrap();
    mock.script("k", [Step::Reset]);
    assert_eq!(try_post(&mock, CHAT).await.unwrap_err(), End::Reset);
    let whole = try_post(&mock, STREAM).await.unwrap();
    let half = whole.chunks.len().div_ceil(2);
    for (step, chunks, end) in [
        (Step::CutAfter(0), 0, End::Closed),
        (Step::CutAfter(3), 3, End::Closed),
        (Step::CutAfter(99), whole.chunks.len(), End::Closed),
        (Step::ResetMidBody, half, End::Reset),
    ] {
        mock.script("k", [step.clone()]);
        let cut = try_post(&mock, STREAM).await.unwrap();
        assert_eq!(
            (cut.status, cut.chunks.len(), cut.end),
            (200, chunks, end),
            "{step:?}"
        );
    }
    mock.script("k", [Step::CutMidEvent(2)]);
    let cut = try_post(&mock, STREAM).await.unwrap();
    assert_eq!((cut.chunks.len(), cut.end), (3, End::Closed));
    assert!(cut.chunks[1].ends_with(b"\n\n") && !cut.chunks[2].ends_with(b"\n\n"));
    for (step, end) in [
        (Step::CutAfter(1), End::Closed),
        (Step::ResetMidBody, End::Reset),
    ] {
        mock.script("k", [step]);
        let cut = try_post(&mock, CHAT).await.unwrap();
        let length: usize = cut.header("content-length").unwrap().parse().unwrap();
        assert_eq!((cut.chunks.concat().len(), cut.end), (length / 2, end));
    }
    let seen = mock.seen("k");
    assert_eq!(
        (seen.active, seen.cancelled),
        (0, 0),
        "the mock broke these, no client went away"
    );
}

#[tokio::test]
async fn a_long_stream_is_written_out_before_it_is_cut() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "k",
        Behaviour {
            chunks: 20_000,
            ..Behaviour::default()
        },
    );
    mock.script("k", [Step::CutAfter(15_000)]);
    let cut = try_post(&mock, STREAM).await.unwrap();
    assert_eq!((cut.chunks.len(), cut.end), (15_000, End::Closed));
}

#[tokio::test]
async fn hanging_and_stalled_requests_count_as_cancelled() {
    let mock = Mock::start().await.unwrap();
    for (n, step) in [
        Step::Hang,
        Step::Slow(Duration::from_secs(3600)),
        Step::StallAfter(1),
    ]
    .into_iter()
    .enumerate()
    {
        mock.script("k", [step]);
        let mut client = Client::connect(mock.addr()).await;
        client
            .send("POST", PATH, &["authorization: Bearer k"], STREAM)
            .await;
        within(mock.wait_for("k", |seen| seen.active == 1)).await;
        if n == 2 {
            assert_eq!(within(client.head()).await.unwrap().status, 200);
            assert!(!within(client.chunk()).await.unwrap().is_empty());
        }
        assert_eq!(mock.seen("k").cancelled, n as u64);
        drop(client);
        within(mock.wait_for("k", |seen| seen.active == 0)).await;
        assert_eq!(mock.seen("k").cancelled, n as u64 + 1);
    }
    assert_eq!(
        mock.seen("k").by_status,
        [(200, 1)].into(),
        "only the stalled one began to answer"
    );
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_counts_as_cancelled() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "k",
        Behaviour {
            chunk_interval: Duration::from_millis(20),
            chunks: 100_000,
            ..Behaviour::default()
        },
    );
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("POST", PATH, &["authorization: Bearer k"], STREAM)
        .await;
    within(client.head()).await.unwrap();
    within(client.chunk()).await.unwrap();
    assert_eq!((mock.seen("k").active, mock.seen("k").cancelled), (1, 0));
    drop(client);
    within(mock.wait_for("k", |seen| seen.active == 0 && seen.cancelled == 1)).await;
}

#[tokio::test]
async fn an_aborted_upload_counts_as_cancelled() {
    let mock = Mock::start().await.unwrap();
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("POST", PATH, &["authorization: Bearer k"], CHAT)
        .await;
    within(client.reply()).await.unwrap();
    client
        .promise("POST", PATH, &["authorization: Bearer k"], 9)
        .await;
    within(mock.wait_for("k", |seen| seen.active == 1)).await;
    drop(client);
    within(mock.wait_for("k", |seen| seen.active == 0)).await;
    assert_eq!((mock.seen("k").requests, mock.seen("k").cancelled), (2, 1));
}

#[tokio::test]
async fn the_high_water_mark_is_exact() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "k",
        Behaviour {
            fault: Some(Step::StallAfter(1)),
            ..Behaviour::default()
        },
    );
    let mut open = Vec::new();
    for n in 1..=5 {
        let mut client = Client::connect(mock.addr()).await;
        client
            .send("POST", PATH, &["authorization: Bearer k"], STREAM)
            .await;
        within(mock.wait_for("k", |seen| seen.active == n)).await;
        open.push(client);
    }
    open.truncate(2);
    within(mock.wait_for("k", |seen| seen.active == 2)).await;
    mock.behave("k", Behaviour::default());
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 200);
    let seen = mock.seen("k");
    assert_eq!(
        (seen.requests, seen.active, seen.max_active, seen.cancelled),
        (6, 2, 5, 3)
    );
    assert_eq!(mock.seen_all().len(), 1);
}

#[tokio::test]
async fn a_slot_is_free_when_the_last_byte_arrives() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "k",
        Behaviour {
            max_concurrent: Some(1),
            ..Behaviour::default()
        },
    );
    let mut client = Client::connect(mock.addr()).await;
    for n in 0..200 {
        let body = if n % 2 == 0 { CHAT } else { STREAM };
        client
            .send("POST", PATH, &["authorization: Bearer k"], body)
            .await;
        let reply = within(client.reply()).await.unwrap();
        assert_eq!((reply.status, reply.end), (200, End::Proper));
    }
    assert_eq!((mock.seen("k").max_active, mock.seen("k").active), (1, 0));
}

/// Key, path, status, whether there is a Retry-After, and the JSON pointer and value of the error.
#[rustfmt::skip]
const REFUSALS: &[(&str, &str, u16, bool, &str, &str)] = &[
    ("rpm", "/v1/chat/completions", 429, true, "/error/code", "rate_limit_exceeded"),
    ("busy", "/v1/chat/completions", 429, true, "/error/code", "rate_limit_exceeded"),
    ("fail", "/v1/chat/completions", 503, false, "/error/code", "server_is_overloaded"),
    ("stranger", "/v1/chat/completions", 401, false, "/error/code", "invalid_api_key"),
    ("rpm", "/api/v3/chat/completions", 429, true, "/error/code", "RateLimitExceeded.EndpointRPMExceeded"),
    ("stranger", "/api/v3/chat/completions", 401, false, "/error/code", "AuthenticationError"),
    ("rpm", "/v1/messages", 429, true, "/error/type", "rate_limit_error"),
    ("fail", "/v1/messages", 503, false, "/error/type", "overloaded_error"),
    ("stranger", "/v1/messages", 401, false, "/error/type", "authentication_error"),
    ("busy", "/v1beta/models/g:generateContent", 429, false, "/error/status", "RESOURCE_EXHAUSTED"),
    ("busy", "/v1beta/models/g:generateContent", 429, false, "/error/details/1/retryDelay", "1s"),
    ("fail", "/v1beta/models/g:generateContent", 503, false, "/error/status", "UNAVAILABLE"),
    ("stranger", "/v1beta/models/g:generateContent", 400, false, "/error/details/0/reason", "API_KEY_INVALID"),
    ("busy", "/search", 429, true, "/detail/error", "Number of concurrent requests has exceeded your rate limit."),
    ("stranger", "/search", 401, false, "/detail/error", "Incorrect API key provided."),
];

#[tokio::test]
async fn limits_are_refused_in_the_format_of_each_protocol() {
    let mock = Mock::start().await.unwrap();
    let usual = Behaviour::default;
    mock.behave(
        "rpm",
        Behaviour {
            rpm: Some(0),
            ..usual()
        },
    );
    mock.behave(
        "busy",
        Behaviour {
            max_concurrent: Some(0),
            ..usual()
        },
    );
    mock.behave(
        "fail",
        Behaviour {
            fail_share: 1.0,
            ..usual()
        },
    );
    mock.behave(
        "stranger",
        Behaviour {
            require_key: true,
            ..usual()
        },
    );
    for &(key, path, status, has_retry_after, pointer, expect) in REFUSALS {
        let reply = post(&mock, key, path, CHAT).await;
        let found = (
            reply.status,
            reply.header("retry-after").is_some(),
            reply.json().pointer(pointer).cloned(),
        );
        let expect = (status, has_retry_after, Some(json!(expect)));
        assert_eq!(found, expect, "{key} {path} {pointer}");
    }
    mock.allow_keys(["stranger"]);
    assert_eq!(post(&mock, "stranger", PATH, CHAT).await.status, 200);
}

#[tokio::test]
async fn calls_above_the_concurrency_cap_are_refused() {
    let mock = Mock::start().await.unwrap();
    mock.behave(
        "k",
        Behaviour {
            max_concurrent: Some(1),
            ..Behaviour::default()
        },
    );
    mock.script("k", [Step::Hang]);
    let mut first = Client::connect(mock.addr()).await;
    first
        .send("POST", PATH, &["authorization: Bearer k"], CHAT)
        .await;
    within(mock.wait_for("k", |seen| seen.active == 1)).await;
    let refused = try_post(&mock, CHAT).await.unwrap();
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1"))
    );
    drop(first);
    within(mock.wait_for("k", |seen| seen.active == 0)).await;
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 200);
}

#[tokio::test]
async fn in_band_errors_are_inside_a_200() {
    let mock = Mock::start().await.unwrap();
    let error = || Step::InBandError {
        status: None,
        body: r#"{"error":{"code":502}}"#.to_owned(),
    };
    mock.script("k", [error(), error(), error(), error()]);
    let whole = try_post(&mock, CHAT).await.unwrap();
    assert_eq!(
        (whole.status, whole.json()),
        (200, json!({"error": {"code": 502}}))
    );
    let stream = try_post(&mock, STREAM).await.unwrap();
    assert_eq!(
        (stream.status, stream.text().as_str()),
        (200, "data: {\"error\":{\"code\":502}}\n\n")
    );
    let messages = r#"{"model":"m","max_tokens":5,"stream":true,"messages":[]}"#;
    let stream = post(&mock, "k", "/v1/messages", messages).await;
    assert_eq!(stream.events()[0].0, "error");
    let contents = r#"{"contents":[{"parts":[{"text":"x"}]}]}"#;
    let array = post(
        &mock,
        "k",
        "/v1beta/models/g:streamGenerateContent",
        contents,
    )
    .await;
    assert_eq!(
        (array.status, array.json()),
        (200, json!({"error": {"code": 502}}))
    );
}

#[tokio::test]
async fn a_prelude_precedes_the_response() {
    let mock = Mock::start().await.unwrap();
    let step = || Step::Prelude {
        text: ": keep-alive\n\n".to_owned(),
        pause: Duration::from_millis(50),
    };
    mock.script("k", [step(), step()]);
    let started = Instant::now();
    let stream = try_post(&mock, STREAM).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!(stream.chunks[0], b": keep-alive\n\n");
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    let whole = try_post(&mock, CHAT).await.unwrap();
    assert!(whole.text().starts_with(": keep-alive\n\n{"));
}

#[tokio::test]
async fn latency_and_intervals_are_respected() {
    let mock = Mock::start().await.unwrap();
    let ms = Duration::from_millis;
    mock.behave(
        "k",
        Behaviour {
            latency: ms(60),
            chunk_interval: ms(10),
            ..Behaviour::default()
        },
    );
    let started = Instant::now();
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("POST", PATH, &["authorization: Bearer k"], STREAM)
        .await;
    within(client.head()).await.unwrap();
    assert!(started.elapsed() >= ms(60));
    let mut arrivals = Vec::new();
    while !within(client.chunk()).await.unwrap().is_empty() {
        arrivals.push(started.elapsed());
    }
    assert_eq!(arrivals.len(), 11);
    // Eleven events have ten intervals. The first event is sent right after the latency.
    assert!(arrivals[10] >= ms(60 + 10 * 10), "{arrivals:?}");
    mock.script("k", [Step::slow_ms(40)]);
    let started = Instant::now();
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 200);
    assert!(started.elapsed() >= ms(100), "on top of the latency");
}

#[tokio::test]
async fn split_streams_arrive_complete() {
    let mock = Mock::start().await.unwrap();
    for size in [1, 7, 1000] {
        mock.behave(
            "k",
            Behaviour {
                split: Some(size),
                ..Behaviour::default()
            },
        );
        let reply = try_post(&mock, STREAM).await.unwrap();
        assert!(reply.chunks.iter().all(|chunk| chunk.len() <= size));
        assert_eq!((reply.events().len(), reply.end), (11, End::Proper));
    }
}

#[tokio::test]
async fn requests_are_recorded_unchanged() {
    let mock = Mock::start().await.unwrap();
    let headers = ["x-api-key: secret", "x-twice: a", "x-twice: b"];
    call(&mock, "POST", "/v1/nowhere?a=b", &headers, "body")
        .await
        .unwrap();
    let last = mock.last_request("secret").unwrap();
    assert_eq!(
        (
            last.method.as_str(),
            last.path.as_str(),
            last.text().as_str()
        ),
        ("POST", "/v1/nowhere?a=b", "body")
    );
    assert_eq!(
        (last.header("host"), last.header("x-twice"), last.body_len),
        (Some("mock"), Some("a"), 4)
    );
    assert_eq!(
        last.headers
            .iter()
            .filter(|(name, _)| name == "x-twice")
            .count(),
        2
    );
    assert_eq!(last.body_hash(), format!("{:016x}", fnv1a(b"body")));
    let large = "x".repeat(MAX_RECORDED_BODY + 1);
    post(&mock, "secret", "/v1/nowhere", &large).await;
    let last = mock.last_request("secret").unwrap();
    assert_eq!((last.body.len(), last.body_len), (0, large.len() as u64));
    assert_eq!(
        last.body_hash(),
        format!("{:016x}", fnv1a(large.as_bytes()))
    );
    assert_eq!(mock.recorded().len(), 2);
    mock.behave(
        "quiet",
        Behaviour {
            record: false,
            ..Behaviour::default()
        },
    );
    post(&mock, "quiet", PATH, CHAT).await;
    assert_eq!((mock.recorded().len(), mock.seen("quiet").requests), (2, 1));
    mock.clear();
    assert_eq!(
        (mock.recorded().len(), mock.seen("secret").requests),
        (0, 0)
    );
    assert!(mock.last_request("secret").is_none());
}

#[tokio::test]
async fn the_remote_control_sets_the_usage_and_no_usage() {
    let mock = Mock::start().await.unwrap();
    for (written, usage) in [
        (json!({"prompt_tokens": -1}), json!({"prompt_tokens": -1})),
        (json!("null"), Value::Null),
        (json!("{\"a\":1,\"a\":2.50}"), json!({"a": 2.5})),
    ] {
        let behaviour = json!({"key": "k", "usage": written}).to_string();
        let set = call(&mock, "POST", "/_mock/behave", &[], &behaviour).await;
        assert_eq!(set.unwrap().status, 200);
        let answer = post(&mock, "k", PATH, CHAT).await.json();
        assert_eq!(answer["usage"], usage);
    }
}

#[tokio::test]
async fn the_remote_control_can_do_what_the_library_can() {
    let mock = Mock::start().await.unwrap();
    let control = async |action: &str, body: Value| {
        let path = format!("/_mock/{action}");
        call(&mock, "POST", &path, &[], &body.to_string())
            .await
            .unwrap()
    };
    let steps = json!([{"status": 429, "headers": {"retry-after": "3"}, "body": {"error": {}}}, {"reset": true}]);
    assert_eq!(
        control("script", json!({"key": "k", "steps": steps}))
            .await
            .json(),
        json!({"scripted": 2})
    );
    assert_eq!(
        try_post(&mock, CHAT).await.unwrap().header("retry-after"),
        Some("3")
    );
    assert_eq!(try_post(&mock, CHAT).await.unwrap_err(), End::Reset);
    control("script", json!({"key": "*", "steps": [{"refuse": 402}]})).await;
    assert_eq!(post(&mock, "anyone", PATH, CHAT).await.status, 402);
    assert_eq!(post(&mock, "anyone", PATH, CHAT).await.status, 200);
    assert_eq!(
        control("behave", json!({"key": "*", "require_key": true}))
            .await
            .status,
        200
    );
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 401);
    control("allow", json!({"keys": ["k"]})).await;
    assert_eq!(try_post(&mock, CHAT).await.unwrap().status, 200);
    assert_eq!(control("seed", json!({"seed": 1})).await.status, 200);

    let seen = get(&mock, "k", "/_mock/seen").await.json();
    assert_eq!(
        seen["k"]["by_status"],
        json!({"200": 1, "401": 1, "429": 1})
    );
    assert_eq!(
        (&seen["k"]["requests"], &seen["anyone"]["requests"]),
        (&json!(4), &json!(2))
    );
    let recorded = get(&mock, "k", "/_mock/recorded?key=k").await.json();
    assert_eq!(
        (recorded.as_array().unwrap().len(), &recorded[0]["body"]),
        (4, &json!(CHAT))
    );
    assert_eq!(recorded[0]["headers"]["authorization"], "Bearer k");
    for (action, body) in [
        ("script", json!({"key": "k", "steps": [{"rset": true}]})),
        ("behave", json!({"key": "k", "latency": 5})),
        ("nonsense", json!({})),
    ] {
        let reply = control(action, body).await;
        assert_eq!(
            (reply.status, reply.json()["error"].is_string()),
            (400, true),
            "{action}"
        );
    }
    assert_eq!(control("clear", json!({})).await.status, 200);
    assert_eq!(get(&mock, "k", "/_mock/seen").await.json(), json!({}));
    assert_eq!(
        try_post(&mock, CHAT).await.unwrap().status,
        200,
        "the default behaviour is back"
    );
}

#[tokio::test]
async fn the_server_stops_at_shutdown_or_with_its_last_handle() {
    let mock = Mock::start().await.unwrap();
    let other = mock.clone();
    let mut client = Client::connect(mock.addr()).await;
    mock.script("k", [Step::Hang]);
    client
        .send("POST", PATH, &["authorization: Bearer k"], CHAT)
        .await;
    within(mock.wait_for("k", |seen| seen.active == 1)).await;
    mock.shutdown();
    within(other.stopped()).await;
    assert!(within(client.reply()).await.is_err());
    assert!(tokio::net::TcpStream::connect(mock.addr()).await.is_err());
    // The port is free again at once.
    let again = Mock::start_on(mock.addr(), Behaviour::default())
        .await
        .unwrap();
    let mut client = Client::connect(again.addr()).await;
    client.send("POST", PATH, &[], CHAT).await;
    assert_eq!(within(client.reply()).await.unwrap().status, 200);
    drop(again);
    assert_eq!(within(client.reply()).await.unwrap_err(), End::Closed);
}

#[tokio::test]
async fn head_requests_and_large_bodies_follow_http() {
    let mock = Mock::start().await.unwrap();
    let mut client = Client::connect(mock.addr()).await;
    client
        .send("HEAD", "/nowhere", &["authorization: Bearer k"], "")
        .await;
    assert_eq!(within(client.head()).await.unwrap().status, 404);
    let large = CHAT.replace("hello", &"hello ".repeat(2_000_000));
    client
        .send("POST", PATH, &["authorization: Bearer k"], &large)
        .await;
    let reply = within(client.reply()).await.unwrap();
    assert_eq!(reply.status, 200, "the connection goes on after a HEAD");
    assert_eq!(reply.json()["usage"]["prompt_tokens"], large.len() / 4 + 1);
    assert_eq!((mock.seen("k").cancelled, mock.seen("k").active), (0, 0));
}

#[test]
fn the_program_first_prints_its_address() {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_keypool-mock"))
        .args(["--listen", "127.0.0.1:0", "--no-record"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let addr = first.trim().strip_prefix("listening on ").unwrap();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"object\":\"list\""),
        "{answer}"
    );
}
