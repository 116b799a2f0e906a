//! What counts as an answer: a 200 without one goes to the next key, and a stream is complete when its protocol says so.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig, STREAM, key};
use crate::http::{End, Reply};
use crate::raw_provider::{RawProvider, Say};

const OUTPUT: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const STOP: &str =
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gpt-x:streamGenerateContent?alt=sse";

/// A stream in the form of each protocol.
fn request(path: &str) -> &'static str {
    match path {
        RESPONSES => r#"{"model":"gpt-x","input":"x","stream":true,"store":false}"#,
        MESSAGES => {
            r#"{"model":"gpt-x","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"x"}]}"#
        }
        GEMINI => r#"{"contents":[{"parts":[{"text":"x"}]}]}"#,
        _ => STREAM,
    }
}

fn say(content_type: &str, body: &[u8], is_whole: bool) -> Say {
    let head = format!("HTTP/1.1 200 OK\r\n{content_type}transfer-encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
    }
    if is_whole {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    Say::Close(bytes)
}

fn events(body: &str) -> Say {
    say("content-type: text/event-stream\r\n", body.as_bytes(), true)
}

fn typed(content_type: &str, body: &[u8]) -> Say {
    say(&format!("content-type: {content_type}\r\n"), body, true)
}

/// A gateway whose first key leads to a provider that says this, and whose second key leads to the mock.
async fn gateway(say: Say) -> (Gateway, RawProvider, Mock) {
    let mock = Mock::start().await.expect("a mock");
    let bad = RawProvider::start([say]).await;
    let config = PoolConfig::new(&mock, "p", [])
        .key(1, &format!("base_url = \"{}\"", bad.origin()))
        .key(2, "");
    (Gateway::start(&config.to_string()).await, bad, mock)
}

/// The reply to one call, and how often the first key failed by then.
async fn call(say: Say, path: &str, body: &str) -> (Reply, Value) {
    let (gw, _bad, _mock) = gateway(say).await;
    let reply = gw.post(path, body).await;
    gw.all_idle().await;
    let failed = gw.key_stats("p", "p-1").await["failed_requests"].clone();
    gw.stop().await;
    (reply, failed)
}

async fn assert_fails_over(say: Say, path: &str, body: &str) {
    let said = format!("{say:?}").chars().take(300).collect::<String>();
    let (reply, failed) = call(say, path, body).await;
    let served = (reply.status, reply.key(), reply.attempts(), reply.end);
    assert_eq!(served, (200, "p-2", "2", End::Proper), "{said}: {reply:?}");
    assert_eq!(failed, 1, "{said}");
}

#[tokio::test]
async fn an_error_after_opening_events_goes_to_the_next_key() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n";
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n";
    let overloaded =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let started = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
    let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let error = "data: {\"error\":{\"code\":503,\"message\":\"m\"}}\n\n";
    for (path, body) in [
        (RESPONSES, format!("{created}{failed}")),
        (MESSAGES, format!("{started}{overloaded}")),
        (MESSAGES, format!("{ping}{started}{ping}{overloaded}")),
        (CHAT_PATH, format!("{role}{error}")),
        (CHAT_PATH, format!("data: {{\"choices\":[]}}\n\n{error}")),
        (CHAT_PATH, format!("id: 1\n\nretry: 5\n\ndata:\n\n{error}")),
        (
            GEMINI,
            format!("data: {{\"usageMetadata\":{{}}}}\n\n{error}"),
        ),
        // The end without any output.
        (RESPONSES, created.to_owned()),
        (CHAT_PATH, role.to_owned()),
    ] {
        assert_fails_over(events(&body), path, request(path)).await;
    }
}

#[tokio::test]
async fn a_200_without_an_answer_goes_to_the_next_key() {
    let json = "application/json";
    for (say, body) in [
        (events(""), STREAM),
        (events(": keep-alive\n\n"), STREAM),
        (events("data: [DONE]\n\n"), STREAM),
        (typed(json, b""), CHAT),
        (typed(json, b" \n"), CHAT),
        (
            typed(json, br#"{"choices":[{"message":{"content":"a"#),
            CHAT,
        ),
        (
            typed("text/html", b"<!doctype html><title>Login</title>"),
            CHAT,
        ),
        (typed("text/event-stream", b"<html>Login</html>"), STREAM),
        (say("", b"{\"choices\":[", true), CHAT),
    ] {
        assert_fails_over(say, CHAT_PATH, body).await;
    }
}

#[tokio::test]
async fn an_answer_that_never_came_is_502_if_a_call_is_not_repeated() {
    let stored = r#"{"model":"gpt-x","input":"x"}"#;
    let (reply, _) = call(typed("application/json", b""), RESPONSES, stored).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.attempts()),
        (502, "upstream_unreachable", "1"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn errors_in_any_form_go_to_the_next_key() {
    let error = r#"{"error":{"code":503,"message":"m"}}"#;
    let event = format!("data: {error}\n\n");
    for (say, body) in [
        (typed("text/event-stream", error.as_bytes()), STREAM),
        (typed("text/plain", event.as_bytes()), STREAM),
        (say("", event.as_bytes(), true), STREAM),
        (
            typed("text/event-stream", event.trim_end().as_bytes()),
            STREAM,
        ),
        (
            typed("application/json", br#"{"object":"error","code":503}"#),
            CHAT,
        ),
        (
            typed(
                "application/json",
                br#"{"type":"error","code":"unavailable"}"#,
            ),
            CHAT,
        ),
        (typed("text/plain", error.as_bytes()), CHAT),
        (
            typed("application/json", format!("\n\n\n {error}").as_bytes()),
            CHAT,
        ),
    ] {
        assert_fails_over(say, CHAT_PATH, body).await;
    }
}

#[tokio::test]
async fn compressed_answers_are_understood_and_relayed_as_they_are() {
    // `{"error":{"code":503}}`, and a chat answer, by gzip.
    const ERROR: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabVJ-*\xca/R\xb2\xaaVJ\xceOIU\xb2250\xae\xad\x05\0\xe6\xbb;\xef\x16\0\0\0";
    const ANSWER: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabVJ\xce\xc8\xcfLN-V\xb2\x8a\xaeV\xcaM-.NLOU\xb2\xaaVJ\xce\xcf+I\xcd+Q\xb2RJT\xaa\xad\x8d\xad\x05\0\xa3\xb1\x94\xd6)\0\0\0";
    const QUOTA: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabVJ-*\xca/R\xb2\xaaVJ\xceOIU\xb2R\xca\xcc+.MK\xcbL\xceL\xcd+\x89/,\xcd/IT\xaa\xad\x05\0\x05\x22\x04\x06'\0\0\0";
    for head in ["content-encoding: gzip\r\n", ""] {
        let head = format!("content-type: application/json\r\n{head}");
        assert_fails_over(say(&head, ERROR, true), CHAT_PATH, CHAT).await;
        let (reply, failed) = call(say(&head, ANSWER, true), CHAT_PATH, CHAT).await;
        assert_eq!(
            (reply.key(), &*reply.body, failed),
            ("p-1", ANSWER, 0.into())
        );
    }
    // The reason of a refusal is read as well: the group of the first key is out of quota.
    let (gw, _bad, _mock) = gateway(Say::Close(
        [
            format!(
                "HTTP/1.1 429 No\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                QUOTA.len()
            )
            .as_bytes(),
            QUOTA,
        ]
        .concat(),
    ))
    .await;
    assert_eq!(gw.chat().await.key(), "p-2");
    assert_eq!(gw.key_stats("p", "p-1").await["state"], "exhausted");
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_is_complete_at_its_protocols_end_whatever_the_transfer_does() {
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";
    let text = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n";
    let finish = "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n";
    for (path, body) in [
        (CHAT_PATH, format!("{OUTPUT}data: [DONE]\n\n")),
        (CHAT_PATH, format!("{OUTPUT}{STOP}")),
        (MESSAGES, format!("{delta}{stop}")),
        (GEMINI, format!("{text}{finish}")),
    ] {
        let say = say(
            "content-type: text/event-stream\r\n",
            body.as_bytes(),
            false,
        );
        let (reply, failed) = call(say, path, request(path)).await;
        assert_eq!(
            (reply.text(), reply.end),
            (body.clone(), End::Proper),
            "{path}"
        );
        assert_eq!(failed, 0, "{body}");
    }
}

#[tokio::test]
async fn a_stream_without_its_protocols_end_is_truncated_however_it_ends() {
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";
    let text = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n";
    let item =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\"}\n\n";
    for (path, whole, half) in [
        (CHAT_PATH, OUTPUT, ""),
        (CHAT_PATH, OUTPUT, "data: {\"choices\":[{\"del"),
        (MESSAGES, delta, "event: message_st"),
        (RESPONSES, item, ""),
        (GEMINI, text, ""),
    ] {
        let (reply, failed) = call(events(&format!("{whole}{half}")), path, request(path)).await;
        let after = reply.text().split_off(whole.len());
        assert!(reply.text().starts_with(whole), "{path}: {reply:?}");
        assert!(after.contains("upstream_unreachable"), "{path}: {reply:?}");
        assert_eq!(failed, 1, "{path}");
    }
}

/// Gemini's form without `alt=sse`.
#[tokio::test]
async fn a_stream_that_is_a_list_is_judged_by_its_elements() {
    let path = "/v1beta/models/gpt-x:streamGenerateContent";
    let text = "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}";
    let finish = "{\"candidates\":[{\"finishReason\":\"STOP\"}]}";
    let error = "{\"error\":{\"code\":503,\"message\":\"m\",\"status\":\"UNAVAILABLE\"}}";
    let list = |body: &str, is_whole| {
        say(
            "content-type: application/json\r\n",
            body.as_bytes(),
            is_whole,
        )
    };
    // Whether the transfer ends or not, and how often the key failed.
    for (body, is_whole, fails) in [
        (format!("[{text}\n,\r\n{finish}\n]"), true, 0),
        (format!("[{text},{finish}"), false, 0),
        (format!("[{text},{error}]"), true, 1),
    ] {
        let (reply, failed) = call(list(&body, is_whole), path, request(GEMINI)).await;
        assert_eq!((reply.text(), reply.end), (body.clone(), End::Proper));
        assert_eq!(failed, fails, "{body}");
    }
    for (body, is_whole) in [
        (format!("[{text}]"), true),
        (format!("[{text},{}", &finish[..20]), true),
        (format!("[{text}\n,\r\n"), false),
        ("[ ".to_owned() + text, false),
    ] {
        let (reply, failed) = call(list(&body, is_whole), path, request(GEMINI)).await;
        assert_eq!(
            (reply.end, &failed),
            (End::Proper, &Value::from(1)),
            "{body}"
        );
        let elements: Vec<Value> = serde_json::from_str(&reply.text()).expect("a whole list");
        assert_eq!(elements.len(), 2, "{elements:?}");
        assert_eq!(
            elements[1]["error"]["status"], "UNAVAILABLE",
            "{elements:?}"
        );
    }
    // Another key can still serve while nothing but an error has come.
    assert_fails_over(list(&format!("[{error}]"), true), path, request(GEMINI)).await;
}

/// A success is one at its end.
#[tokio::test]
async fn a_stream_that_breaks_off_is_no_evidence_against_another_key() {
    let mock = Mock::start().await.expect("a mock");
    mock.behave(
        &key(1),
        Behaviour {
            fault: Some(Step::refuse(503)),
            ..Behaviour::default()
        },
    );
    let cut = RawProvider::start([events(OUTPUT)]).await;
    let config = PoolConfig::new(&mock, "p", [])
        .key(1, "")
        .key(2, &format!("base_url = \"{}\"", cut.origin()));
    let gw = Gateway::start(&config.to_string()).await;
    for _ in 0..40 {
        assert_eq!(gw.post(CHAT_PATH, STREAM).await.key(), "p-2");
    }
    gw.all_idle().await;
    let key = gw.key_stats("p", "p-1").await;
    assert!(key["failed_requests"].as_u64() >= Some(10), "{key}");
    assert_eq!(
        (&key["state"], &key["cooldowns"]),
        (&"active".into(), &serde_json::json!([]))
    );
    gw.stop().await;
}

#[tokio::test]
async fn an_error_later_in_a_stream_counts_for_its_key() {
    let limited = "data: {\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}\n\n";
    let (gw, _bad, _mock) = gateway(events(&format!("{OUTPUT}{limited}"))).await;
    let reply = gw.post(CHAT_PATH, STREAM).await;
    assert_eq!(
        reply.text(),
        format!("{OUTPUT}{limited}"),
        "relayed unchanged"
    );
    gw.all_idle().await;
    let key = gw.key_stats("p", "p-1").await;
    assert_eq!(key["failed_requests"], 1);
    assert_eq!(key["cooldowns"][0]["class"], "rate_limited", "{key}");
    gw.logged("upstream_error").await;
    gw.stop().await;
}

#[tokio::test]
async fn blank_lines_are_held_for_a_bounded_time() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let (gw, _bad, _mock) = gateway(Say::stay(&format!("{head}1\r\n\n\r\n"))).await;
    let began = Instant::now();
    let mut answer = gw.open("POST", CHAT_PATH, &[], CHAT.as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.next().await.unwrap().as_deref(), Some(&b"\n"[..]));
    let took = began.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(9)).contains(&took),
        "{took:?}"
    );
    drop(answer);
    gw.stop().await;
}
