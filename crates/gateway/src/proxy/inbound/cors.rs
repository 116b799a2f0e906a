//! Cross-origin requests of web pages: which may be sent, and whose responses a page may read (CORS).
//!
//! Only origins in `allowed_origins` count. Credentials that a browser adds by itself are never allowed: a page sends its
//! virtual key in a header.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::settings::ServerSettings;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// How long a browser may keep the answer to a preflight, in seconds. Chrome keeps none longer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// The response headers that a page may read, besides those that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "content-disposition, openai-processing-ms, request-id, retry-after, retry-after-ms, \
     x-goog-upload-chunk-granularity, x-goog-upload-control-url, x-goog-upload-size-received, \
     x-goog-upload-status, x-goog-upload-url, x-keypool-attempts, x-keypool-key, x-keypool-pool, \
     x-keypool-queue-ms, x-keypool-trace, x-keypool-upstream-request-id, \
     x-ratelimit-limit-input-tokens, x-ratelimit-limit-output-tokens, x-ratelimit-limit-requests, \
     x-ratelimit-remaining-input-tokens, x-ratelimit-remaining-output-tokens, \
     x-ratelimit-remaining-requests, x-ratelimit-reset-input-tokens, \
     x-ratelimit-reset-output-tokens, x-ratelimit-reset-requests, x-request-id, x-should-retry",
);
/// Chrome up to version 141 asks this before a page calls a private address.
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What the responses to a request tell its browser.
pub(crate) struct Cors {
    /// The request's origin, if it is an allowed one.
    origin: Option<HeaderValue>,
    /// Responses differ by origin, which caches must know.
    varies: bool,
}

impl Cors {
    pub(crate) fn new(server: &ServerSettings, request: &HeaderMap) -> Self {
        let varies = !server.allowed_origins.is_empty();
        let mut origins = request.get_all(ORIGIN).iter().take(usize::from(varies) * 2);
        let origin = origins.next().filter(|origin| is_allowed(server, origin));
        // A browser sends one. Of several, it is not known which one the page has.
        let is_only = origins.next().is_none();
        Self {
            origin: origin.filter(|_| is_only).cloned(),
            varies,
        }
    }

    /// The response to a preflight of an allowed origin. It needs no key: browsers send none.
    pub(crate) fn preflight(&self, request: &Parts) -> Option<Response<Bytes>> {
        let asks = |name: &HeaderName| request.headers.get(name);
        let is_preflight =
            request.method == Method::OPTIONS && asks(&ACCESS_CONTROL_REQUEST_METHOD).is_some();
        if self.origin.is_none() || !is_preflight {
            return None;
        }
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        if let Some(names) = asks(&ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        if asks(&REQUEST_PRIVATE_NETWORK).is_some() {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        headers.append(
            VARY,
            HeaderValue::from_static("Access-Control-Request-Method"),
        );
        headers.append(
            VARY,
            HeaderValue::from_static("Access-Control-Request-Headers"),
        );
        Some(response)
    }

    /// Adds to a response what lets the page read it.
    pub(crate) fn apply(self, response: &mut HeaderMap) {
        if self.varies {
            response.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.origin {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// Whether `origin` is in `allowed_origins`.
pub(super) fn is_allowed(server: &ServerSettings, origin: &HeaderValue) -> bool {
    let mut allowed = server.allowed_origins.iter();
    allowed.any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn cors(origins: &[&str], parts: &Parts) -> Cors {
        let server = ServerSettings {
            allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..ServerSettings::default()
        };
        Cors::new(&server, &parts.headers)
    }

    const APP: &str = "https://app.example.com";

    #[test]
    fn only_allowed_origins_are_echoed() {
        for (origins, origin, echoed) in [
            (&[APP][..], APP, true),
            (&["http://x:1", APP][..], "HTTPS://app.example.com", true),
            (&[APP][..], "https://app.example.com.evil.example", false),
            (&[APP][..], "http://app.example.com", false),
            (&[APP][..], "https://app.example.com:8443", false),
            (&[APP][..], "null", false),
            (&[APP][..], "*", false),
            (&[][..], APP, false),
        ] {
            let parts = request("GET", &[("origin", origin)]);
            let mut headers = HeaderMap::new();
            cors(origins, &parts).apply(&mut headers);
            let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            let expect = echoed.then(|| HeaderValue::from_str(origin).unwrap());
            assert_eq!(allowed, expect.as_ref(), "{origins:?} {origin}");
            assert_eq!(headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS), echoed);
            assert_eq!(headers.contains_key(VARY), !origins.is_empty());
            assert!(!headers.contains_key("access-control-allow-credentials"));
        }
    }

    #[test]
    fn a_preflight_is_answered_with_what_it_asks_for() {
        let asked = [
            ("origin", APP),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-custom"),
            ("access-control-request-private-network", "true"),
        ];
        let parts = request("OPTIONS", &asked);
        let response = cors(&[APP], &parts).preflight(&parts).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(
            header("access-control-allow-headers"),
            "authorization,x-custom"
        );
        assert!(header("access-control-allow-methods").contains("DELETE"));
        assert_eq!(header("access-control-allow-private-network"), "true");
        assert_eq!(header("access-control-max-age"), "7200");
    }

    #[test]
    fn other_requests_are_no_preflights() {
        let method = ("access-control-request-method", "POST");
        for (verb, headers) in [
            ("OPTIONS", &[("origin", "https://evil.example"), method][..]),
            ("OPTIONS", &[("origin", APP)][..]),
            ("OPTIONS", &[method][..]),
            ("POST", &[("origin", APP), method][..]),
        ] {
            let parts = request(verb, headers);
            let preflight = cors(&[APP], &parts).preflight(&parts);
            assert!(preflight.is_none(), "{verb} {headers:?}");
        }
    }
}
