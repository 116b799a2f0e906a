//! Responses that an outbound proxy made itself, where it forwards requests to a provider without TLS.
//!
//! There the proxy's own words and the provider's come the same way, and a proxy that blocks a page answers 403 just as a
//! provider does that blocks a key. Only signs that no provider gives tell them apart: Squid's `X-Squid-Error` on the
//! pages that it makes (`src/errorpage.cc`), and an `error` in `Proxy-Status` (RFC 9209).

use http::{HeaderMap, Response, StatusCode};
use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::ProxyUrl;

use crate::telemetry::redact;
use crate::upstream::{ErrorKind, UpstreamError};

/// The error of a call that the proxy answered instead of the provider. `secret`: the key's, which the proxy has seen and
/// may repeat.
pub(super) fn response_of_proxy<B>(
    response: &Response<B>,
    base_url: &BaseUrl,
    proxy: Option<&ProxyUrl>,
    secret: &str,
) -> Option<UpstreamError> {
    let proxy = proxy.filter(|proxy| proxy.scheme().is_http() && !base_url.is_https())?;
    let status = response.status();
    // Other statuses mean the caller's fault, which is relayed in any case.
    let would_blame_key =
        matches!(status.as_u16(), 401 | 402 | 403 | 429) || status.is_server_error();
    let sign = own_error(response.headers()).filter(|_| would_blame_key)?;
    let words = redact(&sign, secret);
    let reason = format!("the proxy {proxy} answered {status} itself ({words}): check its rules");
    let kind = ErrorKind::ForwardProxy(reason);
    // With any other status it may have failed while it waited for the provider's response, or have refused that
    // response (Squid's `http_reply_access` and `reply_body_max_size` are 403s).
    Some(match status {
        StatusCode::NOT_IMPLEMENTED => UpstreamError::unsent(kind),
        _ => UpstreamError::sent(kind),
    })
}

/// The sign that a proxy made this response.
fn own_error(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get_all(name).iter().next_back()?.to_str().ok();
    if let Some(squid) = text("x-squid-error") {
        return Some(squid.to_owned());
    }
    let error = error_of(text("proxy-status")?)?;
    Some(format!("Proxy-Status: {error}"))
}

/// The `error` of the list's last member, which is the intermediary nearest to us.
fn error_of(proxy_status: &str) -> Option<&str> {
    let nearest = outside_quotes(proxy_status, ',').pop()?;
    let parameters = outside_quotes(nearest, ';').into_iter().skip(1);
    parameters
        .filter_map(|parameter| parameter.trim().strip_prefix("error="))
        .next_back()
}

/// Splits at each separator outside of quoted strings (RFC 9651 §3.3.3).
fn outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = |c| {
        quoted ^= c == '"' && !escaped;
        escaped = quoted && !escaped && c == '\\';
        c == separator && !quoted
    };
    text.split(separates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_the_nearest_intermediary_is_found() {
        for (status, expect) in [
            (
                "proxy; error=http_request_denied",
                Some("http_request_denied"),
            ),
            (
                "proxy; details=\"a, b; error=x\"; error=dns_error",
                Some("dns_error"),
            ),
            (
                "proxy;details=\"a \\\" , b; error=x\";error=dns_error",
                Some("dns_error"),
            ),
            ("far.example, proxy;error=dns_error", Some("dns_error")),
            ("far.example; error=dns_error, proxy", None),
            ("proxy; received-status=403", None),
            ("proxy; details=\"; error=x\"", None),
            ("proxy; no-error=x", None),
            ("error=x", None),
            ("", None),
        ] {
            assert_eq!(error_of(status), expect, "{status}");
        }
    }

    fn of(
        status: u16,
        header: (&str, &str),
        base_url: &str,
        proxy: Option<&str>,
    ) -> Option<UpstreamError> {
        let response = Response::builder().status(status);
        let response = response.header(header.0, header.1).body(()).unwrap();
        let proxy: Option<ProxyUrl> = proxy.map(|proxy| proxy.parse().unwrap());
        response_of_proxy(
            &response,
            &base_url.parse().unwrap(),
            proxy.as_ref(),
            "the-key",
        )
    }

    const SQUID: (&str, &str) = ("x-squid-error", "ERR_ACCESS_DENIED 0");
    const HTTP: &str = "http://llm.example";
    const PROXY: Option<&str> = Some("http://me:word@proxy.example:3128");

    #[test]
    fn a_response_of_the_proxy_is_an_error_that_names_it() {
        for (status, was_sent) in [
            (401, true),
            (403, true),
            (429, true),
            (501, false),
            (502, true),
            (503, true),
            (504, true),
        ] {
            let error = of(status, SQUID, HTTP, PROXY).unwrap();
            assert_eq!(error.may_have_run, was_sent, "{status}");
            let text = error.to_string();
            let begins = format!("the proxy http://proxy.example:3128 answered {status} ");
            assert!(text.starts_with(&begins), "{text}");
            assert!(text.contains("(ERR_ACCESS_DENIED 0)"), "{text}");
        }
        let echo = ("x-squid-error", "ERR the-key");
        let text = of(403, echo, HTTP, PROXY).unwrap().to_string();
        assert!(!text.contains("the-key"), "{text}");
        let denied = ("proxy-status", "p;error=http_request_denied");
        let text = of(403, denied, HTTP, PROXY).unwrap().to_string();
        assert!(text.contains("http_request_denied"));
    }

    #[test]
    fn a_response_that_may_be_the_providers_is_left_to_its_dialect() {
        for (status, header, base_url, proxy) in [
            (403, ("via", "1.1 proxy.example"), HTTP, PROXY),
            (
                403,
                ("proxy-status", "proxy; received-status=403"),
                HTTP,
                PROXY,
            ),
            (403, SQUID, HTTP, None),
            (403, SQUID, HTTP, Some("socks5://proxy.example")),
            (403, SQUID, "https://llm.example", PROXY),
            (400, SQUID, HTTP, PROXY),
            (404, SQUID, HTTP, PROXY),
            (200, SQUID, HTTP, PROXY),
        ] {
            let error = of(status, header, base_url, proxy);
            assert!(error.is_none(), "{status} {header:?} {base_url} {proxy:?}");
        }
    }
}
