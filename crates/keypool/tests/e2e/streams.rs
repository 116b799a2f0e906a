//! Streams and whole answers are relayed unchanged and without delay, and never pass for complete if they are not.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Gateway, PoolConfig, STREAM, key, pool, within};
use crate::http::{Connection, End, Reply, code_of};
use crate::raw_provider::{RawProvider, Say};

const MESSAGES: &str = r#"{"model":"claude-x","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
const GENERATE: &str = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
const GEMINI_SSE: &str = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";
/// A streaming request of each protocol: path and body.
pub(crate) const STREAMS: [(&str, &str); 3] = [
    (CHAT_PATH, STREAM),
    ("/v1/messages", MESSAGES),
    (GEMINI_SSE, GENERATE),
];

/// Removes ids and times, which differ from call to call.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("chatcmpl-") {
        let id = at + "chatcmpl-".len();
        out += &rest[..id];
        rest = &rest[id + 24..];
    }
    out += rest;
    let parts: Vec<&str> = out
        .split("\"created\":")
        .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()))
        .collect();
    parts.join("\"created\":")
}

/// The number of complete events in `bytes`.
fn events_in(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    text.matches("\n\n").count()
}

fn events(reply: &Reply) -> Vec<String> {
    let text = reply.text().replace("\r\n", "\n");
    text.split("\n\n")
        .filter(|event| !event.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The JSON of an event's data.
fn data(event: &str) -> Value {
    let data = event
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap_or_else(|| panic!("no data: {event:?}"));
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {event:?}"))
}

/// Checks that the stream ends with one of our errors, in a format that makes the SDK raise.
pub(crate) fn assert_ends_with_error(reply: &Reply, path: &str) {
    assert_eq!((reply.status, reply.end), (200, End::Proper), "{path}");
    let events = events(reply);
    let last = events.last().expect("an event");
    let error = data(last);
    assert_eq!(code_of(&error), "upstream_unreachable", "{path}: {last}");
    match path {
        "/v1/messages" => {
            assert!(last.starts_with("event: error\n"), "{last}");
            assert_eq!(error["type"], "error");
        }
        GEMINI_SSE => assert_eq!(error["error"]["status"], "UNAVAILABLE", "{last}"),
        _ => assert!(error["error"]["message"].is_string(), "{last}"),
    }
}

/// A 200 with this event stream.
fn event_stream(body: &str) -> Step {
    Step::Status {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        body: body.to_owned(),
    }
}

fn error_in_a_200(body: &str) -> Step {
    Step::InBandError {
        status: None,
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn every_byte_arrives_as_the_provider_sent_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    const NATIVE: &str = "/p/v1/anything";
    for (path, body) in [
        (CHAT_PATH, "data: {\"a\":1}\n\ndata: [DONE]\n\n"),
        (
            CHAT_PATH,
            "data: {\"a\":1}\r\n\r\n: comment\r\nevent:x\r\nid: 7\r\nretry: 10\r\ndata:{\"b\":\"\\u4f60 你\"}\r\n\r\ndata:[DONE]",
        ),
        (
            CHAT_PATH,
            "\u{feff}data: x\n\n\n\n\ndata: y\ndata: z\n\ndata: [DONE]\n",
        ),
        (
            CHAT_PATH,
            ": hi\n\ndata: {\"choices\":[]}\n\ndata: {\"a\":1}\r\rdata: [DONE]\n\r\n: bye",
        ),
        (NATIVE, "data: {\"a\":1}\r\rdata: mixed\n\r\ndata: no end"),
        (NATIVE, ": only a comment\n\n"),
        (NATIVE, "\n\n"),
        (NATIVE, "no field at all\n\n"),
        (NATIVE, "data: last line without an end"),
    ] {
        mock.script(&key(1), [event_stream(body)]);
        let reply = gw.post(path, STREAM).await;
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.end),
            (200, body, End::Proper)
        );
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    }
    gw.stop().await;
}

#[tokio::test]
async fn streams_split_at_any_byte_are_relayed_intact() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let direct = {
        let mut connection = Connection::open(mock.addr()).await;
        connection
            .request("POST", CHAT_PATH, &[], STREAM.as_bytes())
            .await;
        let answer = connection.answer().await.unwrap();
        within(answer.whole()).await.text()
    };
    let expect = without_ids(&direct);
    assert!(expect.ends_with("data: [DONE]\n\n") && !expect.contains("chatcmpl-0"));
    for size in 1..=64 {
        mock.behave(
            &key(1),
            Behaviour {
                split: Some(size),
                ..Behaviour::default()
            },
        );
        let reply = gw.post(CHAT_PATH, STREAM).await;
        assert_eq!(
            (without_ids(&reply.text()), reply.end),
            (expect.clone(), End::Proper),
            "split at {size}"
        );
    }
    gw.stop().await;
}

/// Waits until one more call with key 1 is cancelled at the provider, and no key is busy.
async fn call_is_cancelled(gw: &Gateway, mock: &Mock, before: u64) {
    within(mock.wait_for(&key(1), |seen| seen.cancelled == before + 1)).await;
    gw.all_idle().await;
}

#[tokio::test]
async fn events_are_relayed_at_once_and_disconnects_end_the_call() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (path, body) in STREAMS {
        for kept in [1, 2] {
            let before = mock.seen(&key(1)).cancelled;
            mock.script(&key(1), [Step::StallAfter(kept)]);
            let mut stream = gw.open("POST", path, &[], body.as_bytes()).await;
            let mut came = Vec::new();
            while events_in(&came) < kept {
                came.extend(within(stream.next()).await.unwrap().unwrap());
            }
            assert_eq!(gw.key_stats("p", "p-1").await["active_requests"], 1);
            drop(stream);
            call_is_cancelled(&gw, &mock, before).await;
            assert_eq!(mock.seen(&key(1)).active, 0, "{path}");
        }
    }
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (&stats["total_requests"], &stats["failed_requests"]),
        (&json!(6), &json!(0)),
        "a disconnect blames no key"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_disconnect_before_the_answer_ends_the_call() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for body in [CHAT, STREAM] {
        let before = mock.seen(&key(1)).cancelled;
        mock.script(&key(1), [Step::Hang]);
        let mut connection = Connection::open(gw.addr).await;
        connection
            .request("POST", CHAT_PATH, &[], body.as_bytes())
            .await;
        within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
        drop(connection);
        call_is_cancelled(&gw, &mock, before).await;
    }
    assert_eq!(gw.key_stats("p", "p-1").await["failed_requests"], 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_broken_stream_ends_with_an_error_in_its_protocols_format() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("breaker.min_requests", 1000);
    let gw = Gateway::start(&config.to_string()).await;
    let mut broken = 0;
    for (path, body) in STREAMS {
        let whole = events(&gw.post(path, body).await);
        for step in [Step::CutAfter(2), Step::CutMidEvent(2), Step::ResetMidBody] {
            mock.script(&key(1), [step.clone()]);
            let reply = gw.post(path, body).await;
            assert_ends_with_error(&reply, path);
            let came = events(&reply);
            let n = came.len() - 1;
            assert!(n >= 2 && n < whole.len(), "{path} {step:?}: {n} events");
            came[..n].iter().for_each(|event| drop(data(event)));
            broken += 1;
            let stats = gw.key_stats("p", "p-1").await;
            assert_eq!(
                (&stats["failed_requests"], &stats["active_requests"]),
                (&json!(broken), &json!(0)),
                "{path} {step:?}"
            );
        }
    }
    let calls = mock.seen(&key(1)).requests;
    assert_eq!(calls, 12, "nothing is retried after an event was relayed");
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_an_error() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("timeouts.idle", "300ms");
    let gw = Gateway::start(&config.to_string()).await;
    for (path, body) in STREAMS {
        mock.script(&key(1), [Step::StallAfter(2)]);
        let reply = gw.post(path, body).await;
        assert_ends_with_error(&reply, path);
    }
    assert_eq!(gw.key_stats("p", "p-1").await["failed_requests"], 3);
    within(mock.wait_for(&key(1), |seen| seen.active == 0)).await;
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_without_a_first_event_fails_over() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", 1..=2).set("timeouts.first_byte", "300ms");
    let gw = Gateway::start(&config.to_string()).await;
    for step in [Step::Hang, Step::StallAfter(0), Step::CutAfter(0)] {
        mock.script("*", [step.clone()]);
        let reply = gw.post(CHAT_PATH, STREAM).await;
        assert_eq!(
            (reply.status, reply.attempts(), reply.end),
            (200, "2", End::Proper),
            "{step:?}: {reply:?}"
        );
        assert!(reply.text().ends_with("data: [DONE]\n\n"));
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_error_inside_a_200_fails_over() {
    let plain = r#"{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}"#;
    let anthropic =
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let gemini = r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#;
    let named = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n";
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for (path, body, error) in [
        (CHAT_PATH, CHAT, plain),
        (CHAT_PATH, STREAM, plain),
        ("/v1/messages", MESSAGES, anthropic),
        ("/v1/messages", MESSAGES, named),
        (GEMINI_SSE, GENERATE, gemini),
        ("/v1beta/models/gemini-x:generateContent", GENERATE, gemini),
    ] {
        mock.script("*", [error_in_a_200(error)]);
        let reply = gw.post(path, body).await;
        assert_eq!(
            (reply.status, reply.attempts()),
            (200, "2"),
            "{path}: {reply:?}"
        );
        assert!(
            !reply.text().contains("\"error\""),
            "{path}: {}",
            reply.text()
        );
        for name in ["p-1", "p-2"] {
            gw.reset("p", name).await;
        }
    }
    // A caller's fault does not fail over, wherever the provider reports it.
    let fault =
        r#"{"error":{"message":"bad","type":"invalid_request_error","code":"invalid_value"}}"#;
    for body in [CHAT, STREAM] {
        mock.script("*", [error_in_a_200(fault)]);
        let reply = gw.post(CHAT_PATH, body).await;
        assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
        assert!(reply.text().contains("invalid_value"));
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_error_later_in_a_stream_is_relayed() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let body = "data: {\"id\":\"1\",\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"error\":{\"message\":\"later\",\"code\":\"server_error\"}}\n\n";
    mock.script("*", [event_stream(body)]);
    let reply = gw.post(CHAT_PATH, STREAM).await;
    assert_eq!(
        (reply.text().as_str(), reply.attempts(), reply.end),
        (body, "1", End::Proper)
    );
    gw.stop().await;
}

#[tokio::test]
async fn comments_before_the_first_event_are_relayed_with_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let prelude = ": keep-alive\n\n\n: OPENROUTER PROCESSING\n\n";
    for pause in [0, 300] {
        mock.script(
            &key(1),
            [Step::Prelude {
                text: prelude.to_owned(),
                pause: Duration::from_millis(pause),
            }],
        );
        let reply = gw.post(CHAT_PATH, STREAM).await;
        let text = reply.text();
        let rest = text
            .strip_prefix(prelude)
            .unwrap_or_else(|| panic!("{text}"));
        assert!(rest.starts_with("data: {") && rest.ends_with("data: [DONE]\n\n"));
    }
    gw.stop().await;
}

#[tokio::test]
async fn comments_are_held_for_at_most_five_seconds() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    mock.script(
        &key(1),
        [Step::Prelude {
            text: ": wait\n\n".to_owned(),
            pause: Duration::from_secs(60),
        }],
    );
    let began = Instant::now();
    let mut stream = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    let first = within(stream.next()).await.unwrap().unwrap();
    assert_eq!(first, b": wait\n\n");
    assert!(
        began.elapsed() >= Duration::from_millis(4500) && began.elapsed() < DEADLINE,
        "{:?}",
        began.elapsed()
    );
    drop(stream);
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn a_broken_stream_whose_protocol_has_no_error_event_ends_broken() {
    let first = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                 d\r\ndata: {\"a\":1}\r\n2\r\n\n\n\r\n";
    let provider = RawProvider::start([Say::close(first)]).await;
    let config = PoolConfig::at(&provider.origin(), "p", [1]).set("provider", "tavily");
    let gw = Gateway::start(&config.to_string()).await;
    let reply = gw.post("/research", r#"{"input":"x","stream":true}"#).await;
    assert_eq!(
        (reply.status, reply.text().as_str(), reply.end),
        (200, "data: {\"a\":1}\n\n", End::Broken)
    );
    gw.logged("upstream_broke_off").await;
    gw.stop().await;
}

#[tokio::test]
async fn a_small_answer_that_breaks_off_fails_over() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for step in [Step::CutAfter(0), Step::ResetMidBody] {
        mock.script("*", [step.clone()]);
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.attempts(), reply.end),
            (200, "2", End::Proper),
            "{step:?}"
        );
        assert!(reply.json()["choices"].is_array());
    }
    let stats = gw.stats().await["p"].clone();
    let failed = stats["p-1"]["failed_requests"].as_u64().unwrap()
        + stats["p-2"]["failed_requests"].as_u64().unwrap();
    assert_eq!(failed, 2);
    gw.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_midway_reaches_the_client_broken() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let speech = r#"{"model":"tts-x","input":"hello","voice":"alloy"}"#;
    let path = "/v1/audio/speech";
    let whole = gw.post(path, speech).await;
    assert_eq!((whole.status, whole.end), (200, End::Proper), "{whole:?}");
    for (step, failed) in [(Step::CutAfter(2), 1), (Step::ResetMidBody, 2)] {
        mock.script(&key(1), [step.clone()]);
        let reply = gw.post(path, speech).await;
        assert_eq!(
            (reply.status, reply.end),
            (200, End::Broken),
            "{step:?}: {} of {} bytes",
            reply.body.len(),
            whole.body.len()
        );
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(
            (&stats["failed_requests"], &stats["active_requests"]),
            (&json!(failed), &json!(0)),
            "{step:?}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_reused_connection_found_closed_is_replaced_and_not_counted() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    // The first call opens a connection, so its reset counts as a failed attempt.
    for (reused, attempts) in [(false, "2"), (true, "1"), (true, "1")] {
        mock.script(&key(1), [Step::Reset]);
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.attempts()),
            (200, attempts),
            "reused: {reused}: {reply:?}"
        );
    }
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (
            &stats["total_requests"],
            &stats["failed_requests"],
            mock.seen(&key(1)).requests
        ),
        (&json!(4), &json!(1), 6)
    );
    gw.stop().await;
}
