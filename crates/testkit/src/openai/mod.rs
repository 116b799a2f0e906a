//! The endpoints of OpenAI and OpenAI-like providers: chat, completions, model lists, errors (and Ark's codes).
//!
//! This module must never know of sockets, scripts or steps.

mod embeddings;
mod media;
mod responses;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::{Answer, ApiError, EVENTS, Kind, Protocol, Reply, array, quoted};
use crate::call::{Call, decoded};
use crate::request_text::{Message, last_words, words_of};
use crate::state::State;

const MODELS: [&str; 5] = [
    "gpt-4.1",
    "gpt-4o-mini",
    "text-embedding-3-small",
    "mock-fast",
    "mock-large",
];
const ARK_MODELS: [&str; 3] = [
    "doubao-1-5-thinking-vision-pro-250428",
    "doubao-seed-1-6-250615",
    "doubao-embedding-text-240715",
];
/// 2025-01-01, as the creation time of all models.
const MODELS_CREATED: u64 = 1_735_689_600;

/// What an OpenAI-like path calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Response(String),
    DeleteResponse(String),
    Models,
    Model(String),
    Speech,
    Transcription,
    Images,
    /// Edits and variations: a multipart form.
    ImageForm,
    Moderations,
    Rerank,
}

impl Endpoint {
    /// The endpoint of a path without its version prefix.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        let one = |prefix: &str| {
            path.strip_prefix(prefix)
                .filter(|id| !id.is_empty() && !id.contains('/'))
                .map(decoded)
        };
        if method == Method::GET {
            return match path {
                "/models" => Some(Endpoint::Models),
                _ => one("/models/")
                    .map(Endpoint::Model)
                    .or_else(|| one("/responses/").map(Endpoint::Response)),
            };
        }
        if method == Method::DELETE {
            return one("/responses/").map(Endpoint::DeleteResponse);
        }
        if method != Method::POST {
            return None;
        }
        Some(match path {
            "/chat/completions" => Endpoint::Chat,
            "/completions" => Endpoint::Completions,
            "/embeddings" => Endpoint::Embeddings,
            "/responses" => Endpoint::Responses,
            "/audio/speech" => Endpoint::Speech,
            "/audio/transcriptions" | "/audio/translations" => Endpoint::Transcription,
            "/images/generations" => Endpoint::Images,
            "/images/edits" | "/images/variations" => Endpoint::ImageForm,
            "/moderations" => Endpoint::Moderations,
            "/rerank" => Endpoint::Rerank,
            _ => return None,
        })
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    match endpoint {
        Endpoint::Chat => chat(call),
        Endpoint::Completions => completions(call),
        Endpoint::Embeddings => embeddings::embeddings(call),
        Endpoint::Responses => responses::create(call),
        Endpoint::Response(id) => responses::get(call, id),
        Endpoint::DeleteResponse(id) => responses::delete(call, id),
        Endpoint::Models => Ok(models(call)),
        Endpoint::Model(id) => model(call, id),
        Endpoint::Speech => media::speech(call),
        Endpoint::Transcription => Ok(media::transcription(call)),
        Endpoint::Images => media::images(call),
        Endpoint::ImageForm => Ok(media::image_form(call)),
        Endpoint::Moderations => media::moderations(call),
        Endpoint::Rerank => embeddings::rerank(call),
    }
}

#[derive(Deserialize)]
struct ChatBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// The requested model, or OpenAI's error if there is none.
fn required(model: Option<String>) -> Result<String, ApiError> {
    model.ok_or_else(|| ApiError::invalid("you must provide a model parameter"))
}

/// The fixed parts of a chat-like response. `open` ends where the choice's text starts.
struct Frames {
    open: String,
    close: &'static str,
    finish: String,
    include_usage: bool,
    usage: String,
    /// How often the usage is stated, if it was requested.
    usage_times: usize,
}

impl Frames {
    fn event(&self, text: &str) -> Bytes {
        let usage = if self.include_usage {
            r#","usage":null"#
        } else {
            ""
        };
        Bytes::from([&self.open, text, self.close, usage, "}\n\n"].concat())
    }

    /// `first`, one event per piece, the finish reason, the usage if requested, and the end marker.
    fn stream(
        &self,
        first: Option<Bytes>,
        reply: &Reply,
        delta: impl Fn(&str) -> String,
    ) -> Vec<Bytes> {
        let mut events = Vec::with_capacity(reply.pieces.len() + 4);
        events.extend(first);
        events.extend(
            reply
                .pieces
                .iter()
                .map(|piece| self.event(&delta(&quoted(piece)))),
        );
        events.push(self.event(&self.finish));
        if self.include_usage {
            let head = self.open.split(r#""choices":"#).next().unwrap_or_default();
            let chunk = format!("{head}\"choices\":[],\"usage\":{}}}\n\n", self.usage);
            events.extend(std::iter::repeat_n(Bytes::from(chunk), self.usage_times));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }
}

fn chat(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: ChatBody<'_> = call.parse()?;
    let model = quoted(&required(body.model)?);
    let messages = body
        .messages
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'messages'."))?;
    let mut reply = call.reply(
        &last_words(&messages),
        body.max_completion_tokens.or(body.max_tokens),
    );
    reply.cached_tokens = call
        .state
        .cached_tokens(call.key, call.body, call.behaviour)
        .min(reply.input_tokens);
    let finish = finish_reason(&reply);
    let (id, created) = (call.state.id("chatcmpl-"), call.state.unix());
    if body.stream != Some(true) {
        let text = format!(
            r#"{{"id":"{id}","object":"chat.completion","created":{created},"model":{model},"choices":[{{"index":0,"message":{{"role":"assistant","content":{},"refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{},"service_tier":"default","system_fingerprint":"fp_mock"}}"#,
            quoted(&reply.text()),
            usage(call, &reply),
        );
        return Ok(Answer::json(call.protocol, call.state, text));
    }
    let frames = Frames {
        usage: usage(call, &reply),
        usage_times: call.behaviour.usage_times,
        open: format!(
            r#"data: {{"id":"{id}","object":"chat.completion.chunk","created":{created},"model":{model},"service_tier":"default","system_fingerprint":"fp_mock","choices":[{{"index":0,"delta":"#
        ),
        close: "}]",
        finish: format!(r#"{{}},"logprobs":null,"finish_reason":"{finish}""#),
        include_usage: wants_usage(body.stream_options.as_ref()),
    };
    let first = frames.event(
        r#"{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null"#,
    );
    let events = frames.stream(Some(first), &reply, |piece| {
        format!(r#"{{"content":{piece}}},"logprobs":null,"finish_reason":null"#)
    });
    Ok(Answer::stream(call.protocol, call.state, EVENTS, events))
}

fn completions(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: CompletionBody<'_> = call.parse()?;
    let model = quoted(&required(body.model)?);
    let prompt = body
        .prompt
        .map(|raw| words_of(raw.get()))
        .unwrap_or_default();
    let reply = call.reply(&prompt, body.max_tokens);
    let finish = finish_reason(&reply);
    let (id, created) = (call.state.id("cmpl-"), call.state.unix());
    let open = format!(
        r#"{{"id":"{id}","object":"text_completion","created":{created},"model":{model},"choices":[{{"text":"#
    );
    if body.stream != Some(true) {
        let text = quoted(&reply.text());
        let usage = usage(call, &reply);
        let text = format!(
            r#"{open}{text},"index":0,"logprobs":null,"finish_reason":"{finish}"}}],"usage":{usage}}}"#
        );
        return Ok(Answer::json(call.protocol, call.state, text));
    }
    let frames = Frames {
        usage: usage(call, &reply),
        usage_times: call.behaviour.usage_times,
        open: format!("data: {open}"),
        close: "}]",
        finish: format!(r#""","index":0,"logprobs":null,"finish_reason":"{finish}""#),
        include_usage: wants_usage(body.stream_options.as_ref()),
    };
    let delta = |piece: &str| format!(r#"{piece},"index":0,"logprobs":null,"finish_reason":null"#);
    Ok(Answer::stream(
        call.protocol,
        call.state,
        EVENTS,
        frames.stream(None, &reply, delta),
    ))
}

fn wants_usage(options: Option<&StreamOptions>) -> bool {
    options
        .and_then(|options| options.include_usage)
        .unwrap_or(false)
}

fn finish_reason(reply: &Reply) -> &'static str {
    if reply.cut_short { "length" } else { "stop" }
}

fn usage(call: &Call<'_>, reply: &Reply) -> String {
    call.usage(format!(
        r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
        reply.input_tokens,
        reply.output_tokens,
        reply.total_tokens(),
        reply.cached_tokens,
    ))
}

fn listed(call: &Call<'_>) -> Vec<String> {
    call.models(if call.protocol == Protocol::Ark {
        &ARK_MODELS
    } else {
        &MODELS
    })
}

fn model_object(id: &str) -> String {
    format!(
        r#"{{"id":{},"object":"model","created":{MODELS_CREATED},"owned_by":"mock"}}"#,
        quoted(id)
    )
}

fn models(call: &Call<'_>) -> Answer {
    let data = array(listed(call).iter().map(|id| model_object(id)));
    Answer::json(
        call.protocol,
        call.state,
        format!(r#"{{"object":"list","data":{data}}}"#),
    )
}

fn model(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    if !listed(call).iter().any(|model| model == id) {
        return Err(ApiError::not_found(format!(
            "The model '{id}' does not exist or you do not have access to it."
        )));
    }
    Ok(Answer::json(call.protocol, call.state, model_object(id)))
}

/// An error in OpenAI's format.
pub(crate) fn error(state: &State, error: &ApiError) -> Answer {
    let (kind, code) = match error.kind {
        Kind::Invalid => ("invalid_request_error", None),
        Kind::UnknownKey => ("invalid_request_error", Some("invalid_api_key")),
        Kind::Requests | Kind::Concurrency => ("requests", Some("rate_limit_exceeded")),
        Kind::Overloaded => ("service_unavailable_error", Some("server_is_overloaded")),
        Kind::NotFound => ("invalid_request_error", Some("not_found")),
        Kind::TooLarge => ("invalid_request_error", Some("request_too_large")),
        Kind::Forbidden => ("permission_error", Some("permission_denied")),
        Kind::Other if error.status >= 500 => ("server_error", None),
        Kind::Other if error.status == 403 => ("permission_error", None),
        Kind::Other => ("invalid_request_error", None),
    };
    let param = match error.kind {
        Kind::Invalid => "\"messages\"",
        _ => "null",
    };
    let code = code.map_or("null".to_owned(), quoted);
    let message = quoted(&error.message);
    let body = format!(
        r#"{{"error":{{"message":{message},"type":"{kind}","param":{param},"code":{code}}}}}"#
    );
    Answer::error(Protocol::OpenAi, state, error.status, body).retry_after(error.retry_after)
}

/// An error in Ark's format: OpenAI's fields with Ark's codes.
pub(crate) fn ark_error(state: &State, error: &ApiError) -> Answer {
    let (kind, code) = match error.kind {
        Kind::Invalid | Kind::TooLarge => ("BadRequest", "InvalidParameter"),
        Kind::UnknownKey => ("Unauthorized", "AuthenticationError"),
        Kind::Requests => ("TooManyRequests", "RateLimitExceeded.EndpointRPMExceeded"),
        Kind::Concurrency => ("TooManyRequests", "AccountRateLimitExceeded"),
        Kind::NotFound => ("NotFound", "InvalidEndpointOrModel.NotFound"),
        Kind::Overloaded => ("InternalServerError", "InternalServiceError"),
        Kind::Forbidden => ("Forbidden", "AccessDenied"),
        Kind::Other if error.status >= 500 => ("InternalServerError", "InternalServiceError"),
        Kind::Other if error.status == 404 => ("NotFound", "NotFound"),
        Kind::Other => ("BadRequest", "InvalidParameter"),
    };
    let message = quoted(&error.message);
    let body = format!(
        r#"{{"error":{{"code":"{code}","message":{message},"param":"","type":"{kind}"}}}}"#
    );
    Answer::error(Protocol::Ark, state, error.status, body).retry_after(error.retry_after)
}
