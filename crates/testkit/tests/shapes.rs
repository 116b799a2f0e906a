//! The format of each endpoint's responses, over real sockets.
//!
//! These tests never look inside the mock: a client sees only these bytes.

mod client;
mod quota;

use client::{CHAT, STREAM, call, get, post};
use keypool_testkit::{Behaviour, Mock};
use serde_json::{Value, json};

const MADE_UP: &str = "This answer is made up by keypool's mock provider. You said: hello";

#[tokio::test]
async fn chat_is_served_at_every_usual_path() {
    let mock = Mock::start().await.unwrap();
    for prefix in [
        "/v1",
        "/api/v3",
        "/v1beta/openai",
        "/openai/v1",
        "/api/v1",
        "",
    ] {
        let reply = post(&mock, "k", &format!("{prefix}/chat/completions"), CHAT).await;
        let body = reply.json();
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("application/json")),
            "{prefix}"
        );
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["model"], "gpt-4o-mini");
        assert_eq!(body["choices"][0]["message"]["content"], MADE_UP);
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        let usage = &body["usage"];
        let sum =
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(
            (
                usage["completion_tokens"].as_u64(),
                usage["total_tokens"].as_u64()
            ),
            (Some(12), Some(sum))
        );
        assert!(
            body["id"].as_str().unwrap().starts_with("chatcmpl-")
                && body["created"].as_u64() > Some(1_700_000_000)
        );
    }
    assert_eq!(mock.seen("k").requests, 6);
}

#[tokio::test]
async fn responses_have_the_provider_s_headers() {
    let mock = Mock::start().await.unwrap();
    let openai = post(&mock, "k", "/v1/chat/completions", CHAT).await;
    for name in [
        "x-request-id",
        "openai-organization",
        "x-ratelimit-remaining-requests",
        "set-cookie",
        "date",
    ] {
        assert!(openai.header(name).is_some(), "{name}");
    }
    assert_eq!(openai.header("openai-organization"), Some("org-mock"));
    let body = r#"{"model":"claude","max_tokens":9,"messages":[]}"#;
    let anthropic = post(&mock, "k", "/v1/messages", body).await;
    for name in ["request-id", "anthropic-organization-id", "set-cookie"] {
        assert!(anthropic.header(name).is_some(), "{name}");
    }
    let again = post(&mock, "k", "/v1/chat/completions", CHAT).await;
    assert_ne!(openai.header("x-request-id"), again.header("x-request-id"));
}

fn deltas(events: &[(String, Value)]) -> String {
    events
        .iter()
        .filter_map(|(_, data)| data["choices"][0]["delta"]["content"].as_str())
        .collect()
}

#[tokio::test]
async fn chat_streams_have_usage_only_on_request() {
    let mock = Mock::start().await.unwrap();
    let reply = post(&mock, "k", "/v1/chat/completions", STREAM).await;
    assert_eq!(
        reply.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let events = reply.events();
    assert_eq!(events.len(), 1 + 8 + 1 + 1, "role, chunks, finish, end");
    assert_eq!(reply.chunks.len(), events.len(), "an event is a chunk");
    assert_eq!(events[0].1["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(deltas(&events), MADE_UP);
    assert_eq!(events[9].1["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[10].1, "[DONE]");
    assert!(
        events
            .iter()
            .all(|(name, data)| name.is_empty() && data.get("usage").is_none())
    );

    let body = STREAM.replace(
        r#""stream":true"#,
        r#""stream":true,"stream_options":{"include_usage":true}"#,
    );
    let events = post(&mock, "k", "/v1/chat/completions", &body)
        .await
        .events();
    assert_eq!(events.len(), 12);
    assert!(
        events[..10]
            .iter()
            .all(|(_, data)| data["usage"].is_null() && data.get("usage").is_some())
    );
    assert_eq!(
        (
            &events[10].1["choices"],
            &events[10].1["usage"]["completion_tokens"]
        ),
        (&json!([]), &json!(12))
    );
    assert_eq!(events[10].1["id"], events[0].1["id"]);
}

#[tokio::test]
async fn any_usage_can_be_reported_in_every_protocol() {
    let mock = Mock::start().await.unwrap();
    let wrong = r#"{"prompt_tokens":-1,"output_tokens":"x"}"#;
    mock.behave(
        "k",
        Behaviour {
            usage: Some(wrong.to_owned()),
            usage_times: 2,
            ..Behaviour::default()
        },
    );
    let wrong: Value = serde_json::from_str(wrong).unwrap();
    let anthropic =
        r#"{"model":"c","max_tokens":5,"messages":[{"role":"user","content":"hello"}]}"#;
    let gemini = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    for (path, body, field) in [
        ("/v1/chat/completions", CHAT, "usage"),
        ("/v1/responses", r#"{"model":"m","input":"a"}"#, "usage"),
        ("/v1/embeddings", r#"{"model":"m","input":"a"}"#, "usage"),
        ("/v1/images/generations", r#"{"prompt":"a"}"#, "usage"),
        ("/v1/messages", anthropic, "usage"),
        ("/v1beta/models/m:generateContent", gemini, "usageMetadata"),
    ] {
        let answer = post(&mock, "k", path, body).await.json();
        assert_eq!(answer[field], wrong, "{path}");
    }
    let asked = CHAT.replacen(
        '{',
        r#"{"stream":true,"stream_options":{"include_usage":true},"#,
        1,
    );
    let streamed = anthropic.replacen('{', r#"{"stream":true,"#, 1);
    for (path, body) in [("/v1/chat/completions", asked), ("/v1/messages", streamed)] {
        let events = post(&mock, "k", path, &body).await.events();
        let stated = events.iter().filter(|(_, data)| data["usage"] == wrong);
        assert_eq!(stated.count(), 2, "{path}");
    }
    let events = post(&mock, "k", "/v1/chat/completions", STREAM)
        .await
        .events();
    assert!(
        events.iter().all(|(_, data)| data["usage"].is_null()),
        "only if requested"
    );
}

#[tokio::test]
async fn token_limits_usage_and_chunks_follow_the_settings() {
    let mock = Mock::start().await.unwrap();
    let body = CHAT.replace(r#""messages""#, r#""max_tokens":3,"messages""#);
    let short = post(&mock, "k", "/v1/chat/completions", &body).await.json();
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert_eq!(short["usage"]["completion_tokens"], 3);
    let set = Behaviour {
        input_tokens: Some(1000),
        output_tokens: Some(77),
        chunks: 30,
        ..Behaviour::default()
    };
    mock.behave("set", set);
    let usage = post(&mock, "set", "/v1/chat/completions", CHAT)
        .await
        .json()["usage"]
        .clone();
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(1000), &json!(77))
    );
    assert_eq!(
        post(&mock, "set", "/v1/chat/completions", STREAM)
            .await
            .events()
            .len(),
        33
    );
}

#[tokio::test]
async fn completions_are_whole_or_streamed() {
    let mock = Mock::start().await.unwrap();
    let plain = post(
        &mock,
        "k",
        "/v1/completions",
        r#"{"model":"m","prompt":"hello"}"#,
    )
    .await
    .json();
    assert_eq!(
        (&plain["object"], &plain["choices"][0]["text"]),
        (&json!("text_completion"), &json!(MADE_UP))
    );
    let events = post(
        &mock,
        "k",
        "/v1/completions",
        r#"{"model":"m","prompt":["hello"],"stream":true}"#,
    )
    .await
    .events();
    assert_eq!((events.len(), &events[9].1), (10, &json!("[DONE]")));
    assert_eq!(events[8].1["choices"][0]["finish_reason"], "stop");
}

fn floats(base64: &str) -> Vec<f32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = base64.trim_end_matches('=').bytes().map(digit).collect();
    let bytes: Vec<u8> = digits
        .chunks(4)
        .flat_map(|four| {
            let bits = four
                .iter()
                .fold(0u32, |bits, digit| bits << 6 | u32::from(*digit))
                << (6 * (4 - four.len()));
            bits.to_be_bytes()[1..four.len()].to_vec()
        })
        .collect();
    bytes
        .chunks(4)
        .map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")))
        .collect()
}

#[tokio::test]
async fn every_input_gets_an_embedding_as_numbers_or_base64() {
    let mock = Mock::start().await.unwrap();
    let embed = async |fields: &str| {
        let body = format!(r#"{{"model":"text-embedding-3-small",{fields}}}"#);
        post(&mock, "k", "/v1/embeddings", &body).await.json()
    };
    let numbers = embed(r#""input":["a","b"],"dimensions":5"#).await;
    assert_eq!(numbers["data"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&numbers["data"][1]["index"], &numbers["data"][1]["object"]),
        (&json!(1), &json!("embedding"))
    );
    assert_ne!(
        numbers["data"][0]["embedding"],
        numbers["data"][1]["embedding"]
    );
    let coded = embed(r#""input":["a"],"dimensions":5,"encoding_format":"base64""#).await;
    let coded = floats(coded["data"][0]["embedding"].as_str().unwrap());
    assert_eq!(coded.len(), 5);
    for (coded, number) in coded
        .iter()
        .zip(numbers["data"][0]["embedding"].as_array().unwrap())
    {
        assert!((f64::from(*coded) - number.as_f64().unwrap()).abs() < 1e-6);
    }
    for (input, n) in [(r#""a""#, 1), ("[1,2,3]", 1), ("[[1,2],[3]]", 2), ("[]", 0)] {
        let body = embed(&format!(r#""input":{input}"#)).await;
        assert_eq!(body["data"].as_array().unwrap().len(), n, "{input}");
    }
    assert!(
        numbers["usage"].get("completion_tokens").is_none()
            && numbers["usage"]["prompt_tokens"].is_u64()
    );
}

#[tokio::test]
async fn responses_are_whole_streamed_or_retrieved_by_their_key() {
    let mock = Mock::start().await.unwrap();
    let plain = post(
        &mock,
        "k",
        "/v1/responses",
        r#"{"model":"m","input":"hello"}"#,
    )
    .await
    .json();
    assert_eq!(
        (&plain["object"], &plain["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(plain["output"][0]["content"][0]["text"], MADE_UP);
    assert_eq!(plain["usage"]["output_tokens"], 12);
    let path = format!("/v1/responses/{}", plain["id"].as_str().unwrap());
    assert_eq!(get(&mock, "k", &path).await.json()["id"], plain["id"]);
    assert_eq!(get(&mock, "other", &path).await.status, 404);
    let follow = format!(
        r#"{{"model":"m","input":"hello","previous_response_id":{}}}"#,
        plain["id"]
    );
    assert_eq!(post(&mock, "k", "/v1/responses", &follow).await.status, 200);
    assert_eq!(
        post(&mock, "other", "/v1/responses", &follow).await.status,
        400
    );

    let body = r#"{"model":"m","stream":true,"input":[{"role":"user","content":[{"type":"input_text","text":"hello"}]}]}"#;
    let events = post(&mock, "k", "/v1/responses", body).await.events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    assert_eq!(
        names
            .iter()
            .filter(|name| **name == "response.output_text.delta")
            .count(),
        8
    );
    for (n, (name, data)) in events.iter().enumerate() {
        assert_eq!(
            (&data["type"], &data["sequence_number"]),
            (&json!(name), &json!(n))
        );
    }
    let (last, data) = events.last().unwrap();
    assert_eq!(
        (last.as_str(), &data["response"]["usage"]["output_tokens"]),
        ("response.completed", &json!(12))
    );
    let text: String = events
        .iter()
        .filter_map(|(_, data)| data["delta"].as_str())
        .collect();
    assert_eq!(
        (
            text.as_str(),
            &data["response"]["output"][0]["content"][0]["text"]
        ),
        (MADE_UP, &json!(MADE_UP))
    );
}

#[tokio::test]
async fn media_endpoints_respond() {
    let mock = Mock::start().await.unwrap();
    let speech = post(
        &mock,
        "k",
        "/v1/audio/speech",
        r#"{"model":"tts-1","input":"x","voice":"a"}"#,
    )
    .await;
    assert_eq!(
        (speech.header("content-type"), speech.chunks.concat().len()),
        (Some("audio/mpeg"), 417)
    );
    let image = post(
        &mock,
        "k",
        "/v1/images/generations",
        r#"{"model":"m","prompt":"x","n":2}"#,
    )
    .await
    .json();
    assert_eq!(image["data"].as_array().unwrap().len(), 2);
    assert!(
        image["data"][0]["b64_json"]
            .as_str()
            .unwrap()
            .starts_with("iVBORw0KGgo")
    );
    let ark = post(
        &mock,
        "k",
        "/api/v3/images/generations",
        r#"{"model":"m","prompt":"x"}"#,
    )
    .await
    .json();
    assert_eq!(
        (
            &ark["usage"]["generated_images"],
            ark["data"][0]["url"].is_string()
        ),
        (&json!(1), true)
    );
    let verdict = post(&mock, "k", "/v1/moderations", r#"{"input":["a","b"]}"#)
        .await
        .json();
    assert_eq!(verdict["results"].as_array().unwrap().len(), 2);
    assert_eq!(
        verdict["results"][0]["categories"]["self-harm/intent"],
        false
    );
}

#[tokio::test]
async fn transcriptions_and_rankings_respond() {
    let mock = Mock::start().await.unwrap();
    let heard = post(
        &mock,
        "k",
        "/v1/audio/transcriptions",
        "--x\r\nnot looked at",
    )
    .await
    .json();
    assert!(
        heard["text"]
            .as_str()
            .unwrap()
            .starts_with("This answer is made up")
    );
    let ranked = post(
        &mock,
        "k",
        "/v1/rerank",
        r#"{"model":"m","query":"q","documents":["a","b","c"],"top_n":2}"#,
    )
    .await;
    assert_eq!(ranked.json()["results"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn headers_select_the_format_of_model_lists() {
    let mock = Mock::start().await.unwrap();
    let list = async |path: &str, header: &str| {
        call(&mock, "GET", path, &[header], "")
            .await
            .unwrap()
            .json()
    };
    let openai = list("/v1/models", "authorization: Bearer k").await;
    assert_eq!(
        (&openai["object"], &openai["data"][0]["object"]),
        (&json!("list"), &json!("model"))
    );
    let anthropic = list("/v1/models", "anthropic-version: 2023-06-01").await;
    assert_eq!(
        (&anthropic["has_more"], &anthropic["data"][0]["type"]),
        (&json!(false), &json!("model"))
    );
    for gemini in [
        list("/v1/models", "x-goog-api-key: k").await,
        list("/v1beta/models", "accept: */*").await,
        list("/v1/models?key=k", "accept: */*").await,
    ] {
        assert_eq!(gemini["models"][0]["name"], "models/gemini-2.5-flash");
    }
    assert!(
        list("/api/v3/models", "authorization: Bearer k").await["data"][0]["id"]
            .as_str()
            .unwrap()
            .starts_with("doubao-")
    );
    let one = list("/v1beta/models/gemini-2.5-pro", "x-goog-api-key: k").await;
    assert_eq!(one["name"], "models/gemini-2.5-pro");
    assert_eq!(get(&mock, "k", "/v1/models/none").await.status, 404);
    mock.behave(
        "own",
        Behaviour {
            models: vec!["a".to_owned()],
            ..Behaviour::default()
        },
    );
    assert_eq!(
        get(&mock, "own", "/v1/models").await.json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(get(&mock, "own", "/v1/models/a").await.json()["id"], "a");
}

#[tokio::test]
async fn anthropic_messages_are_whole_streamed_or_counted() {
    let mock = Mock::start().await.unwrap();
    let body =
        r#"{"model":"claude-x","max_tokens":50,"messages":[{"role":"user","content":"hello"}]}"#;
    let plain = post(&mock, "k", "/v1/messages", body).await.json();
    assert_eq!(
        (&plain["type"], &plain["stop_reason"]),
        (&json!("message"), &json!("end_turn"))
    );
    assert_eq!(
        (
            &plain["content"][0]["text"],
            &plain["usage"]["output_tokens"]
        ),
        (&json!(MADE_UP), &json!(12))
    );
    let body = body.replace(r#""max_tokens":50"#, r#""max_tokens":5,"stream":true"#);
    let events = post(&mock, "k", "/v1/messages", &body).await.events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(names[3..8], ["content_block_delta"; 5]);
    assert_eq!(
        names[8..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    assert_eq!(events[0].1["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[9].1["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events[9].1["usage"]["output_tokens"], 5);
    let count = post(
        &mock,
        "k",
        "/v1/messages/count_tokens",
        r#"{"model":"c","messages":[]}"#,
    )
    .await
    .json();
    assert_eq!(count, json!({"input_tokens": 7}));
}

#[tokio::test]
async fn gemini_responses_are_whole_events_or_one_array() {
    let mock = Mock::start().await.unwrap();
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}"#;
    for version in ["v1", "v1beta"] {
        let path = format!("/{version}/models/gemini-x:generateContent");
        let plain = post(&mock, "k", &path, body).await.json();
        assert_eq!(
            plain["candidates"][0]["content"]["parts"][0]["text"],
            MADE_UP
        );
        assert_eq!(
            (
                &plain["modelVersion"],
                &plain["candidates"][0]["finishReason"]
            ),
            (&json!("gemini-x"), &json!("STOP"))
        );
        assert_eq!(plain["usageMetadata"]["candidatesTokenCount"], 12);
    }
    let path = "/v1beta/models/gemini-x:streamGenerateContent";
    let sse = post(&mock, "k", &format!("{path}?alt=sse"), body).await;
    assert_eq!(sse.header("content-type"), Some("text/event-stream"));
    let array = post(&mock, "k", path, body).await;
    assert_eq!(
        array.header("content-type"),
        Some("application/json; charset=UTF-8")
    );
    let events: Vec<Value> = sse.events().into_iter().map(|(_, data)| data).collect();
    for chunks in [events, array.json().as_array().unwrap().clone()] {
        assert_eq!(chunks.len(), 8);
        let texts = chunks
            .iter()
            .filter_map(|chunk| chunk["candidates"][0]["content"]["parts"][0]["text"].as_str());
        assert_eq!(texts.collect::<String>(), MADE_UP);
        assert!(
            chunks[..7]
                .iter()
                .all(|chunk| chunk["candidates"][0].get("finishReason").is_none())
        );
        assert_eq!(chunks[7]["candidates"][0]["finishReason"], "STOP");
        assert_eq!(chunks[7]["usageMetadata"]["candidatesTokenCount"], 12);
    }
    assert_eq!(
        post(&mock, "k", "/v1beta/models/g:countTokens", body)
            .await
            .json()["totalTokens"],
        body.len() / 4 + 1
    );
    let one = r#"{"content":{"parts":[{"text":"a"}]},"outputDimensionality":3}"#;
    let embedded = post(&mock, "k", "/v1beta/models/g:embedContent", one)
        .await
        .json();
    assert_eq!(embedded["embedding"]["values"].as_array().unwrap().len(), 3);
    let batch = format!(r#"{{"requests":[{one},{one}]}}"#);
    let embedded = post(&mock, "k", "/v1beta/models/g:batchEmbedContents", &batch)
        .await
        .json();
    assert_eq!(embedded["embeddings"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn tavily_endpoints_respond() {
    let mock = Mock::start().await.unwrap();
    let body = r#"{"query":"hello","include_answer":true,"include_usage":true,"max_results":2}"#;
    let found = post(&mock, "k", "/search", body).await.json();
    assert_eq!(
        (&found["query"], &found["answer"]),
        (&json!("hello"), &json!(MADE_UP))
    );
    assert_eq!(
        (
            found["results"].as_array().unwrap().len(),
            &found["usage"]["credits"]
        ),
        (2, &json!(1))
    );
    let read = post(
        &mock,
        "k",
        "/extract",
        r#"{"urls":["https://a","https://b"]}"#,
    )
    .await
    .json();
    assert_eq!(read["results"][1]["url"], "https://b");
    let crawled = post(&mock, "k", "/crawl", r#"{"url":"https://a"}"#)
        .await
        .json();
    assert_eq!(
        (&crawled["base_url"], &crawled["results"][0]["url"]),
        (&json!("https://a"), &json!("https://a"))
    );
    let mapped = post(&mock, "k", "/map", r#"{"url":"https://a/"}"#)
        .await
        .json();
    assert_eq!(
        mapped["results"],
        json!(["https://a/", "https://a/made-up"])
    );
    let task = post(&mock, "k", "/research", r#"{"input":"x","model":"mini"}"#).await;
    assert_eq!(
        (task.status, &task.json()["status"]),
        (200, &json!("pending"))
    );
    let path = format!("/research/{}", task.json()["request_id"].as_str().unwrap());
    assert_eq!(get(&mock, "k", &path).await.json()["status"], "completed");
    assert_eq!(get(&mock, "other", &path).await.status, 404);
    let usage = get(&mock, "k", "/usage").await.json();
    assert_eq!(
        (&usage["key"]["usage"], &usage["key"]["limit"]),
        (&json!(6), &json!(null))
    );
    assert_eq!(usage["account"]["plan_limit"], 1000);
}

/// Path, body, status, and the JSON pointer and value of the error.
#[rustfmt::skip]
const BAD_REQUESTS: &[(&str, &str, u16, &str, &str)] = &[
    ("/v1/chat/completions", "{", 400, "/error/type", "invalid_request_error"),
    ("/v1/chat/completions", "{}", 400, "/error/type", "invalid_request_error"),
    ("/v1/chat/completions", r#"{"model":1}"#, 400, "/error/type", "invalid_request_error"),
    ("/v1/chat/completions", r#"{"model":"a","model":"b","messages":[]}"#, 400, "/error/type", "invalid_request_error"),
    ("/api/v3/chat/completions", "{", 400, "/error/code", "InvalidParameter"),
    ("/v1/embeddings", r#"{"model":"m"}"#, 400, "/error/type", "invalid_request_error"),
    ("/v1/messages", "{", 400, "/error/type", "invalid_request_error"),
    ("/v1/messages", r#"{"model":"m","messages":[]}"#, 400, "/error/message", "max_tokens: Field required"),
    ("/v1beta/models/g:generateContent", "{", 400, "/error/status", "INVALID_ARGUMENT"),
    ("/v1beta/models/g:generateContent", "{}", 400, "/error/status", "INVALID_ARGUMENT"),
    ("/search", "{}", 400, "/detail/error", "Query is missing."),
    ("/nowhere", "{}", 404, "/error/code", "not_found"),
    ("/v1beta/nowhere", "{}", 404, "/error/status", "NOT_FOUND"),
];

#[tokio::test]
async fn invalid_requests_are_refused_in_the_format_of_their_protocol() {
    let mock = Mock::start().await.unwrap();
    for &(path, body, status, pointer, expect) in BAD_REQUESTS {
        let reply = post(&mock, "k", path, body).await;
        let found = (reply.status, reply.json().pointer(pointer).cloned());
        assert_eq!(found, (status, Some(json!(expect))), "{path} {body}");
    }
    let anthropic = post(&mock, "k", "/v1/messages", "{").await;
    assert_eq!(
        anthropic.header("request-id"),
        anthropic.json()["request_id"].as_str()
    );
    assert_eq!(anthropic.json()["type"], "error");
}

#[tokio::test]
async fn responses_are_valid_json_for_any_prompt() {
    let mock = Mock::start().await.unwrap();
    let said = "quote \" slash \\ line\nbreak \u{1F600} \u{2028} tab\t{}";
    let body =
        json!({"model": said, "stream": true, "messages": [{"role": "user", "content": said}]})
            .to_string();
    let events = post(&mock, "k", "/v1/chat/completions", &body)
        .await
        .events();
    assert!(deltas(&events).ends_with(said));
    assert_eq!(events[0].1["model"], said);
}

#[tokio::test]
async fn objects_exist_only_for_the_keys_that_created_them() {
    let mock = Mock::start().await.unwrap();
    let file = post(&mock, "a@org", "/v1/files", "a form").await.json();
    let id = file["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("file-") && file["object"] == "file");
    let body = json!({"input_file_id": id}).to_string();
    let batch = post(&mock, "b@org", "/v1/batches", &body).await.json();
    let batch = batch["id"].as_str().unwrap().to_owned();
    assert_eq!(post(&mock, "c", "/v1/batches", &body).await.status, 404);
    let seen = get(&mock, "a@org", &format!("/v1/batches/{batch}"))
        .await
        .json();
    let output = seen["output_file_id"].as_str().unwrap().to_owned();
    for path in [
        format!("/v1/files/{id}"),
        format!("/files/{id}/content"),
        format!("/v1/files/{output}/content"),
        format!("/v1/batches/{batch}"),
    ] {
        assert_eq!(get(&mock, "b@org", &path).await.status, 200, "{path}");
        assert_eq!(get(&mock, "c", &path).await.status, 404, "{path}");
    }
    let task = post(&mock, "k", "/api/v3/contents/generations/tasks", "{}")
        .await
        .json();
    let task = format!(
        "/api/v3/contents/generations/tasks/{}",
        task["id"].as_str().unwrap()
    );
    assert_eq!(get(&mock, "k", &task).await.status, 200);
    let missing = get(&mock, "other", &task).await;
    assert_eq!(
        (missing.status, missing.json()["error"]["type"].as_str()),
        (404, Some("NotFound"))
    );
    let cached = post(&mock, "k", "/v1beta/cachedContents", "{}")
        .await
        .json();
    let name = format!("/v1beta/{}", cached["name"].as_str().unwrap());
    assert_eq!(get(&mock, "k", &name).await.status, 200);
    assert_eq!(get(&mock, "other", &name).await.status, 404);
    let upload = post(&mock, "k", "/upload/v1beta/files", "bytes")
        .await
        .json();
    assert!(
        upload["file"]["name"]
            .as_str()
            .unwrap()
            .starts_with("files/"),
        "{upload}"
    );
}
