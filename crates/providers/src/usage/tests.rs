//! The usage of every provider's responses, however they are cut.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::list_scan::ListScanner;
use crate::protocol::Protocol;
use crate::sse::EventScanner;

const QUOTED: &str = r#"it says \"usage\": {\"prompt_tokens\": 99, \"completion_tokens\": 98}, \"usageMetadata\":{\"promptTokenCount\":97}"#;

fn of(input: impl Into<Option<u64>>, output: impl Into<Option<u64>>) -> Usage {
    Usage {
        input_tokens: input.into(),
        output_tokens: output.into(),
    }
}

fn pieces(text: &str, size: usize) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().chunks(size)
}

fn in_stream<'p>(form: UsageForm, pieces: impl Iterator<Item = &'p [u8]>) -> Usage {
    let (mut scanner, mut reader) = (EventScanner::default(), UsageReader::new(form));
    for piece in pieces {
        if reader.may_skip(piece) {
            scanner.feed(piece);
        } else {
            scanner.feed_lines(piece, |text, is_last| reader.read_line(text, is_last));
        }
    }
    reader.usage(true)
}

fn in_list<'p>(form: UsageForm, pieces: impl Iterator<Item = &'p [u8]>) -> Usage {
    let (mut scanner, mut reader) = (ListScanner::default(), UsageReader::new(form));
    for piece in pieces {
        scanner.feed(piece, |text, is_last| reader.read_element(text, is_last));
    }
    reader.usage(true)
}

fn in_body<'p>(form: UsageForm, pieces: impl Iterator<Item = &'p [u8]>) -> Usage {
    reader_of(form, pieces).usage(true)
}

fn reader_of<'p>(form: UsageForm, pieces: impl Iterator<Item = &'p [u8]>) -> UsageReader {
    let mut reader = UsageReader::new(form);
    pieces.for_each(|piece| reader.read_body(&Bytes::copy_from_slice(piece)));
    reader
}

/// Reads `text` whole, in pieces of every size, and cut in two at every byte.
fn however_cut(text: &str, read: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> Usage) -> Usage {
    let whole = read(&mut pieces(text, text.len().max(1)));
    for size in 1..=text.len() {
        assert_eq!(read(&mut pieces(text, size)), whole, "{size}: {text}");
        let (first, second) = text.as_bytes().split_at(size);
        assert_eq!(
            read(&mut [first, second].into_iter()),
            whole,
            "cut at {size}: {text}"
        );
    }
    whole
}

fn stream(form: UsageForm, text: &str) -> Usage {
    however_cut(text, |pieces| in_stream(form, pieces))
}

fn body(form: UsageForm, text: &str) -> Usage {
    however_cut(text, |pieces| in_body(form, pieces))
}

/// A stream of chat: a chunk of text that quotes a usage, then these chunks.
fn chat(chunks: &[&str]) -> String {
    let text = format!(
        r#"{{"id":"c","choices":[{{"index":0,"delta":{{"content":"{QUOTED}"}},"finish_reason":null}}]}}"#
    );
    let events = [&[&*text], chunks, &["[DONE]"]].concat();
    events
        .iter()
        .map(|data| format!("data: {data}\n\n"))
        .collect()
}

/// What it is, its last chunks, and the input and output tokens they tell.
type ChatCase = (
    &'static str,
    &'static [&'static str],
    (Option<u64>, Option<u64>),
);

const CHAT: &[ChatCase] = &[
    (
        "OpenAI, Azure, Ark, DeepSeek: an extra chunk",
        &[
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":7},"completion_tokens_details":{"reasoning_tokens":4}}}"#,
        ],
        (Some(19), Some(10)),
    ),
    (
        "DeepSeek",
        &[
            r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":17,"completion_tokens":9,"total_tokens":26,"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":17}}"#,
        ],
        (Some(17), Some(9)),
    ),
    (
        "OpenRouter: in the last chunk, with the cost",
        &[
            r#"{"id":"gen-1","provider":"X","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"cost":0.00014,"cost_details":{"upstream_inference_cost":null}}}"#,
        ],
        (Some(5), Some(3)),
    ),
    (
        "SiliconFlow, vLLM: running figures in every chunk",
        &[
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":12,"completion_tokens":1,"total_tokens":13}}"#,
            r#"{"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}}"#,
        ],
        (Some(12), Some(2)),
    ),
    (
        "Moonshot: in the last chunk's choice",
        &[
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32}}]}"#,
        ],
        (Some(19), Some(13)),
    ),
    (
        "Groq: in a field of its own",
        &[
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":{"queue_time":0.03,"prompt_tokens":18,"prompt_time":0.001,"completion_tokens":556,"completion_time":0.46,"total_tokens":574,"total_time":0.46}}}"#,
        ],
        (Some(18), Some(556)),
    ),
    (
        "Mistral: unasked in the last chunk",
        &[
            r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"total_tokens":19,"completion_tokens":12,"prompt_audio_seconds":{}}}"#,
        ],
        (Some(7), Some(12)),
    ),
    (
        "Gemini's and xAI's endpoint: reasoning is only in the total",
        &[
            r#"{"choices":[],"usage":{"completion_tokens":198,"prompt_tokens":20,"total_tokens":623}}"#,
        ],
        (Some(20), Some(603)),
    ),
    (
        "new-api: both names, one of them 0",
        &[
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"input_tokens":0,"output_tokens":0,"input_tokens_details":null}}"#,
        ],
        (Some(10), Some(5)),
    ),
    (
        "one that says nothing",
        &[r#"{"choices":[]}"#],
        (None, None),
    ),
];

#[test]
fn every_provider_of_openais_protocol_tells_its_usage_in_a_stream() {
    for (provider, chunks, (input, output)) in CHAT {
        let found = stream(UsageForm::OpenAi, &chat(chunks));
        assert_eq!(found, of(*input, *output), "{provider}");
    }
}

#[test]
fn typed_streams_tell_their_usage_in_the_last_event() {
    let responses = format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"r\",\"usage\":null,\"tools\":[{{\"parameters\":{{\"properties\":{{\"usage\":{{\"prompt_tokens\":1}}}}}}}}]}}}}\n\n\
         event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"{QUOTED}\"}}\n\n\
         event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"content\":[{{\"text\":\"{QUOTED}\"}}]}}],\"usage\":{{\"input_tokens\":36,\"input_tokens_details\":{{\"cached_tokens\":0}},\"output_tokens\":87,\"output_tokens_details\":{{\"reasoning_tokens\":64}},\"total_tokens\":123}},\"metadata\":{{\"usage\":\"x\"}}}}}}\n\n"
    );
    let image = "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"AAAA\",\"usage\":{\"total_tokens\":100,\"input_tokens\":50,\"output_tokens\":50,\"input_tokens_details\":{\"text_tokens\":10,\"image_tokens\":40}}}\n\n";
    let transcript = "data: {\"type\":\"transcript.text.done\",\"text\":\"hm\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"output_tokens\":45,\"total_tokens\":59}}\r\n\r\n";
    for (text, expect) in [
        (&*responses, of(36, 87)),
        (image, of(50, 50)),
        (transcript, of(14, 45)),
    ] {
        assert_eq!(stream(UsageForm::OpenAi, text), expect, "{text}");
    }
}

#[test]
fn anthropics_input_has_the_cached_tokens_and_its_output_comes_last() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":1000,\"cache_creation\":{\"ephemeral_5m_input_tokens\":100},\"output_tokens\":1}}}\n\n";
    let tool = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"input\":{\"usage\":{\"output_tokens\":7}}}}\n\n";
    let delta = |usage: &str| {
        format!(
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{usage}}}\n\n"
        )
    };
    for (text, expect) in [
        // The output that is stated at the start is that of its first token.
        (format!("{start}{tool}"), of(1125, None)),
        (
            format!("{start}{tool}{}", delta(r#"{"output_tokens":15}"#)),
            of(1125, 15),
        ),
        (
            [
                start.to_owned(),
                delta(r#"{"output_tokens":15}"#),
                delta(r#"{"input_tokens":30,"cache_read_input_tokens":1001,"output_tokens":40}"#),
            ]
            .concat(),
            of(1131, 40),
        ),
        (
            format!(
                "{}{}",
                start.replace("1000", "\"x\""),
                delta(r#"{"output_tokens":5}"#)
            ),
            of(None, 5),
        ),
    ] {
        assert_eq!(stream(UsageForm::Anthropic, &text), expect, "{text}");
    }
    let message = r#"{"type":"message","content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}],"usage":{"input_tokens":3,"cache_read_input_tokens":null,"output_tokens":4},"x":{"usage":{"output_tokens":9}}}"#;
    assert_eq!(body(UsageForm::Anthropic, message), of(3, 4));
}

#[test]
fn geminis_output_has_the_thoughts_and_its_input_the_tool_results() {
    let call = r#"{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"usageMetadata":{"promptTokenCount":1}}}}]}}]}"#;
    let elements = [
        call,
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":20,"totalTokenCount":425,"thoughtsTokenCount":405}}"#,
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":20,"toolUsePromptTokenCount":5,"candidatesTokenCount":198,"totalTokenCount":628,"thoughtsTokenCount":405,"promptTokensDetails":[{"modality":"TEXT","tokenCount":20}]}}"#,
    ];
    let events: String = elements
        .iter()
        .map(|data| format!("data: {data}\r\n\r\n"))
        .collect();
    assert_eq!(stream(UsageForm::Gemini, &events), of(25, 603));
    let list = format!("[{}]", elements.join("\n,\r\n"));
    let found = however_cut(&list, |pieces| in_list(UsageForm::Gemini, pieces));
    assert_eq!(found, of(25, 603));
    let first = format!("[{}", elements[..2].join(","));
    let found = however_cut(&first, |pieces| in_list(UsageForm::Gemini, pieces));
    assert_eq!(found, of(20, 405), "what came before the cut");
    for (text, expect) in [
        (elements[2], of(25, 603)),
        // Figures of 0 are left out.
        (
            r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7}}"#,
            of(7, 0),
        ),
        (
            r#"{"id":"i","outputs":[],"usage":{"total_input_tokens":7,"total_output_tokens":20,"total_thought_tokens":22,"total_tokens":49}}"#,
            of(7, 42),
        ),
        (call, of(None, None)),
    ] {
        assert_eq!(body(UsageForm::Gemini, text), expect, "{text}");
    }
}

#[test]
fn bodies_of_every_endpoint_tell_their_usage() {
    use UsageForm::{InputOnly, OpenAi};
    let chat = format!(
        r#"{{"choices":[{{"message":{{"content":"{QUOTED}"}},"logprobs":{{"usage":{{"prompt_tokens":3}}}}}}],"usage":{{"prompt_tokens":19,"completion_tokens":10}}}}"#
    );
    for (form, text, expect) in [
        (OpenAi, &*chat, of(19, 10)),
        (
            OpenAi,
            " \n\n\n{ \"usage\" : { \"prompt_tokens\" : 1 , \"completion_tokens\" : 2 } , \"choices\" : [ ] } ",
            of(1, 2),
        ),
        (
            OpenAi,
            r#"{"output":[],"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7},"user":null}"#,
            of(3, 4),
        ),
        (
            OpenAi,
            r#"{"data":[{"b64_json":"AA=="}],"usage":{"input_tokens":3,"output_tokens":4}}"#,
            of(3, 4),
        ),
        (
            OpenAi,
            r#"{"data":[{"url":"u"}],"usage":{"generated_images":1,"output_tokens":4096,"total_tokens":4096}}"#,
            of(0, 4096),
        ),
        (
            OpenAi,
            r#"{"text":"a","usage":{"type":"duration","seconds":1}}"#,
            of(None, None),
        ),
        (
            InputOnly,
            r#"{"data":[{"embedding":[0.5,-1e-3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            of(8, 0),
        ),
        (
            InputOnly,
            r#"{"data":{"embedding":[0.5]},"usage":{"prompt_tokens":8,"total_tokens":8,"prompt_tokens_details":{"image_tokens":4,"text_tokens":4}}}"#,
            of(8, 0),
        ),
        (
            InputOnly,
            r#"{"results":[],"usage":{"total_tokens":9}}"#,
            of(9, 0),
        ),
        (
            InputOnly,
            r#"{"results":[{"document":{"usage":{"total_tokens":1}}}],"meta":{"tokens":{"input_tokens":11,"output_tokens":0}}}"#,
            of(11, 0),
        ),
        (
            InputOnly,
            r#"{"results":[],"tokens":{"input_tokens":12,"output_tokens":0}}"#,
            of(12, 0),
        ),
        (
            InputOnly,
            r#"{"embedding":{"values":[0.5]},"usageMetadata":{"promptTokenCount":13}}"#,
            of(13, 0),
        ),
    ] {
        assert_eq!(body(form, text), expect, "{text}");
    }
}

#[test]
fn a_wrong_figure_is_unknown_and_the_other_is_not() {
    for (figure, expect) in [
        ("-1", None),
        ("1.5", None),
        ("2147483648", None),
        ("99999999999999999999999", None),
        ("\"12\"", None),
        ("true", None),
        ("[12]", None),
        ("{}", None),
        ("1e3", None),
        ("null", None),
        ("2147483647", Some(2_147_483_647)),
        ("0", Some(0)),
        ("7,\"prompt_tokens\":8", Some(8)),
        ("7,\"prompt_tokens\":-8", None),
    ] {
        let text = format!(
            r#"{{"choices":[],"usage":{{"prompt_tokens":{figure},"completion_tokens":5}}}}"#
        );
        let expect = of(expect, 5);
        assert_eq!(body(UsageForm::OpenAi, &text), expect, "{figure}");
        let events = format!("data: {text}\n\n");
        assert_eq!(stream(UsageForm::OpenAi, &events), expect, "{figure}");
    }
    for usage in ["null", "[]", "7", "\"x\"", "{}", "{\"prompt_tokens\":null}"] {
        let good = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        let text = format!("data: {good}\n\ndata: {{\"usage\":{usage}}}\n\n");
        assert_eq!(stream(UsageForm::OpenAi, &text), of(1, 2), "{usage}");
    }
    let worse = r#"{"usage":{"completion_tokens":-3}}"#;
    let text = format!(
        "data: {{\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":2}}}}\n\ndata: {worse}\n\n"
    );
    assert_eq!(stream(UsageForm::OpenAi, &text), of(1, None));
    let sum = r#"{"usage":{"input_tokens":2000000000,"cache_read_input_tokens":2000000000,"output_tokens":1}}"#;
    assert_eq!(body(UsageForm::Anthropic, sum), of(None, 1));
}

#[test]
fn what_is_no_json_tells_nothing_and_stops_nothing() {
    for text in [
        "",
        "usage",
        "<html>\"usage\":{\"prompt_tokens\":1}",
        "\"usage\":{\"prompt_tokens\":1}",
        "{\"usage\"{\"prompt_tokens\":1}}",
        "{\"usage\":{\"prompt_tokens\":1",
        "}{\"usage\":{\"prompt_tokens\":1}}",
        "{{\"usage\":{\"prompt_tokens\":1}}}",
        "[[{\"usage\":{\"prompt_tokens\":1}}]]",
    ] {
        assert_eq!(body(UsageForm::OpenAi, text), of(None, None), "{text}");
    }
}

#[test]
fn a_body_that_was_cut_off_tells_only_what_is_in_its_place() {
    let inner = r#"{"output":[{"usage":{"prompt_tokens":7}}"#;
    let before = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"output":[{"#;
    for (text, expect) in [(inner, of(None, None)), (before, of(1, 2))] {
        for size in 1..=text.len() {
            let mut reader = reader_of(UsageForm::OpenAi, pieces(text, size));
            assert_eq!(reader.usage(false), expect, "{size}: {text}");
        }
    }
}

#[test]
fn names_are_read_with_their_escapes() {
    for (text, expect) in [
        (
            r#"{"usage":{"prompt\u005ftokens":7,"completion_tokens":2}}"#,
            of(7, 2),
        ),
        (
            r#"{"usage":{"prompt_tokens":7,"\ud800":1,"\"prompt_tokens":8}}"#,
            of(7, None),
        ),
        (
            r#"{"usage":{"prompt_tokens":7},"\"usage":{"prompt_tokens":8}}"#,
            of(7, None),
        ),
        (r#"{"\"usage":{"prompt_tokens":8}}"#, of(None, None)),
    ] {
        assert_eq!(body(UsageForm::OpenAi, text), expect, "{text}");
        let events = format!("data: {text}\n\n");
        assert_eq!(stream(UsageForm::OpenAi, &events), expect, "{text}");
    }
}

#[test]
fn a_body_of_many_mebibytes_is_passed_over() {
    let numbers = "0.0123456,-0.0234567,".repeat(400_000);
    let picture = "iVBORw0KGgoAAAANSUhEUgAA/+8f".repeat(300_000);
    let usage = r#""usage":{"prompt_tokens":8,"total_tokens":8}"#;
    let long = format!(r#"{{"usage":{{"x":"{picture}","prompt_tokens":1}}}}"#);
    for (text, expect) in [
        (
            format!(r#"{{"data":[{{"embedding":[{numbers}0]}}],{usage}}}"#),
            of(8, 0),
        ),
        (
            format!(r#"{{{usage},"data":[{{"b64_json":"{picture}"}}]}}"#),
            of(8, 0),
        ),
        (long, of(None, None)),
    ] {
        let mut reader = UsageReader::new(UsageForm::InputOnly);
        for piece in pieces(&text, 16 * 1024) {
            reader.read_body(&Bytes::copy_from_slice(piece));
        }
        assert_eq!(reader.usage(true), expect);
    }
}

#[test]
fn the_form_follows_protocol_and_path() {
    use Protocol::{Anthropic, Gemini, OpenAi, Tavily};
    for (protocol, path, form) in [
        (OpenAi, "/v1/chat/completions", Some(UsageForm::OpenAi)),
        (OpenAi, "/v1/completions", Some(UsageForm::OpenAi)),
        (OpenAi, "/v1/responses", Some(UsageForm::OpenAi)),
        (OpenAi, "/v1/responses/compact", Some(UsageForm::OpenAi)),
        // It is not this call that used them.
        (OpenAi, "/v1/responses/resp_1", None),
        (OpenAi, "/v1/images/generations", Some(UsageForm::OpenAi)),
        (OpenAi, "/v1/audio/transcriptions", Some(UsageForm::OpenAi)),
        (OpenAi, "/v1/embeddings", Some(UsageForm::InputOnly)),
        (
            OpenAi,
            "/v1beta/openai/embeddings",
            Some(UsageForm::InputOnly),
        ),
        (OpenAi, "/v1/rerank", Some(UsageForm::InputOnly)),
        (OpenAi, "/v1/files", None),
        (Anthropic, "/v1/messages", Some(UsageForm::Anthropic)),
        (Anthropic, "/v1/messages/count_tokens", None),
        (
            Gemini,
            "/v1beta/models/m:generateContent",
            Some(UsageForm::Gemini),
        ),
        (
            Gemini,
            "/v1beta/models/m:batchEmbedContents",
            Some(UsageForm::InputOnly),
        ),
        (
            Gemini,
            "/v1beta/models/m:embedContent",
            Some(UsageForm::InputOnly),
        ),
        (Gemini, "/v1beta/interactions", Some(UsageForm::Gemini)),
        (Tavily, "/search", None),
    ] {
        assert_eq!(UsageForm::of(protocol, path), form, "{path}");
    }
}

/// A JSON value that a model may have written, with words that mean something elsewhere.
fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "usage",
        "\"usage\":{\"prompt_tokens\":1}",
        "{",
        "]",
        "\\",
        "\\\"",
        "prompt_tokens",
        "choices",
        "é",
    ]);
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop_oneof![
            Just("usage".to_owned()),
            Just("prompt_tokens".to_owned()),
            Just("usageMetadata".to_owned()),
            any::<String>(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

const FORMS: [UsageForm; 4] = [
    UsageForm::OpenAi,
    UsageForm::InputOnly,
    UsageForm::Anthropic,
    UsageForm::Gemini,
];

proptest! {
    #[test]
    fn what_a_model_writes_is_never_read_as_usage(
        written in any_json(),
        text in any::<String>(),
        size in 1..200_usize,
    ) {
        let delta = json!({"content": [text.clone(), written.clone()], "input": written.clone()});
        let responses = [
            (UsageForm::OpenAi, json!({"choices": [{"message": delta.clone(), "delta": delta.clone()}], "output": delta.clone()})),
            (UsageForm::Anthropic, json!({"content": delta.clone(), "message": {"content": delta.clone()}, "content_block": delta.clone()})),
            (UsageForm::Gemini, json!({"candidates": [{"content": delta.clone()}], "promptFeedback": delta})),
        ];
        for (form, mut response) in responses {
            prop_assert_eq!(in_body(form, pieces(&response.to_string(), size)), of(None, None));
            let line = format!("data: {response}\n\n");
            prop_assert_eq!(in_stream(form, pieces(&line, size)), of(None, None));
            let field = if form == UsageForm::Gemini { "usageMetadata" } else { "usage" };
            response[field] = json!({"prompt_tokens": 3, "input_tokens": 3, "promptTokenCount": 3});
            let line = format!("data: {response}\n\n");
            prop_assert_eq!(in_stream(form, pieces(&line, size)), of(3, None));
            prop_assert_eq!(in_body(form, pieces(&response.to_string(), size)), of(3, None));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        size in 1..50_usize,
    ) {
        for form in FORMS {
            in_stream(form, bytes.chunks(size));
            in_list(form, bytes.chunks(size));
            in_body(form, bytes.chunks(size));
        }
        is_usage_chunk(&bytes);
        for protocol in [Protocol::OpenAi, Protocol::Gemini] {
            let guess = InputGuess::of(protocol, "/v1/chat/completions", &bytes, ImageRule::Gemini);
            prop_assert!(guess.tokens >= 1.0);
        }
    }
}
