//! Which headers pass, in both directions.

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use keypool_core::pool::Lease;
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::protocol_of_headers;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Failed;
use crate::error::{GatewayError, Kind};

/// Never passed on, in either direction (RFC 9110 §7.6.1, and what predates it).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The client's credentials, and what tells about the client or its way to us.
const NOT_FORWARDED: [&str; 14] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "host",
    "content-length",
    "cookie",
    "origin",
    "referer",
    "forwarded",
    "expect",
    "prefer",
    "accept-encoding",
];

/// More header bytes than this are 431.
const MAX_HEADERS: usize = 64 * 1024;
/// A longer path and query are 431 too.
const MAX_TARGET: usize = 32 * 1024;

/// Characters of a key's name that cannot stand in a header as they are.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Refuses heads that are too large, and tunnels.
pub(super) fn check_size(parts: &Parts) -> Result<(), Failed> {
    let lines = parts.headers.iter();
    let length: usize = lines
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    let refuse = |kind, message: String| {
        let protocol = protocol_of_headers(&parts.headers, parts.uri.query());
        Err((GatewayError::new(kind, message), protocol))
    };
    if length > MAX_HEADERS || target > MAX_TARGET {
        let message = format!(
            "the request's headers are larger than {MAX_HEADERS} bytes, or its path and query than {MAX_TARGET}: send less"
        );
        return refuse(Kind::HeadersTooLarge, message);
    }
    if parts.method == http::Method::CONNECT {
        let message = "this is no forward proxy: CONNECT is not served".to_owned();
        return refuse(Kind::MethodNotAllowed("GET, POST"), message);
    }
    if wants_websocket(&parts.headers) {
        let message = "WebSocket is not served here: call the endpoint with HTTP, and stream the answer with `\"stream\": true`";
        return refuse(Kind::InvalidRequest, message.to_owned());
    }
    Ok(())
}

/// Any other upgrade is an offer (`h2c`), which HTTP/1.1 lets a server pass over.
fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"websocket")
    })
}

/// The client's headers as they go upstream, but for credential and host.
pub(super) fn forwarded(client: &HeaderMap, dialect: &dyn Dialect) -> HeaderMap {
    let mut headers = client.clone();
    strip_connection_headers(&mut headers);
    for name in NOT_FORWARDED.iter().chain(dialect.account_headers()) {
        headers.remove(*name);
    }
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            name.as_str().starts_with("x-keypool-") || name.as_str().starts_with("x-forwarded-")
        })
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
    // Any answer may be an error, which must be read to be classed.
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers
}

/// Removes hop-by-hop headers and those that `Connection` names.
fn strip_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Takes from a provider's answer what is not the client's business; gives back the provider's request id.
pub(super) fn strip_answer(headers: &mut HeaderMap, dialect: &dyn Dialect) -> Option<HeaderValue> {
    strip_connection_headers(headers);
    let request_id = dialect
        .request_id_headers()
        .iter()
        .find_map(|name| headers.get(*name))
        .cloned();
    headers.remove(header::SET_COOKIE);
    let private: Vec<HeaderName> = headers
        .keys()
        .filter(|name| dialect.is_private_header(name.as_str()))
        .cloned()
        .collect();
    for name in private {
        headers.remove(name);
    }
    request_id
}

/// Adds what tells the client which key served it.
pub(super) fn add_key_headers(headers: &mut HeaderMap, lease: &Lease) {
    headers.insert("x-keypool-pool", name_value(lease.pool().name()));
    headers.insert("x-keypool-key", name_value(&lease.member().name));
}

/// A name as a header value: percent-encoded UTF-8 outside visible ASCII.
pub(super) fn name_value(name: &Arc<str>) -> HeaderValue {
    let encoded = utf8_percent_encode(name, UNSAFE_IN_HEADER).to_string();
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static("-"))
}

/// Whether an answer of this status has a body at all.
pub(super) fn may_have_body(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_hops_and_accounts_are_not_forwarded() {
        let mut client = HeaderMap::new();
        for name in [
            "authorization",
            "x-api-key",
            "x-goog-api-key",
            "cookie",
            "origin",
            "referer",
            "forwarded",
            "x-forwarded-for",
            "expect",
            "prefer",
            "x-keypool-trace",
            "openai-organization",
            "openai-project",
            "te",
            "upgrade",
            "host",
            "x-hop",
        ] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        client.insert("connection", HeaderValue::from_static("close, X-Hop"));
        client.insert("x-custom", HeaderValue::from_static("stays"));
        client.insert("accept-encoding", HeaderValue::from_static("gzip"));
        let openai = keypool_providers::catalogue::find("openai").unwrap();
        let headers = forwarded(&client, openai);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!(headers["x-custom"], "stays");
    }

    #[test]
    fn names_outside_ascii_are_percent_encoded() {
        assert_eq!(name_value(&"main account".into()), "main%20account");
        assert_eq!(name_value(&"主".into()), "%E4%B8%BB");
        assert_eq!(name_value(&"100%".into()), "100%25");
    }
}
