//! Paths that are written differently from the endpoint that they mean: slashes too many, a version too many or too few,
//! `%3A` for a colon, Google's own base for OpenAI's SDKs.
//!
//! Must never know pools.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use super::{Lookup, Protocol, lookup};

/// The base that Google gives to OpenAI's SDKs.
const GOOGLES_OPENAI: &str = "/v1beta/openai";

/// The endpoint that `path` means though it is not written like it: its own path, and what is called there. `None` if
/// there is no such endpoint. Only for paths that [`lookup`] does not know: the usual ones need no second look.
pub fn lookup_rewritten(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<(String, Lookup)> {
    let tidy = tidied(path);
    let path = with_one_version(&tidy);
    if let Some(rest) = path.strip_prefix(GOOGLES_OPENAI) {
        // The path says that it is OpenAI's protocol, whatever credential comes with it.
        let path = with_one_version(rest);
        let path = version(path).map_or_else(|| format!("/v1{path}"), |_| path.to_owned());
        let found = lookup(method, &path, &without_credentials(headers), None);
        return is_openais(&found).then_some((path, found));
    }
    let found = lookup(method, path, headers, query);
    if is_known(&found) || version(path).is_some() {
        return is_known(&found).then(|| (path.to_owned(), found));
    }
    let versioned = format!("/v1{path}");
    let found = lookup(method, &versioned, headers, query);
    // Google's clients leave out `v1beta`, all others `v1`.
    let is_googles =
        matches!(&found, Lookup::Endpoint(endpoint) if endpoint.protocol == Protocol::Gemini);
    if is_googles {
        let versioned = format!("/v1beta{path}");
        let found = lookup(method, &versioned, headers, query);
        return is_known(&found).then_some((versioned, found));
    }
    is_known(&found).then_some((versioned, found))
}

fn is_openais(found: &Lookup) -> bool {
    match found {
        Lookup::Endpoint(endpoint) => endpoint.protocol == Protocol::OpenAi,
        Lookup::MethodNotAllowed(protocol, _) => *protocol == Protocol::OpenAi,
        Lookup::Unknown(_) => false,
    }
}

fn is_known(found: &Lookup) -> bool {
    !matches!(found, Lookup::Unknown(_))
}

/// The path with single slashes, none at its end, and colons as they are.
fn tidied(path: &str) -> Cow<'_, str> {
    let mut tidy = Cow::Borrowed(path);
    if path.contains("//") || (path.ends_with('/') && path.len() > 1) {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        tidy = Cow::Owned(segments.flat_map(|segment| ["/", segment]).collect());
    }
    if tidy.contains("%3") {
        tidy = Cow::Owned(tidy.replace("%3A", ":").replace("%3a", ":"));
    }
    tidy
}

/// The path without the versions that another version follows.
fn with_one_version(path: &str) -> &str {
    let mut path = path;
    while let Some(rest) = version(path).map(|version| &path[version.len()..])
        && version(rest).is_some()
    {
        path = rest;
    }
    path
}

/// The version that a path begins with, with its slash.
fn version(path: &str) -> Option<&str> {
    ["/v1beta", "/v1"].into_iter().find(|version| {
        let rest = path.strip_prefix(version);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// What of the headers says how the body is to be read.
fn without_credentials(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if let Some(media_type) = headers.get(CONTENT_TYPE) {
        kept.insert(CONTENT_TYPE, media_type.clone());
    }
    kept
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn rewritten(method: &str, path: &str, header: Option<&'static str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, HeaderValue::from_static("v"));
        }
        let method = method.parse().unwrap();
        let found = lookup(&method, path, &headers, None);
        let is_known = matches!(found, Lookup::Endpoint(_));
        assert!(!is_known, "{method} {path} is an endpoint as it is");
        let (path, found) = lookup_rewritten(&method, path, &headers, None)?;
        matches!(found, Lookup::Endpoint(_)).then_some(path)
    }

    #[test]
    fn a_path_with_a_clear_meaning_is_rewritten() {
        for (request, expect) in [
            ("POST //v1/chat/completions", "/v1/chat/completions"),
            ("POST /v1//chat///completions", "/v1/chat/completions"),
            ("POST /v1/chat/completions/", "/v1/chat/completions"),
            ("POST /v1/v1/chat/completions", "/v1/chat/completions"),
            ("POST /v1/v1/v1/embeddings//", "/v1/embeddings"),
            ("POST /chat/completions", "/v1/chat/completions"),
            ("POST /responses", "/v1/responses"),
            ("POST /messages", "/v1/messages"),
            ("POST //messages/count_tokens/", "/v1/messages/count_tokens"),
            ("POST /v1/v1/messages", "/v1/messages"),
            (
                "GET /messages/batches/b/results",
                "/v1/messages/batches/b/results",
            ),
            ("GET /models", "/v1/models"),
            ("GET /v1/models/", "/v1/models"),
            ("GET /models/gpt-x", "/v1/models/gpt-x"),
            ("GET /responses/resp_1/", "/v1/responses/resp_1"),
            (
                "POST /models/gemini-x:generateContent",
                "/v1beta/models/gemini-x:generateContent",
            ),
            (
                "POST /v1beta/models/gemini-x%3AgenerateContent",
                "/v1beta/models/gemini-x:generateContent",
            ),
            (
                "POST /v1/models/gemini-x%3astreamGenerateContent",
                "/v1/models/gemini-x:streamGenerateContent",
            ),
            (
                "POST /v1beta/v1/models/gemini-x:countTokens",
                "/v1/models/gemini-x:countTokens",
            ),
            (
                "POST /v1/v1beta//models/gemini-x:generateContent",
                "/v1beta/models/gemini-x:generateContent",
            ),
            (
                "POST /v1beta/openai/chat/completions",
                "/v1/chat/completions",
            ),
            ("POST /v1beta/openai/v1/embeddings", "/v1/embeddings"),
            ("POST //v1beta/openai//embeddings/", "/v1/embeddings"),
            ("GET /v1beta/openai/models", "/v1/models"),
            ("POST /search/", "/search"),
            ("POST //extract", "/extract"),
            ("GET //research/r1", "/research/r1"),
            ("POST /upload//v1beta/files", "/upload/v1beta/files"),
            ("GET /cachedContents/c", "/v1beta/cachedContents/c"),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(
                rewritten(method, path, None).as_deref(),
                Some(expect),
                "{request}"
            );
        }
    }

    #[test]
    fn a_path_that_means_no_endpoint_stays() {
        for request in [
            "GET /",
            "GET //",
            "POST /v1",
            "POST /nowhere",
            "POST /v2/chat/completions",
            "POST /v1/chat%2Fcompletions",
            "POST /v1betax/chat/completions",
            "POST /v1/openai/chat/completions",
            "POST /v1/search",
            "POST /v1beta/openai/messages",
            "GET /v1/healthz",
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(rewritten(method, path, None), None, "{request}");
        }
    }

    #[test]
    fn a_missing_version_is_that_of_the_clients_protocol() {
        for (header, path, expect) in [
            ("x-goog-api-key", "/models", "/v1beta/models"),
            ("x-goog-api-key", "/files/f", "/v1beta/files/f"),
            ("anthropic-version", "/models", "/v1/models"),
            ("anthropic-version", "/files/f", "/v1/files/f"),
            ("authorization", "/files/f", "/v1/files/f"),
        ] {
            let found = rewritten("GET", path, Some(header));
            assert_eq!(found.as_deref(), Some(expect), "{header} {path}");
        }
    }

    #[test]
    fn googles_openai_base_is_openais_protocol_with_any_credential() {
        let mut headers = HeaderMap::new();
        headers.insert("x-goog-api-key", HeaderValue::from_static("k"));
        let path = "/v1beta/openai/models";
        let found = lookup_rewritten(&Method::GET, path, &headers, Some("key=k")).unwrap();
        let Lookup::Endpoint(endpoint) = found.1 else {
            panic!("{found:?}");
        };
        assert_eq!(endpoint.protocol, Protocol::OpenAi);
    }

    #[test]
    fn a_wrong_method_is_reported_for_the_rewritten_path() {
        let found = lookup_rewritten(&Method::GET, "/v1//embeddings", &HeaderMap::new(), None);
        assert_eq!(
            found,
            Some((
                "/v1/embeddings".to_owned(),
                Lookup::MethodNotAllowed(Protocol::OpenAi, "POST")
            ))
        );
    }
}
