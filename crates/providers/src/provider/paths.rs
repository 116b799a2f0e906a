//! What dialects share: the path and the credential of a request, and the private headers of a response.
//!
//! Must never know a provider: each dialect chooses which of these rules apply.

use http::{HeaderName, HeaderValue, header};

/// The path for a base that ends in its version: `/v1/x` and `/x` both become `{base}/x`.
pub(crate) fn versioned_path(base_path: &str, path: &str) -> String {
    let rest = unrepeated(base_path, path);
    let rest = match rest.len() == path.len() {
        true => without_v1(rest),
        false => rest,
    };
    joined(base_path, rest)
}

/// The path for a base that is a bare host, perhaps with a prefix: it is kept.
pub(crate) fn kept_path(base_path: &str, path: &str) -> String {
    joined(base_path, unrepeated(base_path, path))
}

/// `path` without `/v1` at its start.
pub(crate) fn without_v1(path: &str) -> &str {
    match is_below(path, "/v1") {
        true => &path["/v1".len()..],
        false => path,
    }
}

/// Whether `path` is `root` or below it.
pub(crate) fn is_below(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `path` without the segments that `base_path` ends with, if one of them is a version.
fn unrepeated<'a>(base_path: &str, path: &'a str) -> &'a str {
    let runs = base_path.match_indices('/').map(|(at, _)| &base_path[at..]);
    for run in runs {
        if is_below(path, run) && run.split('/').any(is_version) {
            return &path[run.len()..];
        }
    }
    path
}

/// `v1`, `v3`, `v1beta`.
fn is_version(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    bytes.next() == Some(b'v') && bytes.next().is_some_and(|b| b.is_ascii_digit())
}

fn joined(base_path: &str, rest: &str) -> String {
    match (base_path, rest) {
        ("", "") => "/".to_owned(),
        _ => [base_path, rest].concat(),
    }
}

/// `Authorization: Bearer …`.
pub(crate) fn bearer(secret: &str) -> Option<(HeaderName, HeaderValue)> {
    let value = secret_value(secret, "Bearer ")?;
    Some((header::AUTHORIZATION, value))
}

/// `{name}: {secret}`.
pub(crate) fn plain(name: &'static str, secret: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_static(name), secret_value(secret, "")?))
}

fn secret_value(secret: &str, prefix: &str) -> Option<HeaderValue> {
    if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{secret}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a response header reveals the account or its limits, in the forms that many providers use.
pub(crate) fn is_private_everywhere(name: &str) -> bool {
    const PREFIXES: &[&str] = &["x-ratelimit", "ratelimit", "x-rate-limit"];
    const NAMES: &[&str] = &["openai-organization", "openai-project"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_versioned_base_takes_the_clients_version_away() {
        for (base, path, expect) in [
            ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
            ("/v1", "/chat/completions", "/v1/chat/completions"),
            (
                "/api/v3",
                "/v1/chat/completions",
                "/api/v3/chat/completions",
            ),
            ("/api/v3", "/chat/completions", "/api/v3/chat/completions"),
            (
                "/api/v3",
                "/v3/chat/completions",
                "/api/v3/chat/completions",
            ),
            (
                "/api/v3",
                "/api/v3/chat/completions",
                "/api/v3/chat/completions",
            ),
            ("/openai/v1", "/openai/v1/models", "/openai/v1/models"),
            ("/openai/v1", "/v1/models/a%2Fb", "/openai/v1/models/a%2Fb"),
            ("/v1", "/v1/v1/x", "/v1/v1/x"),
            ("/v1", "/v2/rerank", "/v1/v2/rerank"),
            ("/v1", "/v1beta/x", "/v1/v1beta/x"),
            ("/v1", "/v10/x", "/v1/v10/x"),
            ("/v1", "/v1", "/v1"),
            ("/v1", "/v1/", "/v1/"),
            (
                "/gateway/chat",
                "/chat/completions",
                "/gateway/chat/chat/completions",
            ),
            ("", "/v1/models", "/models"),
            ("", "/v1", "/"),
            ("", "/", "/"),
        ] {
            assert_eq!(versioned_path(base, path), expect, "{base} + {path}");
        }
    }

    #[test]
    fn a_bare_host_keeps_the_path() {
        for (base, path, expect) in [
            ("", "/v1/messages", "/v1/messages"),
            ("/anthropic", "/v1/messages", "/anthropic/v1/messages"),
            ("/v1", "/v1/messages", "/v1/messages"),
            ("/proxy/v1", "/v1/messages", "/proxy/v1/messages"),
            (
                "/v1beta",
                "/v1beta/models/x:generateContent",
                "/v1beta/models/x:generateContent",
            ),
            ("/v1", "/v1beta/models", "/v1/v1beta/models"),
            ("/search", "/search", "/search/search"),
            ("", "/", "/"),
        ] {
            assert_eq!(kept_path(base, path), expect, "{base} + {path}");
        }
    }

    #[test]
    fn a_root_ends_where_a_segment_ends() {
        for (path, expect) in [
            ("/a/b", true),
            ("/a/b/", true),
            ("/a/b/c", true),
            ("/a/bc", false),
            ("/a", false),
            ("/x/a/b", false),
        ] {
            assert_eq!(is_below(path, "/a/b"), expect, "{path}");
        }
    }

    #[test]
    fn a_credential_is_sensitive_and_fits_a_header() {
        let (name, value) = bearer("sk-1").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap(), value.is_sensitive()),
            ("authorization", "Bearer sk-1", true)
        );
        let (name, value) = plain("x-api-key", "sk-2").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap(), value.is_sensitive()),
            ("x-api-key", "sk-2", true)
        );
        for bad in ["", "two words", "line\r\nbreak", "schlüssel"] {
            assert_eq!(bearer(bad), None, "{bad}");
            assert_eq!(plain("x-api-key", bad), None, "{bad}");
        }
    }
}
