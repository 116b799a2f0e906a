//! The first guess of a request's input tokens, compared with a real tokenizer and with figures that providers publish.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use keypool_providers::protocol::Protocol;
use keypool_providers::usage::{ImageRule, InputGuess, InputKind};
use serde_json::{Value, json};

/// Texts that were written for this test, with their number of tokens in `o200k_base` as PyPI's `bpe-openai` 0.1.4 counts
/// them. The guess was fitted to other texts.
const SAMPLES: &str = include_str!("samples/tokens.txt");
/// The head of a PNG of 640 × 481 pixels.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAoAAAAHhCAIAAABx75gWAAAHaElEQVR4nO3VoQHA";

/// Kind, number of tokens, text.
fn samples() -> impl Iterator<Item = (&'static str, f64, &'static str)> {
    SAMPLES.split("### ").skip(1).map(|sample| {
        let (head, text) = sample.split_once('\n').unwrap();
        let (kind, tokens) = head.split_once(' ').unwrap();
        (kind, tokens.parse().unwrap(), text.trim_end_matches('\n'))
    })
}

fn guess(protocol: Protocol, path: &str, body: &Value) -> InputGuess {
    let rule = match protocol {
        Protocol::Anthropic => ImageRule::Anthropic,
        Protocol::Gemini => ImageRule::Gemini,
        _ => ImageRule::OpenAi,
    };
    InputGuess::of(protocol, path, body.to_string().as_bytes(), rule)
}

fn chat(body: &Value) -> InputGuess {
    guess(Protocol::OpenAi, "/v1/chat/completions", body)
}

/// How far off a guess is: 0.1 is 10 %.
fn error(guess: InputGuess, tokens: f64) -> f64 {
    (guess.tokens / tokens - 1.0).abs()
}

#[test]
fn text_is_guessed_within_a_tenth_and_never_off_by_a_fifth() {
    for (kind, input_kind) in [
        ("english", InputKind::English),
        ("chinese", InputKind::Chinese),
        ("code", InputKind::Code),
    ] {
        let mut errors = Vec::new();
        for (_, tokens, text) in samples().filter(|sample| sample.0 == kind) {
            let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]});
            let guess = chat(&body);
            assert_eq!(guess.kind, input_kind, "{text}");
            // OpenAI's cookbook: 3 for a message, 1 for its role, 3 for the answer.
            errors.push(error(guess, tokens + 7.0));
            // Many clients escape everything that is not ASCII.
            let escaped: String = body
                .to_string()
                .chars()
                .map(|char| match char {
                    '\0'..='\x7f' => char.to_string(),
                    other => format!("\\u{:04x}", u32::from(other)),
                })
                .collect();
            let path = "/v1/chat/completions";
            let again = InputGuess::of(
                Protocol::OpenAi,
                path,
                escaped.as_bytes(),
                ImageRule::OpenAi,
            );
            assert!((again.tokens - guess.tokens).abs() < 0.01, "{text}");
            assert_eq!(again.kind, guess.kind, "{text}");
        }
        assert_eq!(errors.len(), 6);
        errors.sort_by(f64::total_cmp);
        let median = f64::midpoint(errors[2], errors[3]);
        assert!(median < 0.1 && errors[5] < 0.2, "{kind}: {errors:?}");
    }
}

#[test]
fn every_form_of_a_request_counts_the_same_text() {
    let (_, tokens, text) = samples().next().unwrap();
    for (protocol, path, body) in [
        (Protocol::OpenAi, "/v1/responses", json!({"input": text})),
        (
            Protocol::OpenAi,
            "/v1/responses",
            json!({"instructions": text, "input": []}),
        ),
        (
            Protocol::OpenAi,
            "/v1/responses",
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}]}),
        ),
        (
            Protocol::OpenAi,
            "/v1/completions",
            json!({"prompt": [text]}),
        ),
        (
            Protocol::OpenAi,
            "/v1/embeddings",
            json!({"input": [text], "dimensions": 64}),
        ),
        (
            Protocol::OpenAi,
            "/v1/rerank",
            json!({"query": "", "documents": [{"text": text}]}),
        ),
        (
            Protocol::OpenAi,
            "/v1/chat/completions",
            json!({"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}]}),
        ),
        (
            Protocol::Anthropic,
            "/v1/messages",
            json!({"system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}], "messages": []}),
        ),
        (
            Protocol::Anthropic,
            "/v1/messages",
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": text}]}]}),
        ),
        (
            Protocol::Gemini,
            "/v1beta/models/m:generateContent",
            json!({"systemInstruction": {"parts": [{"text": text}]}, "contents": []}),
        ),
        (
            Protocol::Gemini,
            "/v1beta/models/m:generateContent",
            json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}),
        ),
        (
            Protocol::Gemini,
            "/v1beta/models/m:batchEmbedContents",
            json!({"requests": [{"model": "models/m", "content": {"parts": [{"text": text}]}}]}),
        ),
    ] {
        let guess = guess(protocol, path, &body);
        assert!(
            error(guess, tokens) < 0.17,
            "{guess:?} for {tokens}: {body}"
        );
        assert_eq!(guess.kind, InputKind::English);
    }
    let aside = json!({"model": text, "metadata": {"a": [text]}, "user": text, "messages": []});
    assert!(chat(&aside).tokens < 5.0, "what a model does not read");
}

#[test]
fn a_body_that_refers_to_more_is_not_whole() {
    for (body, is_whole) in [
        (json!({"input": "a"}), true),
        (json!({"input": "a", "previous_response_id": null}), true),
        (json!({"input": [{"previous_response_id": "resp_1"}]}), true),
        (json!({"prompt": "a"}), true),
        (
            json!({"messages": [{"content": [{"type": "input_image", "image_url": "https://a.example/1.png"}]}]}),
            true,
        ),
        (
            json!({"input": "a", "previous_response_id": "resp_1"}),
            false,
        ),
        (
            json!({"input": "a", "conversation": {"id": "conv_1"}}),
            false,
        ),
        (json!({"prompt": {"id": "pmpt_1"}}), false),
        (
            json!({"contents": [], "cachedContent": "cachedContents/1"}),
            false,
        ),
        (
            json!({"contents": [{"parts": [{"fileData": {"fileUri": "https://a.example/1"}}]}]}),
            false,
        ),
        (
            json!({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}),
            false,
        ),
    ] {
        let guess = guess(Protocol::OpenAi, "/v1/responses", &body);
        assert_eq!(guess.is_whole, is_whole, "{body}");
    }
}

#[test]
fn lists_of_tokens_count_as_their_length() {
    let ids: Vec<u32> = (0..500).map(|id| id * 97).collect();
    for body in [
        json!({"input": ids}),
        json!({"input": [ids[..200], ids[200..]]}),
        json!({"prompt": ids}),
    ] {
        assert_eq!(
            guess(Protocol::OpenAi, "/v1/embeddings", &body).tokens,
            500.0
        );
    }
}

#[test]
fn images_count_by_size_and_detail_wherever_they_stand() {
    let picture = format!("{PNG}{}", "A/+9".repeat(50_000));
    let url = format!("data:image/png;base64,{picture}");
    let openai = |image: Value| json!({"messages": [{"role": "user", "content": [image]}]});
    let message = 7.0;
    // 640 x 481 has two tiles at OpenAI, 4 at Gemini.
    for (body, tokens) in [
        (
            openai(json!({"type": "image_url", "image_url": {"url": url}})),
            425.0,
        ),
        (
            openai(json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})),
            85.0,
        ),
        (
            openai(json!({"type": "image_url", "image_url": {"detail": "low", "url": url}})),
            85.0,
        ),
        (
            openai(json!({"image_url": {"url": url, "detail": "high"}, "type": "image_url"})),
            425.0,
        ),
        (
            openai(json!({"type": "input_image", "image_url": url, "detail": "low"})),
            85.0,
        ),
        (
            openai(json!({"type": "input_image", "image_url": "https://a.example/1.png"})),
            765.0,
        ),
        (
            openai(
                json!({"type": "input_image", "image_url": "https://a.example/1.png", "detail": "low"}),
            ),
            85.0,
        ),
        (
            openai(json!({"type": "input_image", "file_id": "file-1"})),
            765.0,
        ),
    ] {
        let guess = chat(&body);
        assert_eq!(guess.kind, InputKind::Images);
        assert_eq!(
            guess.tokens,
            tokens + message,
            "{}",
            &body.to_string()[..200.min(body.to_string().len())]
        );
    }
    let by_url = chat(&openai(
        json!({"type": "image_url", "image_url": {"url": "https://a.example/1.png"}}),
    ));
    assert!(error(by_url, 765.0 + message) < 0.02, "{by_url:?}");
    let anthropic = json!({"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
    ]}]});
    let found = guess(Protocol::Anthropic, "/v1/messages", &anthropic);
    assert_eq!(found.tokens, 411.0 + 1399.0 + message);
    let gemini = json!({"contents": [{"parts": [
        {"inlineData": {"mimeType": "image/png", "data": picture}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.example/files/1"}},
    ]}]});
    let found = guess(
        Protocol::Gemini,
        "/v1beta/models/m:generateContent",
        &gemini,
    );
    assert_eq!(found.tokens, 4.0 * 258.0 + 4.0 * 258.0);
    assert_eq!(found.kind, InputKind::Images);
}

#[test]
fn recordings_and_files_count_by_a_stated_rule() {
    // A second at 24 kHz: 48,000 bytes.
    let wav = format!(
        "UklGRlQAAABXQVZFZm10IBAAAAABAAEAwF0AAIC7AAACABAAZGF0YTAAAAAAAAAA{}",
        "A".repeat(63_936)
    );
    let body = json!({"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}]}]});
    assert!(error(chat(&body), 10.0 + 3.0) < 0.01);
    let body =
        json!({"contents": [{"parts": [{"inlineData": {"mimeType": "audio/wav", "data": wav}}]}]});
    let found = guess(Protocol::Gemini, "/v1/models/m:generateContent", &body);
    assert!(error(found, 32.0) < 0.01, "{found:?}");
    let pdf = format!("JVBERi0x{}", "A".repeat(199_992));
    let body = json!({"messages": [{"content": [{"type": "file", "file": {"file_data": format!("data:application/pdf;base64,{pdf}")}}]}]});
    assert_eq!(
        chat(&body).tokens,
        3.0 * 1500.0 + 3.0,
        "three pages of 50 KB"
    );
    let text = json!({"messages": [{"content": [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A document of a few plain words."}}]}]});
    assert!(chat(&text).tokens < 20.0, "text is no base64");
    let form = vec![0; 160_000];
    let guess = InputGuess::of(
        Protocol::OpenAi,
        "/v1/audio/transcriptions",
        &form,
        ImageRule::OpenAi,
    );
    assert_eq!(guess.tokens, 100.0, "ten seconds");
}
