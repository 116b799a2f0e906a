//! What calls hold of their caller's tokens, and what they give back.

use keypool_testkit::Step;

use crate::harness::{CHAT_PATH, Gateway, PoolConfig, STREAM, bearer, key, virtual_key, within};
use crate::http::End;
use crate::limits::{gateway, post, remaining, reporting};
use crate::raw_provider::{RawProvider, Say};

const COMPLETIONS: &str = "/v1/completions";
const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gpt-x:generateContent";

#[tokio::test]
async fn max_tokens_is_held_for_each_output_of_a_call() {
    let (gw, mock) = gateway("output_tpm = 1_000\noutput_reservation = \"max_tokens\"").await;
    mock.behave(&key(1), reporting(10, 0));
    let with =
        |fields: &str, max: u32| format!(r#"{{"model":"gpt-x","max_tokens":{max},{fields}}}"#);
    for (path, fields, outputs) in [
        (COMPLETIONS, r#""prompt":"a""#, 1),
        (COMPLETIONS, r#""prompt":["a","b","c"]"#, 3),
        (COMPLETIONS, r#""prompt":[[1,2],[3]],"n":2"#, 4),
        (COMPLETIONS, r#""prompt":[1,2,3],"n":2,"best_of":5"#, 5),
        (
            CHAT_PATH,
            r#""messages":[{"role":"user","content":"a"}],"n":3"#,
            3,
        ),
    ] {
        let reply = post(&gw, path, &with(fields, 1 + 1_000 / outputs)).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (400, "request_exceeds_limit"),
            "{fields}"
        );
        let reply = post(&gw, path, &with(fields, 10)).await;
        assert_eq!(reply.status, 200, "{fields}: {reply:?}");
        assert_eq!(
            remaining(&reply, "output-tokens"),
            1_000 - 10 * outputs,
            "{fields}"
        );
        gw.all_idle().await;
    }
    for (max, status) in [(501, 400), (500, 200)] {
        let body = format!(
            r#"{{"contents":[{{"parts":[{{"text":"x"}}]}}],"generationConfig":{{"maxOutputTokens":{max},"candidateCount":2}}}}"#
        );
        assert_eq!(post(&gw, GEMINI, &body).await.status, status, "{max}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_learned_hold_is_for_each_output_of_a_call() {
    let (gw, mock) = gateway("output_tpm = 1_000_000").await;
    mock.behave(&key(1), reporting(10, 100));
    let one = r#"{"model":"gpt-x","prompt":"a"}"#;
    for _ in 0..50 {
        assert_eq!(post(&gw, COMPLETIONS, one).await.status, 200);
        gw.all_idle().await;
    }
    let before = remaining(&post(&gw, COMPLETIONS, one).await, "output-tokens");
    gw.all_idle().await;
    mock.behave(&key(1), reporting(10, 1_000));
    let ten = r#"{"model":"gpt-x","prompt":["a","b","c","d","e"],"n":2}"#;
    let after = remaining(&post(&gw, COMPLETIONS, ten).await, "output-tokens");
    // The call before used 100, and held at least as much.
    assert!(before - after >= 900, "{before} - {after}");
    gw.all_idle().await;
    // Ten outputs of 100 say the same as one of 100.
    let again = remaining(&post(&gw, COMPLETIONS, one).await, "output-tokens");
    let held = 1_000_000 - 51 * 100 - 1_000 - again;
    assert!(held < 400, "{held}");
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_cut_off_counts_no_less_than_estimated() {
    let (gw, mock) = gateway("input_tpm = 100_000").await;
    let body = |content: &str| {
        format!(
            r#"{{"model":"gpt-x","max_tokens":9,"stream":true,"messages":[{{"role":"user","content":"{content}"}}]}}"#
        )
    };
    let long = body(&"word ".repeat(1_000));
    let mut before = 100_000;
    // The provider states the input in the first event.
    for (reported, at_least, at_most) in [(1, 900, 2_000), (20_000, 20_000, 20_100)] {
        mock.behave(&key(1), reporting(reported, 5));
        mock.script(&key(1), [Step::CutAfter(4)]);
        let cut = post(&gw, MESSAGES, &long).await;
        assert_eq!((cut.status, &cut.end), (200, &End::Proper), "{cut:?}");
        assert!(cut.text().contains("event: error"), "{cut:?}");
        gw.all_idle().await;
        mock.behave(&key(1), reporting(0, 0));
        let after = remaining(&post(&gw, MESSAGES, &body("x")).await, "input-tokens");
        let used = before - after;
        assert!((at_least..=at_most).contains(&used), "{reported}: {used}");
        gw.all_idle().await;
        before = remaining(&post(&gw, MESSAGES, &body("x")).await, "input-tokens");
        gw.all_idle().await;
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_event_with_output_is_not_held_although_the_usage_is_withheld() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let first = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let stalls = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"stalls";
    let raw = RawProvider::start([Say::stay(&format!("{head}{first}{stalls}"))]).await;
    let config = PoolConfig::at(&format!("{}/v1", raw.origin()), "p", [1]).to_string();
    let gw = Gateway::start(&(config + &virtual_key("team", "output_tpm = 5_000"))).await;
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*bearer("team")),
    ];
    let mut answer = gw
        .open("POST", CHAT_PATH, &headers, STREAM.as_bytes())
        .await;
    let came = async {
        let mut came = Vec::new();
        while !came.ends_with(stalls.as_bytes()) {
            came.extend(answer.next().await.unwrap().unwrap());
        }
        String::from_utf8(came).unwrap()
    };
    assert_eq!(within(came).await, format!("{first}{stalls}"));
    drop(answer);
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn embeddings_hold_no_output_in_any_protocol() {
    let (gw, _mock) = gateway("output_tpm = 1_000\noutput_reservation = \"max_tokens\"").await;
    let gemini = r#"{"content":{"parts":[{"text":"x"}]}}"#;
    for (path, body) in [
        ("/v1/embeddings", r#"{"model":"gpt-x","input":"x"}"#),
        ("/v1beta/models/gpt-x:embedContent", gemini),
        (
            "/v1beta/models/gpt-x:batchEmbedContents",
            &format!(r#"{{"requests":[{gemini}]}}"#),
        ),
    ] {
        let reply = post(&gw, path, body).await;
        assert_eq!(
            (reply.status, remaining(&reply, "output-tokens")),
            (200, 1_000),
            "{path}"
        );
        gw.all_idle().await;
    }
    gw.stop().await;
}
