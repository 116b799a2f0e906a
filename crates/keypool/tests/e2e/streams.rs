//! Streams and whole answers on their way through: unchanged, undelayed, and never taken for whole when they are not.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Gateway, STREAM, key, pool, within};
use crate::http::{Connection, End, Reply, code_of};

const MESSAGES: &str = r#"{"model":"claude-x","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
const GENERATE: &str = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
const GEMINI_SSE: &str = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";
/// A stream of each protocol: path and body.
pub(crate) const STREAMS: [(&str, &str); 3] = [
    (CHAT_PATH, STREAM),
    ("/v1/messages", MESSAGES),
    (GEMINI_SSE, GENERATE),
];

/// Ids and times, which differ from call to call, made alike.
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

/// How many whole events stand in `bytes`.
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

/// The stream ends with an error of ours that its SDK raises at.
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

#[tokio::test]
async fn every_byte_arrives_as_the_provider_sent_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for body in [
        "data: {\"a\":1}\n\ndata: [DONE]\n\n",
        "data: {\"a\":1}\r\n\r\n: comment\r\nevent:x\r\nid: 7\r\nretry: 10\r\ndata:{\"b\":\"\\u4f60 你\"}\r\n\r\n",
        "\u{feff}data: x\n\n\n\n\ndata: y\ndata: z\n\n",
        "data: {\"a\":1}\r\rdata: mixed\n\r\ndata: no end",
        ": only a comment\n\n",
        "\n\n",
        "no field at all\n\n",
        "data: last line without an end",
    ] {
        mock.script(
            &key(1),
            [Step::Status {
                status: 200,
                headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
                body: body.to_owned(),
            }],
        );
        let reply = gw.post(CHAT_PATH, STREAM).await;
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.end),
            (200, body, End::Proper)
        );
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    }
    gw.stop().await;
}

#[tokio::test]
async fn where_the_provider_splits_its_bytes_does_not_matter() {
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

#[tokio::test]
async fn an_event_is_not_held_back_for_the_next_and_who_leaves_ends_the_call() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (n, (path, body)) in STREAMS.into_iter().enumerate() {
        for kept in [1, 2] {
            let before = mock.seen(&key(1)).cancelled;
            mock.script(&key(1), [Step::StallAfter(kept)]);
            let mut stream = gw.open("POST", path, &[], body.as_bytes()).await;
            let mut came = Vec::new();
            while events_in(&came) < kept {
                came.extend(within(stream.next()).await.unwrap().unwrap());
            }
            assert_eq!(gw.key_stats("p", "p-1").await["active_requests"], 1);
            let left = Instant::now();
            drop(stream);
            within(mock.wait_for(&key(1), |seen| seen.cancelled == before + 1)).await;
            gw.all_idle().await;
            assert!(
                left.elapsed() < Duration::from_secs(2),
                "freed after {:?}",
                left.elapsed()
            );
            assert_eq!(mock.seen(&key(1)).active, 0, "{n}");
        }
    }
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(
        (&stats["total_requests"], &stats["failed_requests"]),
        (&json!(6), &json!(0)),
        "a client that leaves blames no key"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_ends_the_call() {
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
        within(mock.wait_for(&key(1), |seen| seen.cancelled == before + 1)).await;
        gw.all_idle().await;
    }
    assert_eq!(gw.key_stats("p", "p-1").await["failed_requests"], 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_in_its_protocols_form() {
    let mock = Mock::start().await.unwrap();
    let config = format!("{}breaker = {{ min_requests = 1000 }}\n", pool(&mock, 1));
    let gw = Gateway::start(&config).await;
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
    assert_eq!(calls, 12, "nothing is retried once an event has gone out");
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_an_error() {
    let mock = Mock::start().await.unwrap();
    let config = format!("{}timeouts = {{ idle = \"300ms\" }}\n", pool(&mock, 1));
    let gw = Gateway::start(&config).await;
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
async fn a_stream_whose_first_event_does_not_come_goes_to_the_next_key() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}timeouts = {{ first_byte = \"300ms\" }}\n",
        pool(&mock, 2)
    );
    let gw = Gateway::start(&config).await;
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
async fn an_error_inside_a_200_goes_to_the_next_key() {
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
        mock.script(
            "*",
            [Step::InBandError {
                status: None,
                body: error.to_owned(),
            }],
        );
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
    // A caller's own fault is no reason to try another key, wherever it is said.
    let fault =
        r#"{"error":{"message":"bad","type":"invalid_request_error","code":"invalid_value"}}"#;
    for body in [CHAT, STREAM] {
        mock.script(
            "*",
            [Step::InBandError {
                status: None,
                body: fault.to_owned(),
            }],
        );
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
    let body = "data: {\"id\":\"1\",\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"later\",\"code\":\"server_error\"}}\n\n";
    mock.script(
        "*",
        [Step::Status {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
            body: body.to_owned(),
        }],
    );
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
async fn comments_are_held_five_seconds_at_most() {
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
async fn a_small_answer_that_breaks_is_fetched_from_the_next_key() {
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
async fn an_answer_that_breaks_on_its_way_is_not_taken_for_whole() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let speech = r#"{"model":"tts-x","input":"hello","voice":"alloy"}"#;
    let array = "/v1beta/models/gemini-x:streamGenerateContent";
    let mut failed = 0;
    for (path, body) in [("/v1/audio/speech", speech), (array, GENERATE)] {
        let whole = gw.post(path, body).await;
        assert_eq!((whole.status, whole.end), (200, End::Proper), "{whole:?}");
        for step in [Step::CutAfter(2), Step::ResetMidBody] {
            mock.script(&key(1), [step.clone()]);
            let reply = gw.post(path, body).await;
            failed += 1;
            assert_eq!(
                (reply.status, reply.end),
                (200, End::Broken),
                "{path} {step:?}: {} of {} bytes",
                reply.body.len(),
                whole.body.len()
            );
            let stats = gw.key_stats("p", "p-1").await;
            assert_eq!(
                (&stats["failed_requests"], &stats["active_requests"]),
                (&json!(failed), &json!(0)),
                "{path} {step:?}"
            );
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_kept_connection_found_closed_is_replaced_uncounted_and_a_new_one_is_not() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (kept, attempts) in [(false, "2"), (true, "1"), (true, "1")] {
        mock.script(&key(1), [Step::Reset]);
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.attempts()),
            (200, attempts),
            "kept: {kept}: {reply:?}"
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
