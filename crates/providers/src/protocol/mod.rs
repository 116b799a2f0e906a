//! Client protocols: which endpoint a request calls, and what our own responses look like in that protocol.
//!
//! Must never know a provider's hosts, the pool or what a key is worth.

mod anthropic;
mod collections;
mod credentials;
mod gemini;
mod models;
mod openai;
mod path;
mod rewrite;
mod tavily;
pub mod upload;

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use self::credentials::{presented, without_key};
pub use self::gemini::upload_id;
pub use self::path::is_safe_path;
pub use self::rewrite::lookup_rewritten;
pub use crate::errors::{error_in_body, error_in_event};
pub use crate::read::sse::event_data;

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OpenAI's, also for all OpenAI-like providers.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Gemini's generateContent family.
    Gemini,
    /// Tavily's search API.
    Tavily,
}

/// Where an endpoint has its model name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelIn {
    /// Top-level `model` of the JSON body; required.
    Body,
    /// Top-level `model` of the JSON body; may be missing (OpenAI moderations).
    OptionalBody,
    /// Top-level `model` of the JSON body; may be missing only beside a stored `prompt`, which has one (OpenAI Responses).
    BodyOrPrompt,
    /// Form field `model` of a multipart body; required.
    Form,
    /// Form field `model` of a multipart body; may be missing (OpenAI image variations).
    OptionalForm,
    /// A byte range of the path, percent-encoded as sent.
    Path(Range<usize>),
    /// The call names no model.
    Nowhere,
}

/// Whether a call may be repeated that was sent and got no status back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Repeating costs money at worst.
    Safe,
    /// Creates a billed task or object: never repeated once sent.
    Never,
    /// `Never` unless the body's top-level `store` is `false` (OpenAI Responses).
    NeverIfStored,
}

/// A known endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The protocol it belongs to.
    pub protocol: Protocol,
    /// Where its model name is.
    pub model: ModelIn,
    /// The body must be JSON.
    pub json: bool,
    /// Whether a call may be repeated.
    pub repeat: Repeat,
    /// A POST that generates: an error inside a 200 is classified by its content.
    pub generates: bool,
    /// The path makes it a stream (Gemini `:streamGenerateContent`); otherwise the body's `stream` decides.
    pub stream_by_path: bool,
    /// A model list or one model of it: answered by the gateway itself.
    pub models: Option<ModelsCall>,
    /// The path names an object of an earlier call, which decides the account.
    pub by_object: bool,
    /// It is about objects that the provider keeps. An object in the body decides the account too; without any, the
    /// first pool serves.
    pub objects: bool,
    /// The body may require an existing object. Other bodies only mention objects.
    pub requires_objects: bool,
    /// It may run models that the call does not name.
    pub hides_model: bool,
    /// One of the provider's own paths that needs no pool's name, for callers that may use such paths.
    pub native: bool,
}

/// `GET /v1/models` and `GET /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelsCall {
    /// The whole list.
    List,
    /// One model: a byte range of the path, percent-encoded as sent.
    One(Range<usize>),
}

/// What a method and a path call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A known endpoint.
    Endpoint(Endpoint),
    /// A known path with another method; the methods it takes, for `Allow`.
    MethodNotAllowed(Protocol, &'static str),
    /// Not an endpoint; the protocol of the error response.
    Unknown(Protocol),
}

/// A model as listed to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// Its id without Gemini's `models/` prefix.
    pub id: String,
    /// Who offers it: the provider's name.
    pub owned_by: String,
    /// Unix seconds; 0 if unknown.
    pub created: i64,
    /// A name for people, if the provider gives one.
    pub display_name: Option<String>,
}

/// An error of the gateway's own, before it has a protocol's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnError<'a> {
    /// HTTP status.
    pub status: u16,
    /// Stable code: `no_key_available`.
    pub code: &'a str,
    /// A sentence that says what to do.
    pub message: &'a str,
    /// What there is too little of, such as `input_tokens`, if a limit was exceeded.
    pub dimension: Option<&'a str>,
    /// When to try again, in whole seconds.
    pub retry_after: Option<u64>,
}

/// What `method` and `path` call. `path` is as sent: percent-encoded, without the query.
pub fn lookup(method: &Method, path: &str, headers: &HeaderMap, query: Option<&str>) -> Lookup {
    openai::lookup(method, path, headers)
        .or_else(|| anthropic::lookup(method, path, headers))
        .or_else(|| gemini::lookup(method, path, headers, query))
        .or_else(|| models::lookup(method, path, headers, query))
        .or_else(|| tavily::lookup(method, path))
        .or_else(|| openai::lookup_object(method, path, headers))
        .unwrap_or_else(|| Lookup::Unknown(guess(path, headers, query)))
}

/// The protocol that a caller's headers and query indicate, for paths that several protocols share.
pub fn protocol_of_headers(headers: &HeaderMap, query: Option<&str>) -> Protocol {
    if headers.contains_key("x-goog-api-key") || query.is_some_and(credentials::has_key) {
        Protocol::Gemini
    } else if headers.contains_key("anthropic-version") {
        Protocol::Anthropic
    } else {
        Protocol::OpenAi
    }
}

/// The protocol of one of a provider's own paths, where the path, the headers or the query show it.
pub fn protocol_of_native_path(path: &str, headers: &HeaderMap, query: Option<&str>) -> Protocol {
    guess(path.strip_prefix("/upload").unwrap_or(path), headers, query)
}

/// An error of the gateway's own as a JSON body, in a form whose message the protocol's SDKs show.
pub fn error_body(protocol: Protocol, error: &OwnError<'_>) -> Bytes {
    let body = match protocol {
        Protocol::OpenAi => openai::error(error),
        Protocol::Anthropic => anthropic::error(error),
        Protocol::Gemini => gemini::error(error),
        Protocol::Tavily => tavily::error(error),
    };
    Bytes::from(body.to_string())
}

/// The event that ends a broken stream and makes the protocol's SDKs raise; empty if the protocol has none.
/// It must begin a line: if the stream broke inside an event, end that event first.
pub fn stream_error(protocol: Protocol, error: &OwnError<'_>) -> Bytes {
    let name = match protocol {
        // OpenAI's SDKs raise on a nested error object, for Responses too; a flat `error` event is data to them.
        // Google's SDKs break on any `event` line.
        Protocol::OpenAi | Protocol::Gemini => "",
        // Anthropic's SDKs drop events without a name.
        Protocol::Anthropic => "event: error\n",
        Protocol::Tavily => return Bytes::new(),
    };
    let body = error_body(protocol, error);
    Bytes::from([name.as_bytes(), b"data: ", &body, b"\n\n"].concat())
}

/// The models as one whole page of a list.
pub fn model_list(protocol: Protocol, models: &[ListedModel]) -> Bytes {
    let body = match protocol {
        Protocol::OpenAi | Protocol::Tavily => openai::model_list(models),
        Protocol::Anthropic => anthropic::model_list(models),
        Protocol::Gemini => gemini::model_list(models),
    };
    Bytes::from(body.to_string())
}

/// One model, as the response to a request for it.
pub fn model_object(protocol: Protocol, model: &ListedModel) -> Bytes {
    let body = match protocol {
        Protocol::OpenAi | Protocol::Tavily => openai::model_object(model),
        Protocol::Anthropic => anthropic::model_object(model),
        Protocol::Gemini => gemini::model_object(model),
    };
    Bytes::from(body.to_string())
}

fn guess(path: &str, headers: &HeaderMap, query: Option<&str>) -> Protocol {
    let is_beta = path
        .strip_prefix("/v1beta")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_beta {
        Protocol::Gemini
    } else {
        protocol_of_headers(headers, query)
    }
}

impl Protocol {
    /// Whether clients may choose the names of objects. Such a name can be used again once its object is gone, and the
    /// gateway does not learn of deletions.
    pub fn clients_name_objects(self) -> bool {
        self == Self::Gemini
    }

    /// The name of the provider that defined it.
    pub fn provider(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Tavily => "tavily",
        }
    }
}

impl Endpoint {
    /// A POST of JSON that generates and may be repeated.
    fn post(protocol: Protocol, model: ModelIn) -> Self {
        Self {
            protocol,
            model,
            json: true,
            repeat: Repeat::Safe,
            generates: true,
            stream_by_path: false,
            models: None,
            by_object: false,
            objects: false,
            requires_objects: protocol == Protocol::Gemini,
            hides_model: false,
            native: false,
        }
    }

    /// A GET without a body or a model.
    fn get(protocol: Protocol) -> Self {
        Self {
            json: false,
            generates: false,
            ..Self::post(protocol, ModelIn::Nowhere)
        }
    }

    /// The endpoint if the request has its method, otherwise the method that it takes.
    fn only_for(self, takes: &'static str, method: &Method) -> Lookup {
        if method.as_str() == takes {
            Lookup::Endpoint(self)
        } else {
            Lookup::MethodNotAllowed(self.protocol, takes)
        }
    }
}

#[cfg(test)]
mod tests;
