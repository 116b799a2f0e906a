//! Finds the protocol and endpoint of a method and path.
//!
//! This module must never read a body.

use http::request::Parts;

use crate::answer::{Answer, ApiError, Protocol};
use crate::call::{Call, query_param};
use crate::{anthropic, balances, gemini, objects, openai, tavily, upload};

/// Prefixes of OpenAI-like endpoints. The longest match is removed.
const OPENAI_PREFIXES: [&str; 6] = [
    "/v1beta/openai",
    "/openai/v1",
    "/api/v3",
    "/api/v1",
    "/v1",
    "",
];

/// A known endpoint of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    OpenAi(openai::Endpoint),
    /// The same endpoints, with Ark's errors and images.
    Ark(openai::Endpoint),
    Anthropic(anthropic::Endpoint),
    Gemini(gemini::Endpoint),
    Tavily(tavily::Endpoint),
    Balances(balances::Endpoint),
    Objects(Protocol, objects::Endpoint),
    Upload(upload::Endpoint),
    Unknown(Protocol),
}

impl Route {
    /// The route of a request.
    pub(crate) fn of(head: &Parts) -> Route {
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let get = head.method == http::Method::GET;
        let google =
            head.headers.contains_key("x-goog-api-key") || query_param(query, "key").is_some();
        if let Some(endpoint) = upload::Endpoint::of(head) {
            return Route::Upload(endpoint);
        }
        let openai_in_gemini = path.starts_with("/v1beta/openai");
        let wants_gemini = !openai_in_gemini && (path.starts_with("/v1beta/") || (google && get));
        if let Some(endpoint) = gemini::Endpoint::of(&head.method, path, wants_gemini) {
            return Route::Gemini(endpoint);
        }
        if let Some(found) = object_route(head, google) {
            return found;
        }
        if path.starts_with("/v1beta/") && !openai_in_gemini {
            return Route::Unknown(Protocol::Gemini);
        }
        let versioned = head.headers.contains_key("anthropic-version");
        if let Some(endpoint) = anthropic::Endpoint::of(&head.method, path, versioned) {
            return Route::Anthropic(endpoint);
        }
        if let Some(endpoint) = tavily::Endpoint::of(&head.method, path) {
            return Route::Tavily(endpoint);
        }
        if let Some(endpoint) = balances::Endpoint::of(&head.method, path) {
            return Route::Balances(endpoint);
        }
        let prefix = OPENAI_PREFIXES
            .into_iter()
            .find(|prefix| path.starts_with(prefix))
            .unwrap_or_default();
        match openai::Endpoint::of(&head.method, &path[prefix.len()..]) {
            Some(endpoint) if prefix == "/api/v3" => Route::Ark(endpoint),
            Some(endpoint) => Route::OpenAi(endpoint),
            None => Route::Unknown(Protocol::OpenAi),
        }
    }

    /// The protocol of its responses.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Route::OpenAi(_) | Route::Balances(_) => Protocol::OpenAi,
            Route::Ark(_) => Protocol::Ark,
            Route::Anthropic(_) => Protocol::Anthropic,
            Route::Gemini(_) | Route::Upload(_) => Protocol::Gemini,
            Route::Tavily(_) => Protocol::Tavily,
            Route::Objects(protocol, _) | Route::Unknown(protocol) => *protocol,
        }
    }

    /// The normal response to a call, or the provider's error for an invalid one.
    pub(crate) fn answer(&self, call: &Call<'_>) -> Answer {
        let answer = match self {
            Route::OpenAi(endpoint) | Route::Ark(endpoint) => openai::answer(endpoint, call),
            Route::Anthropic(endpoint) => anthropic::answer(endpoint, call),
            Route::Gemini(endpoint) => gemini::answer(endpoint, call),
            Route::Tavily(endpoint) => tavily::answer(endpoint, call),
            Route::Balances(endpoint) => Ok(balances::answer(*endpoint, call)),
            Route::Objects(_, endpoint) => objects::answer(endpoint, call),
            Route::Upload(endpoint) => upload::answer(endpoint, call),
            Route::Unknown(_) => Err(ApiError::not_found(
                "The mock provider knows no such endpoint.",
            )),
        };
        answer.unwrap_or_else(|error| Self::error(call, &error))
    }

    /// `error` in the format of the call's protocol.
    pub(crate) fn error(call: &Call<'_>, error: &ApiError) -> Answer {
        match call.protocol {
            Protocol::OpenAi => openai::error(call.state, error),
            Protocol::Ark => openai::ark_error(call.state, error),
            Protocol::Anthropic => anthropic::error(call.state, error),
            Protocol::Gemini => gemini::error(call.state, error),
            Protocol::Tavily => tavily::error(call.state, error),
        }
    }

    /// An error as an event in this endpoint's streams.
    pub(crate) fn error_event(&self, body: &str) -> String {
        if body.starts_with("data:") || body.starts_with("event:") {
            return body.to_owned();
        }
        let data: String = body.lines().map(|line| format!("data: {line}\n")).collect();
        match self {
            Route::OpenAi(openai::Endpoint::Responses)
            | Route::Ark(openai::Endpoint::Responses)
            | Route::Anthropic(_) => {
                format!("event: error\n{data}\n")
            }
            _ => format!("{data}\n"),
        }
    }
}

/// The route to an object that a key created, in any protocol.
fn object_route(head: &Parts, google: bool) -> Option<Route> {
    let path = head.uri.path();
    let bare = path.strip_prefix("/upload").unwrap_or(path);
    let (protocol, rest) = if let Some(rest) = bare.strip_prefix("/v1beta") {
        (Protocol::Gemini, rest)
    } else if google {
        (Protocol::Gemini, bare.strip_prefix("/v1")?)
    } else if head.headers.contains_key("anthropic-version") {
        (Protocol::Anthropic, bare.strip_prefix("/v1")?)
    } else if let Some(rest) = path.strip_prefix("/api/v3") {
        (Protocol::Ark, rest)
    } else {
        (Protocol::OpenAi, path.strip_prefix("/v1").unwrap_or(path))
    };
    let endpoint = objects::Endpoint::of(protocol, &head.method, rest)?;
    Some(Route::Objects(protocol, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The route of `method uri` with a header of that name, as `Debug` output.
    fn route(request: &str, header: &str) -> String {
        let (method, uri) = request.split_once(' ').unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(header, "x");
        format!("{:?}", Route::of(&request.body(()).unwrap().into_parts().0))
    }

    #[test]
    fn paths_lead_to_their_protocol() {
        for (request, expect) in [
            ("POST /v1/chat/completions", "OpenAi(Chat)"),
            ("POST /chat/completions", "OpenAi(Chat)"),
            ("POST /v1beta/openai/chat/completions", "OpenAi(Chat)"),
            ("GET /v1beta/openai/models", "OpenAi(Models)"),
            ("POST /openai/v1/embeddings", "OpenAi(Embeddings)"),
            ("POST /api/v3/chat/completions", "Ark(Chat)"),
            ("POST /api/v3/images/generations", "Ark(Images)"),
            ("GET /v1/models", "OpenAi(Models)"),
            ("GET /v1/models/a%2Fb", r#"OpenAi(Model("a/b"))"#),
            ("GET /v1/models?key=k", "Gemini(Models)"),
            ("GET /v1beta/models", "Gemini(Models)"),
            ("POST /v1/messages", "Anthropic(Messages)"),
            ("POST /anthropic/v1/messages", "Anthropic(Messages)"),
            (
                "POST /v1/models/g:generateContent",
                r#"Gemini(Method { model: "g", method: Generate })"#,
            ),
            (
                "POST /v1beta/models/a%3Ab:countTokens",
                r#"Gemini(Method { model: "a:b", method: CountTokens })"#,
            ),
            ("POST /v1beta/models/g:nonsense", "Unknown(Gemini)"),
            ("POST /search", "Tavily(Search)"),
            ("GET /usage", "Tavily(Usage)"),
            ("GET /user/balance", "Balances(DeepSeek)"),
            ("GET /v1/user/balance", "Unknown(OpenAi)"),
            ("GET /api/v1/key", "Balances(OpenRouter)"),
            ("GET /v1/users/me/balance", "Balances(Moonshot)"),
            ("GET /v1/user/info", "Balances(SiliconFlow)"),
            ("POST /key", "Unknown(OpenAi)"),
            ("GET /research/r1", r#"Tavily(ResearchResult("r1"))"#),
            ("GET /v1/chat/completions", "Unknown(OpenAi)"),
            ("POST /nowhere", "Unknown(OpenAi)"),
            ("GET /", "Unknown(OpenAi)"),
        ] {
            assert_eq!(route(request, "accept"), expect, "{request}");
        }
    }

    #[test]
    fn headers_choose_among_model_lists() {
        for (request, header, expect) in [
            ("GET /v1/models", "anthropic-version", "Anthropic(Models)"),
            (
                "GET /v1/models/c",
                "anthropic-version",
                r#"Anthropic(Model("c"))"#,
            ),
            ("GET /v1/models", "x-goog-api-key", "Gemini(Models)"),
            (
                "GET /v1beta/openai/models",
                "x-goog-api-key",
                "OpenAi(Models)",
            ),
            (
                "POST /v1/chat/completions",
                "x-goog-api-key",
                "OpenAi(Chat)",
            ),
        ] {
            assert_eq!(route(request, header), expect, "{request} {header}");
        }
    }

    #[test]
    fn error_events_are_framed_as_the_protocol_does() {
        let chat = Route::OpenAi(openai::Endpoint::Chat);
        assert_eq!(
            chat.error_event(r#"{"error":1}"#),
            "data: {\"error\":1}\n\n"
        );
        assert_eq!(chat.error_event("a\nb"), "data: a\ndata: b\n\n");
        assert_eq!(chat.error_event("event: x\n\n"), "event: x\n\n");
        let messages = Route::Anthropic(anthropic::Endpoint::Messages);
        assert_eq!(messages.error_event("{}"), "event: error\ndata: {}\n\n");
    }
}
