//! Anthropic's endpoints: messages, token counts, model lists, errors.
//!
//! This module must never know of sockets, scripts or steps.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use crate::answer::{Answer, ApiError, EVENTS, Kind, Protocol, Reply, array, quoted};
use crate::call::{Call, decoded};
use crate::request_text::{Message, last_words};
use crate::state::State;

const MODELS: [&str; 3] = [
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5-20251001",
];

/// The endpoint of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Messages,
    CountTokens,
    Models,
    Model(String),
}

impl Endpoint {
    /// The endpoint of a path. Model lists are Anthropic's only if the request has its version header.
    pub(crate) fn of(method: &Method, path: &str, versioned: bool) -> Option<Self> {
        let path = path
            .strip_prefix("/anthropic")
            .unwrap_or(path)
            .strip_prefix("/v1/")?;
        if *method == Method::POST {
            return match path {
                "messages" => Some(Endpoint::Messages),
                "messages/count_tokens" => Some(Endpoint::CountTokens),
                _ => None,
            };
        }
        if !versioned || *method != Method::GET {
            return None;
        }
        match path.strip_prefix("models")? {
            "" => Some(Endpoint::Models),
            id => id
                .strip_prefix('/')
                .filter(|id| !id.is_empty())
                .map(|id| Endpoint::Model(decoded(id))),
        }
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    match endpoint {
        Endpoint::Messages => messages(call),
        Endpoint::CountTokens => {
            read(call)?;
            let text = format!(r#"{{"input_tokens":{}}}"#, call.input_tokens());
            Ok(Answer::json(call.protocol, call.state, text))
        }
        Endpoint::Models => Ok(models(call)),
        Endpoint::Model(id) => {
            let known = call.models(&MODELS).iter().any(|model| model == id);
            let found = known.then(|| Answer::json(call.protocol, call.state, model(id)));
            found.ok_or_else(|| ApiError::not_found(format!("model: {id}")))
        }
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<String>,
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    max_tokens: Option<u64>,
    stream: Option<bool>,
}

/// The fields of every call.
struct Request {
    model: String,
    said: String,
    max_tokens: Option<u64>,
    stream: bool,
}

fn read(call: &Call<'_>) -> Result<Request, ApiError> {
    let body: Body<'_> = call.parse()?;
    let model = body
        .model
        .ok_or_else(|| ApiError::invalid("model: Field required"))?;
    let messages = body
        .messages
        .ok_or_else(|| ApiError::invalid("messages: Field required"))?;
    Ok(Request {
        model: quoted(&model),
        said: last_words(&messages),
        max_tokens: body.max_tokens,
        stream: body.stream == Some(true),
    })
}

fn messages(call: &Call<'_>) -> Result<Answer, ApiError> {
    let asked = read(call)?;
    if asked.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens: Field required"));
    }
    let reply = call.reply(&asked.said, asked.max_tokens);
    let id = call.state.id("msg_");
    if asked.stream {
        return Ok(Answer::stream(
            call.protocol,
            call.state,
            EVENTS,
            events(call, &id, &asked.model, &reply),
        ));
    }
    let content = format!(r#"{{"type":"text","text":{}}}"#, quoted(&reply.text()));
    let stop = quoted(stop_reason(&reply));
    let text = message(
        &id,
        &asked.model,
        &content,
        &stop,
        &usage(call, reply.input_tokens, reply.output_tokens),
    );
    Ok(Answer::json(call.protocol, call.state, text))
}

fn message(id: &str, model: &str, content: &str, stop: &str, usage: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"message","role":"assistant","model":{model},"content":[{content}],"stop_reason":{stop},"stop_sequence":null,"usage":{usage}}}"#
    )
}

fn usage(call: &Call<'_>, input: u64, output: u64) -> String {
    call.usage(format!(
        r#"{{"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard"}}"#
    ))
}

fn stop_reason(reply: &Reply) -> &'static str {
    if reply.cut_short {
        "max_tokens"
    } else {
        "end_turn"
    }
}

fn event(kind: &str, fields: &str) -> Bytes {
    Bytes::from(format!(
        "event: {kind}\ndata: {{\"type\":\"{kind}\"{fields}}}\n\n"
    ))
}

fn events(call: &Call<'_>, id: &str, model: &str, reply: &Reply) -> Vec<Bytes> {
    let mut events = Vec::with_capacity(reply.pieces.len() + 6);
    let begun = message(id, model, "", "null", &usage(call, reply.input_tokens, 1));
    events.push(event("message_start", &format!(r#","message":{begun}"#)));
    events.push(event(
        "content_block_start",
        r#","index":0,"content_block":{"type":"text","text":""}"#,
    ));
    events.push(event("ping", ""));
    for piece in &reply.pieces {
        let delta = format!(
            r#","index":0,"delta":{{"type":"text_delta","text":{}}}"#,
            quoted(piece)
        );
        events.push(event("content_block_delta", &delta));
    }
    events.push(event("content_block_stop", r#","index":0"#));
    let (stop, output) = (stop_reason(reply), reply.output_tokens);
    let usage = call.usage(format!(r#"{{"output_tokens":{output}}}"#));
    let last =
        format!(r#","delta":{{"stop_reason":"{stop}","stop_sequence":null}},"usage":{usage}"#);
    let last = event("message_delta", &last);
    events.extend(std::iter::repeat_n(last, call.behaviour.usage_times));
    events.push(event("message_stop", ""));
    events
}

fn model(id: &str) -> String {
    let id = quoted(id);
    format!(
        r#"{{"type":"model","id":{id},"display_name":{id},"created_at":"2025-01-01T00:00:00Z"}}"#
    )
}

fn models(call: &Call<'_>) -> Answer {
    let ids = call.models(&MODELS);
    let end = |id: Option<&String>| id.map_or("null".to_owned(), |id| quoted(id));
    let (first, last) = (end(ids.first()), end(ids.last()));
    let data = array(ids.iter().map(|id| model(id)));
    let text = format!(r#"{{"data":{data},"has_more":false,"first_id":{first},"last_id":{last}}}"#);
    Answer::json(call.protocol, call.state, text)
}

/// An error in Anthropic's format.
pub(crate) fn error(state: &State, error: &ApiError) -> Answer {
    let kind = match error.kind {
        Kind::Invalid => "invalid_request_error",
        Kind::UnknownKey => "authentication_error",
        Kind::Requests | Kind::Concurrency => "rate_limit_error",
        Kind::Overloaded => "overloaded_error",
        Kind::NotFound => "not_found_error",
        Kind::TooLarge => "request_too_large",
        Kind::Forbidden => "permission_error",
        Kind::Other => match error.status {
            402 => "billing_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        },
    };
    let id = state.id("req_");
    let message = match error.kind {
        // As Anthropic does, it names the field.
        Kind::Invalid if !error.message.contains(": ") => {
            quoted(&format!("messages.0: {}", error.message))
        }
        _ => quoted(&error.message),
    };
    let body = format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}},"request_id":"{id}"}}"#
    );
    let answer = Answer::error(Protocol::Anthropic, state, error.status, body);
    answer
        .header("request-id", &id)
        .retry_after(error.retry_after)
}
