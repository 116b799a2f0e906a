//! Which headers pass, in both directions.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::protocol_of_headers;

use crate::error::{GatewayError, Kind, RenderableError};

/// Response headers of the gateway's own.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const POOL: HeaderName = HeaderName::from_static("x-keypool-pool");
pub(super) const KEY: HeaderName = HeaderName::from_static("x-keypool-key");
pub(super) const ATTEMPTS: HeaderName = HeaderName::from_static("x-keypool-attempts");
pub(super) const QUEUE_MS: HeaderName = HeaderName::from_static("x-keypool-queue-ms");
pub(super) const UPSTREAM_REQUEST_ID: HeaderName =
    HeaderName::from_static("x-keypool-upstream-request-id");

/// Sent upstream with every call: any response may be an error, which must be readable to be classified.
static ACCEPT_ENCODING: HeaderName = header::ACCEPT_ENCODING;
static IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Maximum size of all headers, in bytes. Beyond it the client gets 431.
const MAX_HEADERS: usize = 64 * 1024;
/// Maximum length of path and query, in bytes, likewise.
const MAX_TARGET: usize = 32 * 1024;

/// Rejects heads that are too large, tunnels and WebSocket upgrades.
pub(super) fn check_head(parts: &Parts) -> Result<(), RenderableError> {
    let lines = parts.headers.iter();
    let length: usize = lines
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    let refuse = |kind, message: String| {
        let protocol = protocol_of_headers(&parts.headers, parts.uri.query());
        Err(GatewayError::new(kind, message).in_protocol(protocol))
    };
    if length > MAX_HEADERS || target > MAX_TARGET {
        let message = format!(
            "the request's headers are larger than {MAX_HEADERS} bytes, or its path and query than {MAX_TARGET}: send less"
        );
        return refuse(Kind::HeadersTooLarge, message);
    }
    if parts.method == http::Method::CONNECT {
        let message = "this is not a forward proxy: CONNECT is not served".to_owned();
        return refuse(Kind::MethodNotAllowed("GET, POST"), message);
    }
    if wants_websocket(&parts.headers) {
        let message = "WebSocket is not served here: call the endpoint with HTTP, and stream the answer with `\"stream\": true`";
        return refuse(Kind::InvalidRequest, message.to_owned());
    }
    Ok(())
}

/// Any other upgrade is an offer (`h2c`), which HTTP/1.1 lets a server ignore.
fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"websocket")
    })
}

/// The client's headers as they go upstream, without credential and host.
pub(super) fn forwarded<'a>(
    client: &'a HeaderMap,
    dialect: &Dialect,
) -> Vec<(&'a HeaderName, &'a HeaderValue)> {
    let named = named_by_connection(client);
    let account = dialect.account_headers;
    let mut headers = Vec::with_capacity(client.len() + 2);
    headers.extend(client.iter().filter(|(name, _)| {
        let text = name.as_str();
        passes_upstream(text) && !account.contains(&text) && !named.contains(name)
    }));
    headers.push((&ACCEPT_ENCODING, &IDENTITY));
    headers
}

/// Whether a header is about the call itself: not a credential, and not about the client or its way to us.
fn passes_upstream(name: &str) -> bool {
    let is_private = matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "x-api-key"
            | "x-goog-api-key"
            | "api-key"
            | "host"
            | "content-length"
            | "cookie"
            | "origin"
            | "referer"
            | "forwarded"
            | "expect"
            | "prefer"
            | "accept-encoding"
    );
    !is_private
        && !is_hop_by_hop(name)
        && !name.starts_with("x-keypool-")
        && !name.starts_with("x-forwarded-")
}

/// Never passed on, in either direction (RFC 9110 §7.6.1 and its predecessors).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The headers that `Connection` makes hop-by-hop.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// Removes from a provider's response what is not meant for the client. Returns the provider's request id.
pub(super) fn strip_response(headers: &mut HeaderMap, dialect: &Dialect) -> Option<HeaderValue> {
    let request_id = dialect
        .request_id_headers
        .iter()
        .find_map(|name| headers.get(*name))
        .cloned();
    let named = named_by_connection(headers);
    let is_private = |name: &HeaderName| {
        let text = name.as_str();
        text == "set-cookie"
            || is_hop_by_hop(text)
            || named.contains(name)
            || (dialect.is_private_header)(text)
    };
    let mut private: Vec<HeaderName> = Vec::with_capacity(headers.keys_len());
    private.extend(headers.keys().filter(|name| is_private(name)).cloned());
    for name in private {
        headers.remove(name);
    }
    request_id
}

/// A number as a header value. Small ones need no allocation.
pub(super) fn number(n: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let small = usize::try_from(n).ok().and_then(|n| SMALL.get(n));
    small.map_or_else(
        || HeaderValue::from(n),
        |text| HeaderValue::from_static(text),
    )
}

/// `Content-Length` in bytes, if it is a number.
pub(super) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether a response of this status can have a body.
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
        let expect: [(&str, &str); 2] = [("x-custom", "stays"), ("accept-encoding", "identity")];
        assert!(
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .eq(expect),
            "{headers:?}"
        );
    }

    #[test]
    fn responses_lose_private_headers_and_keep_the_others() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("x-twice", "1"),
            ("x-ratelimit-remaining-requests", "9"),
            ("connection", "x-hop"),
            ("x-hop", "h"),
            ("x-twice", "2"),
            ("x-request-id", "theirs"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let openai = keypool_providers::catalogue::find("openai").unwrap();
        assert_eq!(strip_response(&mut headers, openai).unwrap(), "theirs");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "x-request-id", "x-twice"]);
        let twice: Vec<_> = headers.get_all("x-twice").iter().collect();
        assert_eq!(twice, ["1", "2"]);
    }
}
