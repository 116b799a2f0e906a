//! What dialects share: the path and the credential of a request, and the private headers of a response.
//!
//! Must never know a provider: each dialect chooses which of these rules apply.

use http::{HeaderName, HeaderValue, header};

/// The path for a base that ends in its version: `/v1/x` and `/x` both become `{base}/x`.
///
/// Clients write `/v1` for whatever version the base has. Another version replaces the base's.
pub(crate) fn versioned_path(base_path: &str, path: &str) -> String {
    if let Some(rest) = unrepeated(base_path, path) {
        return joined(base_path, rest);
    }
    match without_v1(path) {
        rest if rest.len() < path.len() => joined(base_path, rest),
        _ => joined(base_for(base_path, path), path),
    }
}

/// The path for a base that is a bare host, perhaps with a prefix: it is kept. Its version replaces the base's.
pub(crate) fn kept_path(base_path: &str, path: &str) -> String {
    match unrepeated(base_path, path) {
        Some(rest) => joined(base_path, rest),
        None => joined(base_for(base_path, path), path),
    }
}

/// `base_path` without the version that it ends with.
pub(crate) fn without_version(base_path: &str) -> &str {
    match base_path.rsplit_once('/') {
        Some((rest, last)) if is_version(last) => rest,
        _ => base_path,
    }
}

/// Whether a segment of `path` is a version.
pub(crate) fn has_version(path: &str) -> bool {
    path.split('/').any(is_version)
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

/// `path` without the segments that `base_path` ends with; `None` unless it repeats them and one of them is a version.
fn unrepeated<'a>(base_path: &str, path: &'a str) -> Option<&'a str> {
    let mut runs = base_path.match_indices('/').map(|(at, _)| &base_path[at..]);
    let run = runs.find(|run| is_below(path, run) && has_version(run))?;
    Some(&path[run.len()..])
}

/// The base for a path that repeats nothing of it. If the path begins with a version, the base's does not count.
fn base_for<'a>(base_path: &'a str, path: &str) -> &'a str {
    match path.split('/').nth(1).is_some_and(is_version) {
        true => without_version(base_path),
        false => base_path,
    }
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
            ("/v1", "/v2/rerank", "/v2/rerank"),
            ("/api/v3", "/v2/x", "/api/v2/x"),
            ("/openai/v1", "/v1beta/x", "/openai/v1beta/x"),
            ("/v1", "/v10/x", "/v10/x"),
            ("/gateway", "/v2/x", "/gateway/v2/x"),
            ("/v1beta/openai", "/v2/x", "/v1beta/openai/v2/x"),
            ("/v1", "/audio/v2", "/v1/audio/v2"),
            ("/v1", "/versions", "/v1/versions"),
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
            ("/v1", "/v1beta/models", "/v1beta/models"),
            ("/v1beta", "/v1/models/x", "/v1/models/x"),
            ("/proxy/v1beta", "/v1/models/x", "/proxy/v1/models/x"),
            ("/v1beta", "/v1alpha/models/x", "/v1alpha/models/x"),
            ("/v1", "/messages", "/v1/messages"),
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
