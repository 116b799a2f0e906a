//! Recognizes refusals of something between us and the provider: a CDN, a firewall, a proxy.
//!
//! Must never look at a 5xx: from anyone, it is upstream trouble.

use http::HeaderMap;
use serde_json::Value;

use super::ErrorResponse;
use super::error_body::json;

/// Headers with which a firewall says that it refused the call, and whose they are.
const HEADERS: &[(&str, &str)] = &[
    ("cf-mitigated", "cloudflare"),
    ("x-amzn-waf-action", "aws_waf"),
    ("x-vercel-mitigated", "vercel"),
    ("x-sucuri-block", "sucuri"),
];

/// How the body of one begins, in lower case, if it is no web page.
const LINES: &[(&str, &str)] = &[
    ("error code: 1", "cloudflare"),
    ("rbac: access denied", "envoy"),
    ("proxy authentication required", "proxy"),
];

/// What the pages, or the header `Server`, of known ones contain, in lower case.
const SIGNS: &[(&str, &str)] = &[
    ("cloudflare", "cloudflare"),
    ("cloudfront", "cloudfront"),
    ("awselb", "aws_load_balancer"),
    ("akamai", "akamai"),
    ("edgesuite.net", "akamai"),
    ("incapsula", "imperva"),
    ("imperva", "imperva"),
    ("sucuri", "sucuri"),
    ("fastly", "fastly"),
    ("varnish", "varnish"),
    ("azure", "azure"),
    ("squid", "squid"),
    ("openresty", "openresty"),
    ("nginx", "nginx"),
    ("caddy", "caddy"),
    ("envoy", "envoy"),
    ("apache", "apache"),
];

/// Maximum part of a page that is searched for signs.
const LONGEST_PAGE: usize = 16 << 10;

/// Who between us and the provider refused the call; `None` if it was the provider.
pub(crate) fn intermediary_trouble(response: &ErrorResponse<'_>) -> Option<String> {
    if !(400..500).contains(&response.status) {
        return None;
    }
    if response.status == 407 {
        return Some("proxy".to_owned());
    }
    let header = HEADERS
        .iter()
        .find(|(header, _)| response.headers.contains_key(*header));
    if let Some((_, name)) = header {
        return Some((*name).to_owned());
    }
    let body = response.body.trim_ascii_start();
    if body.starts_with(b"{") {
        let is_of_cdn = body.windows(16).any(|part| part == b"cloudflare_error")
            && json(body).is_some_and(|body| body["cloudflare_error"] == Value::Bool(true));
        return is_of_cdn.then(|| "cloudflare".to_owned());
    }
    // A limit on calls or sizes is about the calls, also if a proxy counts them.
    if matches!(
        response.status,
        405 | 408 | 410 | 411 | 413..=415 | 425 | 429 | 431 | 499
    ) {
        return None;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_PAGE)]).to_ascii_lowercase();
    if let Some((_, name)) = LINES.iter().find(|(line, _)| text.starts_with(line)) {
        return Some(with_number(name, &text));
    }
    if !is_page(&text) {
        return None;
    }
    let sign = sign(&text).or_else(|| sign(&server(response.headers)));
    match (sign, response.status) {
        // Many providers answer an unknown path or a malformed call with a page of their own framework.
        (None, 400 | 404) => None,
        (sign, _) => Some(sign.unwrap_or("unknown_proxy").to_owned()),
    }
}

/// `cloudflare_1000` for `error code: 1000`.
fn with_number(name: &str, text: &str) -> String {
    let number = text.strip_prefix("error code: ").unwrap_or_default();
    let number: String = number
        .chars()
        .take_while(char::is_ascii_digit)
        .take(5)
        .collect();
    match number.is_empty() {
        true => name.to_owned(),
        false => format!("{name}_{number}"),
    }
}

fn sign(text: &str) -> Option<&'static str> {
    let found = SIGNS.iter().find(|(sign, _)| text.contains(sign));
    found.map(|(_, name)| *name)
}

fn server(headers: &HeaderMap) -> String {
    let server = headers
        .get("server")
        .and_then(|server| server.to_str().ok());
    server.unwrap_or_default().to_ascii_lowercase()
}

/// Whether a text, in lower case, is a web page.
pub(crate) fn is_page(text: &str) -> bool {
    let mut text = text.trim_start_matches('\u{feff}').trim_start();
    while let Some((_, after)) = text
        .strip_prefix("<!--")
        .and_then(|rest| rest.split_once("-->"))
    {
        text = after.trim_start();
    }
    [
        "<!doctype",
        "<html",
        "<head",
        "<title",
        "<body",
        "<center",
        "<h1",
        "<?xml version",
    ]
    .iter()
    .any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn found(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Option<String> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        intermediary_trouble(&ErrorResponse {
            status,
            headers: &headers.iter().map(pair).collect(),
            body: body.as_bytes(),
            now: SystemTime::UNIX_EPOCH,
        })
    }

    /// Status, headers, body, the intermediary.
    type Refusal = (
        u16,
        &'static [(&'static str, &'static str)],
        &'static str,
        &'static str,
    );

    const OF_INTERMEDIARIES: &[Refusal] = &[
        (403, &[], "error code: 1000", "cloudflare_1000"),
        (403, &[], "error code: 1010\n", "cloudflare_1010"),
        (409, &[], "error code: 1001", "cloudflare_1001"),
        (403, &[("cf-mitigated", "challenge")], "", "cloudflare"),
        (
            403,
            &[("cf-mitigated", "challenge")],
            "{\"error\":{}}",
            "cloudflare",
        ),
        (429, &[("cf-mitigated", "block")], "<html>", "cloudflare"),
        (
            403,
            &[],
            "{\"cloudflare_error\":true,\"error_code\":1020}",
            "cloudflare",
        ),
        (
            403,
            &[],
            "<!DOCTYPE html><title>Attention Required! | Cloudflare</title>",
            "cloudflare",
        ),
        (
            403,
            &[("server", "awselb/2.0")],
            "<html><h1>403 Forbidden</h1></html>",
            "aws_load_balancer",
        ),
        (
            403,
            &[],
            "\n<HTML><HEAD>\n<TITLE>Access Denied</TITLE> errors.edgesuite.net",
            "akamai",
        ),
        (401, &[], "<html><center>nginx</center></html>", "nginx"),
        (
            404,
            &[],
            "<html><center>nginx/1.27</center></html>",
            "nginx",
        ),
        (
            400,
            &[],
            "<html><center>openresty</center></html>",
            "openresty",
        ),
        (
            403,
            &[],
            "<!-- by us --> <html>Sign in to the network</html>",
            "unknown_proxy",
        ),
        (
            402,
            &[],
            "\u{feff}<html>Pay for the network</html>",
            "unknown_proxy",
        ),
        (403, &[], "RBAC: access denied", "envoy"),
        (407, &[], "", "proxy"),
        (
            403,
            &[("x-vercel-mitigated", "deny")],
            "Forbidden",
            "vercel",
        ),
    ];

    #[test]
    fn pages_and_lines_of_intermediaries_are_recognized() {
        for (status, headers, body, name) in OF_INTERMEDIARIES {
            let found = found(*status, headers, body);
            assert_eq!(found.as_deref(), Some(*name), "{status} {body}");
        }
    }

    #[test]
    fn answers_of_providers_are_not() {
        for (status, headers, body) in [
            (401, &[][..], "Unauthorized"),
            (401, &[], "Authentication Fails (governor)"),
            (403, &[], "Forbidden"),
            (403, &[], ""),
            (
                403,
                &[("server", "cloudflare")],
                "{\"error\":{\"message\":\"error code: 1000\"}}",
            ),
            (404, &[], "404 page not found"),
            (
                404,
                &[],
                "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>",
            ),
            (404, &[], "<!DOCTYPE html><pre>Cannot POST /v1/x</pre>"),
            (413, &[], "<html>413 Request Entity Too Large nginx</html>"),
            (429, &[], "<html>Too Many Requests</html>"),
            (429, &[], "error code: 1015"),
            (400, &[], "no such role: <html>error code: 1000"),
            (502, &[], "<html>nginx</html>"),
            (530, &[("cf-mitigated", "challenge")], "error code: 1016"),
        ] {
            assert_eq!(found(status, headers, body), None, "{status} {body}");
        }
    }
}
