//! Gemini's own endpoints: generateContent and its stream, token counts, embeddings, model lists, errors.
//!
//! This module must never know of sockets, scripts or steps.

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::{Answer, ApiError, Kind, Protocol, Reply, array, numbers, quoted, vector};
use crate::call::{Call, decoded};
use crate::recorded::fnv1a;
use crate::request_text::{Message, last_words};
use crate::state::State;

const MODELS: [&str; 3] = ["gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001"];
const DIMENSIONS: usize = 64;
const MOST_DIMENSIONS: usize = 3072;
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The endpoint of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Models,
    Model(String),
    Method { model: String, method: Method },
}

/// The method after the colon of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Generate,
    StreamGenerate,
    CountTokens,
    Embed,
    BatchEmbed,
}

impl Endpoint {
    /// The endpoint of a path. Model lists are Gemini's only if `lists` is true.
    pub(crate) fn of(method: &http::Method, path: &str, lists: bool) -> Option<Self> {
        let rest = path
            .strip_prefix("/v1beta/models")
            .or_else(|| path.strip_prefix("/v1/models"))?;
        let name = rest.strip_prefix('/').filter(|name| !name.is_empty());
        if *method == http::Method::POST {
            let (model, verb) = name?.rsplit_once(':')?;
            let method = match verb {
                "generateContent" => Method::Generate,
                "streamGenerateContent" => Method::StreamGenerate,
                "countTokens" => Method::CountTokens,
                "embedContent" => Method::Embed,
                "batchEmbedContents" => Method::BatchEmbed,
                _ => return None,
            };
            return Some(Endpoint::Method {
                model: decoded(model),
                method,
            });
        }
        if !lists || *method != http::Method::GET {
            return None;
        }
        if rest.is_empty() {
            Some(Endpoint::Models)
        } else {
            name.map(|name| Endpoint::Model(decoded(name)))
        }
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    let json = |text: String| Answer::whole(call.protocol, call.state, JSON, Bytes::from(text));
    match endpoint {
        Endpoint::Models => {
            let models = array(call.models(&MODELS).iter().map(|id| model_object(id)));
            Ok(json(format!(r#"{{"models":{models}}}"#)))
        }
        Endpoint::Model(id) if call.models(&MODELS).contains(id) => Ok(json(model_object(id))),
        Endpoint::Model(id) => Err(ApiError::not_found(format!(
            "models/{id} is not found for API version v1beta."
        ))),
        Endpoint::Method {
            model,
            method: Method::Generate,
        } => generate(call, model).map(json),
        Endpoint::Method {
            model,
            method: Method::StreamGenerate,
        } => stream(call, model),
        Endpoint::Method {
            method: Method::CountTokens,
            ..
        } => {
            call.parse::<GenerateBody<'_>>()?;
            let (n, details) = (call.input_tokens(), details(call.input_tokens()));
            Ok(json(format!(
                r#"{{"totalTokens":{n},"promptTokensDetails":{details}}}"#
            )))
        }
        Endpoint::Method {
            method: Method::Embed,
            ..
        } => {
            let body: EmbedBody<'_> = call.parse()?;
            Ok(json(format!(r#"{{"embedding":{}}}"#, embedding(&body)?)))
        }
        Endpoint::Method {
            method: Method::BatchEmbed,
            ..
        } => {
            let body: BatchBody<'_> = call.parse()?;
            let all: Result<Vec<String>, ApiError> = body.requests.iter().map(embedding).collect();
            Ok(json(format!(r#"{{"embeddings":{}}}"#, array(all?))))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GenerateBody<'a> {
    #[serde(default, borrow)]
    contents: Option<Vec<Message<'a>>>,
    generation_config: Option<GenerationConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig {
    max_output_tokens: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmbedBody<'a> {
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
    output_dimensionality: Option<usize>,
}

#[derive(Deserialize)]
struct BatchBody<'a> {
    #[serde(default, borrow)]
    requests: Vec<EmbedBody<'a>>,
}

fn embedding(body: &EmbedBody<'_>) -> Result<String, ApiError> {
    let content = body
        .content
        .ok_or_else(|| ApiError::invalid("content is not specified"))?;
    let dimensions = body
        .output_dimensionality
        .unwrap_or(DIMENSIONS)
        .clamp(1, MOST_DIMENSIONS);
    let values = numbers(&vector(fnv1a(content.get().as_bytes()), dimensions));
    Ok(format!(r#"{{"values":{values}}}"#))
}

fn read(call: &Call<'_>) -> Result<Reply, ApiError> {
    let body: GenerateBody<'_> = call.parse()?;
    let contents = body.contents.filter(|contents| !contents.is_empty());
    let contents = contents.ok_or_else(|| {
        ApiError::invalid("* GenerateContentRequest.contents: contents is not specified")
    })?;
    let max_tokens = body
        .generation_config
        .and_then(|config| config.max_output_tokens);
    Ok(call.reply(&last_words(&contents), max_tokens))
}

fn details(tokens: u64) -> String {
    format!(r#"[{{"modality":"TEXT","tokenCount":{tokens}}}]"#)
}

/// One response object: `text`, the finish reason if it is the last, and the output tokens so far.
fn chunk(shared: &Shared<'_>, text: &str, finish: Option<&str>, output: u64) -> String {
    let Shared {
        call,
        id,
        model,
        input,
    } = shared;
    let finish = finish
        .map(|reason| format!(r#""finishReason":"{reason}","#))
        .unwrap_or_default();
    let (total, details, text) = (input + output, details(*input), quoted(text));
    let usage = call.usage(format!(
        r#"{{"promptTokenCount":{input},"candidatesTokenCount":{output},"totalTokenCount":{total},"promptTokensDetails":{details}}}"#
    ));
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":{text}}}],"role":"model"}},{finish}"index":0}}],"usageMetadata":{usage},"modelVersion":{model},"responseId":"{id}"}}"#
    )
}

/// The parts that all chunks of one response share.
struct Shared<'a> {
    call: &'a Call<'a>,
    id: &'a str,
    model: &'a str,
    input: u64,
}

fn finish_reason(reply: &Reply) -> &'static str {
    if reply.cut_short {
        "MAX_TOKENS"
    } else {
        "STOP"
    }
}

fn generate(call: &Call<'_>, model: &str) -> Result<String, ApiError> {
    let reply = read(call)?;
    let (id, model) = (call.state.id(""), quoted(model));
    let shared = Shared {
        call,
        id: &id,
        model: &model,
        input: reply.input_tokens,
    };
    Ok(chunk(
        &shared,
        &reply.text(),
        Some(finish_reason(&reply)),
        reply.output_tokens,
    ))
}

/// Events with `alt=sse`, else one JSON array that is sent in parts.
fn stream(call: &Call<'_>, model: &str) -> Result<Answer, ApiError> {
    let reply = read(call)?;
    let (id, model) = (call.state.id(""), quoted(model));
    let shared = Shared {
        call,
        id: &id,
        model: &model,
        input: reply.input_tokens,
    };
    let n = reply.pieces.len();
    let chunks = reply.pieces.iter().enumerate().map(|(index, piece)| {
        let finish = (index + 1 == n).then(|| finish_reason(&reply));
        // Running totals: the last one is complete.
        chunk(
            &shared,
            piece,
            finish,
            reply.output_tokens * (index as u64 + 1) / n as u64,
        )
    });
    if call.param("alt").as_deref() == Some("sse") {
        let events = chunks
            .map(|chunk| Bytes::from(format!("data: {chunk}\r\n\r\n")))
            .collect();
        return Ok(Answer::stream(call.protocol, call.state, EVENTS, events));
    }
    let mut parts: Vec<Bytes> = Vec::with_capacity(n + 1);
    for chunk in chunks {
        let open = if parts.is_empty() { "[" } else { ",\r\n" };
        parts.push(Bytes::from(format!("{open}{chunk}\n")));
    }
    parts.push(Bytes::from_static(b"]\n"));
    Ok(Answer::stream(call.protocol, call.state, JSON, parts))
}

fn model_object(id: &str) -> String {
    let (name, display) = (quoted(&format!("models/{id}")), quoted(id));
    let methods = if id.contains("embedding") {
        r#"["embedContent","countTokens"]"#
    } else {
        r#"["generateContent","countTokens","createCachedContent","batchGenerateContent"]"#
    };
    format!(
        r#"{{"name":{name},"version":"001","displayName":{display},"description":"Made up by keypool's mock provider.","inputTokenLimit":1048576,"outputTokenLimit":65536,"supportedGenerationMethods":{methods},"temperature":1,"topP":0.95,"topK":64}}"#
    )
}

/// An error in Gemini's format. The time to wait is only in the body.
pub(crate) fn error(state: &State, error: &ApiError) -> Answer {
    let (code, status) = match (error.kind, error.status) {
        (Kind::UnknownKey | Kind::Invalid, _) => (400, "INVALID_ARGUMENT"),
        (Kind::Requests | Kind::Concurrency, code) | (_, code @ 402) => {
            (code, "RESOURCE_EXHAUSTED")
        }
        (Kind::Overloaded, code) => (code, "UNAVAILABLE"),
        (Kind::NotFound, code) => (code, "NOT_FOUND"),
        (_, code @ 403) => (code, "PERMISSION_DENIED"),
        (_, code @ 504) => (code, "DEADLINE_EXCEEDED"),
        (_, code @ 500..) => (code, "INTERNAL"),
        (_, code) => (code, "INVALID_ARGUMENT"),
    };
    let message = match error.kind {
        Kind::UnknownKey => quoted("API key not valid. Please pass a valid API key."),
        _ => quoted(&error.message),
    };
    let details = match error.kind {
        Kind::UnknownKey => {
            r#","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com","metadata":{"service":"generativelanguage.googleapis.com"}}]"#.to_owned()
        }
        Kind::Requests | Kind::Concurrency => exhausted(error.retry_after),
        Kind::Invalid => {
            r#","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"contents","description":"It is invalid."}]}]"#.to_owned()
        }
        _ => String::new(),
    };
    let body = format!(
        r#"{{"error":{{"code":{code},"message":{message},"status":"{status}"{details}}}}}"#
    );
    let mut answer = Answer::error(Protocol::Gemini, state, code, body);
    answer.headers.insert(http::header::CONTENT_TYPE, JSON);
    answer
}

fn exhausted(retry_after: Option<u64>) -> String {
    let retry = retry_after
        .map(|seconds| format!(r#",{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{seconds}s"}}"#))
        .unwrap_or_default();
    format!(
        r#","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaMetric":"generativelanguage.googleapis.com/generate_content_requests","quotaId":"GenerateRequestsPerMinutePerProjectPerModel","quotaDimensions":{{"location":"global","model":"mock"}},"quotaValue":"60"}}]}}{retry}]"#
    )
}
