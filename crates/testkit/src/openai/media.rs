//! OpenAI's endpoints that generate no text: speech, transcriptions, images, moderations.
//!
//! This module must never know of sockets, scripts or steps.

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;

use crate::answer::{Answer, ApiError, Protocol, array, base64, quoted};
use crate::call::Call;

/// A PNG of one transparent pixel.
const PIXEL: [u8; 67] = [
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52,
    0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4,
    0x89, 0x00, 0x00, 0x00, 0x0a, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0x00, 0x01, 0x00, 0x00,
    0x05, 0x00, 0x01, 0x0d, 0x0a, 0x2d, 0xb4, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae,
    0x42, 0x60, 0x82,
];
/// Length of one silent MPEG frame at 128 kbit/s and 44.1 kHz.
const MPEG_FRAME: usize = 417;
const MOST_IMAGES: usize = 10;
const MODERATION_CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

#[derive(Deserialize)]
struct SpeechBody {
    model: Option<String>,
    input: Option<String>,
}

#[derive(Deserialize)]
struct ImagesBody {
    model: Option<String>,
    prompt: Option<String>,
    n: Option<usize>,
    response_format: Option<String>,
}

#[derive(Deserialize)]
struct ModerationsBody {
    model: Option<String>,
    input: Option<serde_json::Value>,
}

pub(super) fn speech(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: SpeechBody = call.parse()?;
    super::required(body.model)?;
    body.input
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'input'."))?;
    let mut frame = vec![0; MPEG_FRAME];
    frame[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0x64]);
    Ok(Answer::whole(
        call.protocol,
        call.state,
        HeaderValue::from_static("audio/mpeg"),
        Bytes::from(frame),
    ))
}

pub(super) fn transcription(call: &Call<'_>) -> Answer {
    let text = quoted(call.reply("", None).text().trim());
    let usage = call.usage(r#"{"type":"duration","seconds":1}"#.to_owned());
    let body = format!(r#"{{"text":{text},"usage":{usage}}}"#);
    Answer::json(call.protocol, call.state, body)
}

pub(super) fn images(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: ImagesBody = call.parse()?;
    let n = body.n.unwrap_or(1).clamp(1, MOST_IMAGES);
    body.prompt
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'prompt'."))?;
    if call.protocol != Protocol::Ark {
        return Ok(image_answer(call, n));
    }
    let model = quoted(&super::required(body.model)?);
    let image = if body.response_format.as_deref() == Some("b64_json") {
        format!(r#""b64_json":"{}""#, base64(&PIXEL))
    } else {
        r#""url":"https://mock.invalid/image.png""#.to_owned()
    };
    let data = array((0..n).map(|_| format!(r#"{{{image},"size":"1x1"}}"#)));
    let created = call.state.unix();
    let usage = call.usage(format!(
        r#"{{"generated_images":{n},"output_tokens":{n},"total_tokens":{n}}}"#
    ));
    let text = format!(r#"{{"model":{model},"created":{created},"data":{data},"usage":{usage}}}"#);
    Ok(Answer::json(call.protocol, call.state, text))
}

pub(super) fn image_form(call: &Call<'_>) -> Answer {
    image_answer(call, 1)
}

fn image_answer(call: &Call<'_>, n: usize) -> Answer {
    let data = array((0..n).map(|_| format!(r#"{{"b64_json":"{}"}}"#, base64(&PIXEL))));
    let (created, input, output) = (call.state.unix(), call.input_tokens(), n as u64);
    let total = input + output;
    let usage = call.usage(format!(
        r#"{{"input_tokens":{input},"output_tokens":{output},"total_tokens":{total},"input_tokens_details":{{"text_tokens":{input},"image_tokens":0}}}}"#
    ));
    let text = format!(r#"{{"created":{created},"data":{data},"usage":{usage}}}"#);
    Answer::json(call.protocol, call.state, text)
}

pub(super) fn moderations(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: ModerationsBody = call.parse()?;
    let input = body
        .input
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'input'."))?;
    let model = quoted(body.model.as_deref().unwrap_or("omni-moderation-latest"));
    // A list of texts gets one result each, a list of parts one for all.
    let n = input
        .as_array()
        .filter(|list| list.iter().all(serde_json::Value::is_string))
        .map_or(1, Vec::len);
    let fields = |value: &str| -> String {
        let fields: Vec<String> = MODERATION_CATEGORIES
            .iter()
            .map(|name| format!(r#""{name}":{value}"#))
            .collect();
        fields.join(",")
    };
    let (flags, scores) = (fields("false"), fields("0.00001"));
    let result =
        format!(r#"{{"flagged":false,"categories":{{{flags}}},"category_scores":{{{scores}}}}}"#);
    let results = array((0..n).map(|_| result.clone()));
    let id = call.state.id("modr-");
    let text = format!(r#"{{"id":"{id}","model":{model},"results":{results}}}"#);
    Ok(Answer::json(call.protocol, call.state, text))
}
