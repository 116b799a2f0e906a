//! Requests: paths, methods, queries and headers that anybody may send.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use keypool_providers::catalogue;
use keypool_providers::protocol::{
    Lookup, ModelIn, ModelsCall, Protocol, is_safe_path, lookup, presented, without_key,
};
use percent_encoding::percent_decode_str;

use crate::fuzz;
use crate::source::Source;

const PATHS: &[&str] = &[
    "/v1",
    "/v1beta",
    "/chat/completions",
    "/completions",
    "/responses",
    "/messages",
    "/count_tokens",
    "/models",
    "/",
    "/gemini-3",
    ":",
    ":generateContent",
    ":streamGenerateContent",
    "/search",
    "/research",
    "/usage",
    "/extract",
    "/images/edits",
    "/audio/speech",
    "/files",
    "a",
    "%2F",
    "%2f",
    "%5C",
    "\\",
    "..",
    ".",
    "%2e",
    "%2E",
    "%",
    "%25",
    "%00",
    "%0a",
    "%e4%bd%a0",
    "é",
    "//",
    "\t",
    "?x",
    "resp_1",
];

const QUERIES: &[&str] = &[
    "key=",
    "key",
    "%6Bey=",
    "k%65y",
    "&",
    "=",
    "alt=sse",
    "monkey=x",
    "Key=",
    "secret",
    "%2B",
    "%ff",
    "+",
    "%",
    "é",
    "k%65y%00=",
];

const CREDENTIALS: &[&str] = &[
    "Bearer ", "bearer\t", "Basic ", "sk-abc", " ", "\t", "é", "BEARER  ", "Bearer",
];

const METHODS: &[&str] = &["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "get"];

fn path(source: &mut Source<'_>) -> String {
    let path = source.text(PATHS);
    match source.byte() % 4 {
        0 => path,
        _ => format!("/v1{path}"),
    }
}

#[test]
fn an_endpoint_names_its_model_within_the_path() {
    fuzz!(|source: &mut Source<'_>| {
        let method: Method = source.one_of(METHODS).parse().unwrap();
        let headers = source.headers();
        let query = source.flip().then(|| source.text(QUERIES));
        let path = path(source);
        match lookup(&method, &path, &headers, query.as_deref()) {
            Lookup::Endpoint(endpoint) => {
                let named = match (&endpoint.model, &endpoint.models) {
                    (ModelIn::Path(range), None) => Some(range.clone()),
                    (_, Some(ModelsCall::One(range))) => Some(range.clone()),
                    _ => None,
                };
                if let Some(range) = named {
                    let name = path.get(range.clone()).unwrap();
                    assert!(!name.is_empty(), "{path}");
                    assert_eq!(path.as_bytes()[range.start - 1], b'/', "{path}");
                }
                if endpoint.json || endpoint.generates || endpoint.stream_by_path {
                    assert_eq!(method, Method::POST, "{path}");
                }
                if endpoint.models.is_some() {
                    assert_eq!(method, Method::GET, "{path}");
                }
            }
            Lookup::MethodNotAllowed(protocol, takes) => {
                let wants = takes.split(", ").any(|takes| takes == method.as_str());
                // The methods of all protocols at one path are listed, and only one of them may know it.
                assert!(
                    !takes.is_empty() && (!wants || takes.contains(", ")),
                    "{protocol:?} {path}"
                );
            }
            Lookup::Unknown(_) => {}
        }
    });
}

#[test]
fn a_safe_path_leads_nowhere_else() {
    fuzz!(|source: &mut Source<'_>| {
        let path = path(source);
        let decoded: Vec<u8> = percent_decode_str(&path).collect();
        let dots = decoded
            .split(|byte| matches!(byte, b'/' | b'\\'))
            .any(|segment| segment == b"." || segment == b"..");
        let broken = path.split('%').skip(1).any(|rest| {
            let digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit);
            digits.count() < 2
        });
        let control = decoded.iter().any(u8::is_ascii_control);
        assert_eq!(
            is_safe_path(&path),
            !dots && !broken && !control,
            "{path:?}"
        );
    });
}

#[test]
fn every_path_stays_below_its_base() {
    fuzz!(|source: &mut Source<'_>| {
        let dialect = source.one_of(catalogue::ALL);
        let protocol = *source.one_of(&[
            Protocol::OpenAi,
            Protocol::Anthropic,
            Protocol::Gemini,
            Protocol::Tavily,
        ]);
        let segments = ["", "/v1", "/api", "/v3", "/v1beta", "/openai", "/a"];
        let base = [*source.one_of(&segments), *source.one_of(&segments)].concat();
        let path = format!("/{}", source.text(PATHS));
        let sent = (dialect.upstream_path)(protocol, &base, &path);
        // A version in the path replaces the one that the base ends with.
        let kept = base.strip_suffix("/v1beta/openai").unwrap_or(&base);
        let kept = ["/v1", "/v3", "/v1beta"]
            .iter()
            .find_map(|version| kept.strip_suffix(version))
            .unwrap_or(kept);
        let below = sent
            .strip_prefix(kept)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        assert!(
            sent.starts_with('/') && below,
            "{} {base} {path}: {sent}",
            dialect.name
        );
    });
}

#[test]
fn a_credential_is_found_and_leaves_the_query() {
    fuzz!(|source: &mut Source<'_>| {
        let mut headers = source.headers();
        if let Ok(value) = HeaderValue::from_str(&source.text(CREDENTIALS)) {
            headers.append(AUTHORIZATION, value);
        }
        let query = source.text(QUERIES);
        assert!(
            presented(&headers, Some(&query))
                .iter()
                .all(|key| !key.is_empty())
        );
        let is_key = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            percent_decode_str(name).collect::<Vec<u8>>() == b"key"
        };
        let kept: Vec<&str> = query
            .split('&')
            .filter(|parameter| !is_key(parameter))
            .collect();
        let left = without_key(&query);
        assert_eq!(left, kept.join("&"), "{query}");
        assert!(
            presented(&HeaderMap::new(), Some(&left)).is_empty(),
            "{query}"
        );
        let keys = query
            .split('&')
            .filter(is_key)
            .filter_map(|parameter| parameter.split_once('='));
        let decoded: Vec<String> = keys
            .filter_map(|(_, value)| {
                Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
            })
            .filter(|value| !value.is_empty())
            .collect();
        assert_eq!(
            presented(&HeaderMap::new(), Some(&query)),
            decoded,
            "{query}"
        );
    });
}
