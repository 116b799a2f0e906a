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
        return refuse(Kind::UpgradeRequired, message.to_owned());
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

/// The client's headers that are about the call itself, as they may be stored with it.
pub(super) fn kept_headers(client: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(client);
    let kept = client
        .iter()
        .filter(|(name, _)| passes_upstream(name.as_str()) && !named.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether a header is about the call itself: not a credential, and not about the client or its way to us.
fn passes_upstream(name: &str) -> bool {
    let mut withheld = withheld_like(name.as_bytes()).iter();
    let is_withheld = withheld.any(|known| match known.ends_with('-') {
        true => name.starts_with(known),
        false => name == *known,
    });
    // `CF-Connecting-IP`, `True-Client-IP`, `X-Real-IP`: everybody in front has a name of its own for the client's address.
    !is_withheld && !name.ends_with("-ip")
}

/// The request headers that stay here and begin like `name`; `-` at the end stands for a whole family. Chosen by one
/// byte, because every header of every request is compared with them.
///
/// Besides credentials, the client's own headers and those that concern one connection, these are the ones that
/// browsers, proxies, CDNs, hosts and login proxies in front of the gateway add. Upstream they would reveal who called,
/// and a provider behind the same CDN refuses its headers. A method in a header would make another call of the one that
/// was checked.
fn withheld_like(name: &[u8]) -> &'static [&'static str] {
    match name {
        [b'x', b'-', third, ..] => extension_like(*third),
        [b'a', ..] => &[
            "accept-encoding",
            "access-control-request-",
            "akamai-",
            "ali-",
            "alt-used",
            "api-key",
            "authorization",
        ],
        [b'c', ..] => &[
            "cdn-",
            "cf-",
            "cloudfront-",
            "connect-time",
            "connection",
            "content-length",
            "cookie",
            "cookie2",
        ],
        [b'd', ..] => &["disguised-host", "do-"],
        [b'e', ..] => &["eagleeye-", "eo-", "expect"],
        [b'f', ..] => &["fastly-", "fly-", "forwarded", "front-end-https"],
        [b'h', ..] => &["heroku-", "host", "http2-settings"],
        [b'i', ..] => &["incap-"],
        [b'k', ..] => &["keep-alive"],
        [b'l', ..] => &["l5d-"],
        [b'm', ..] => &["max-forwards"],
        [b'n', ..] => &["netlify-"],
        [b'o', ..] => &["origin"],
        [b'p', ..] => &["prefer", "proxy-"],
        [b'r', ..] => &["referer", "remote-", "rndr-id"],
        [b's', ..] => &["sec-", "ssl-client-", "surrogate-"],
        [b't', ..] => &[
            "tailscale-",
            "te",
            "total-route-time",
            "trailer",
            "transfer-encoding",
        ],
        [b'u', ..] => &["upgrade", "upgrade-insecure-requests"],
        [b'v', ..] => &["via"],
        [b'w', ..] => &["was-default-hostname", "wl-proxy-"],
        _ => &[],
    }
}

/// The same for names that begin with `x-`, by the byte after that.
fn extension_like(third: u8) -> &'static [&'static str] {
    match third {
        b'a' => &[
            "x-akamai-",
            "x-alicdn-",
            "x-amz-cf-",
            "x-amzn-",
            "x-api-key",
            "x-appengine-",
            "x-appgw-",
            "x-appservice-",
            "x-arr-",
            "x-auth-request-",
            "x-authentik-",
            "x-azure-",
        ],
        b'b' => &["x-bluecoat-"],
        b'c' => &[
            "x-cdn-",
            "x-client-cert",
            "x-cloud-trace-context",
            "x-cluster-",
            "x-consumer-",
            "x-credential-",
        ],
        b'd' => &["x-do-"],
        b'e' => &["x-ec-", "x-edge-", "x-envoy-"],
        b'f' => &["x-fastly-", "x-fd-", "x-forwarded", "x-forwarded-"],
        b'g' => &[
            "x-goog-api-key",
            "x-goog-authenticated-user-",
            "x-goog-iap-",
        ],
        b'h' => &["x-heroku-", "x-http-method", "x-http-method-override"],
        b'i' => &["x-iinfo", "x-istio-"],
        b'k' => &["x-keypool-", "x-kong-"],
        b'm' => &[
            "x-method-override",
            "x-middleware-",
            "x-ms-client-principal",
            "x-ms-client-principal-",
            "x-ms-token-",
        ],
        b'n' => &["x-netlify-", "x-nf-", "x-nginx-"],
        b'o' => &["x-original-", "x-originating-"],
        b'p' => &["x-proxy-", "x-proxyuser-"],
        b'q' => &["x-queue-start"],
        b'r' => &[
            "x-railway-",
            "x-real-",
            "x-remote-",
            "x-render-",
            "x-request-start",
        ],
        b's' => &[
            "x-scheme",
            "x-serverless-authorization",
            "x-ssl-",
            "x-sucuri-",
        ],
        b't' => &["x-tencent-", "x-timer", "x-traefik-"],
        b'u' => &["x-url-scheme"],
        b'v' => &["x-varnish", "x-vercel-"],
        b'w' => &["x-waws-"],
        _ => &[],
    }
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
            // Whether a page may read a response is decided here, not by the provider.
            || text.starts_with("access-control-")
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

/// Keeps a browser from running a response as a page, if it could take it for one: the dashboard has the same origin.
pub(super) fn disarm_page(headers: &mut HeaderMap) {
    let content_type = headers.get(header::CONTENT_TYPE);
    let essence = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let essence = essence
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    let essence = essence.trim_ascii();
    let may_be_page = match essence.first() {
        None => true,
        Some(_) => {
            let ends = |end: &[u8]| {
                essence.len() >= end.len()
                    && essence[essence.len() - end.len()..].eq_ignore_ascii_case(end)
            };
            ends(b"html") || ends(b"xml")
        }
    };
    if may_be_page {
        let policy = HeaderValue::from_static("sandbox");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        let no_sniffing = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniffing);
    }
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

    fn is_forwarded(name: &str) -> bool {
        let mut client = HeaderMap::new();
        let header = HeaderName::from_bytes(name.as_bytes()).unwrap();
        client.insert(&header, HeaderValue::from_static("v"));
        let openai = keypool_providers::catalogue::find("openai").unwrap();
        let mut headers = forwarded(&client, openai).into_iter();
        headers.any(|(name, value)| *name == header && value == "v")
    }

    #[test]
    fn headers_that_proxies_and_browsers_add_stay_here() {
        for names in [
            // Standards and conventions.
            "Forwarded Via Max-Forwards X-Forwarded-For X-Forwarded-Proto X-Forwarded-Client-Cert X-Real-IP \
             X-Real-Port X-Original-URL X-Original-Forwarded-For X-Originating-IP X-Client-IP \
             X-Cluster-Client-IP WL-Proxy-Client-IP Proxy-Client-IP X-Request-Start X-Scheme",
            // CDNs.
            "CF-Connecting-IP CF-Ray CF-IPCountry CF-Visitor CF-Worker CF-Access-Jwt-Assertion CDN-Loop \
             CDN-RequestId True-Client-IP Akamai-Origin-Hop X-Akamai-Edgescape Fastly-Client-IP Fastly-FF \
             X-Varnish CloudFront-Viewer-Country X-Amz-Cf-Id Incap-Client-IP X-Sucuri-Clientip \
             Ali-Cdn-Real-Ip EO-Connecting-IP",
            // Clouds and hosts.
            "X-Amzn-Trace-Id X-Amzn-Oidc-Data X-Cloud-Trace-Context X-AppEngine-Country \
             X-Goog-Iap-Jwt-Assertion X-Serverless-Authorization X-Azure-ClientIP X-Azure-Ref X-ARR-LOG-ID \
             X-MS-Client-Principal-Name Fly-Client-IP Fly-Region X-Vercel-IP-Country X-NF-Request-ID \
             Netlify-Original-Path DO-Connecting-IP Rndr-Id Heroku-Session X-Railway-Edge",
            // Service meshes, gateways and login proxies.
            "X-Envoy-External-Address X-Kong-Request-Id X-Consumer-Username L5d-Dst-Override \
             X-Auth-Request-Email Remote-User Tailscale-User-Login SSL-Client-Subject-DN",
            // Browsers.
            "Origin Referer Cookie Sec-Fetch-Site Sec-CH-UA Access-Control-Request-Method",
            // Another call than the one that was checked.
            "X-HTTP-Method-Override Expect Prefer",
        ] {
            for name in names.split_ascii_whitespace() {
                assert!(!is_forwarded(name), "{name}");
            }
        }
    }

    #[test]
    fn headers_of_the_call_itself_are_forwarded() {
        for name in [
            "Accept",
            "Accept-Language",
            "Content-Type",
            "User-Agent",
            "Idempotency-Key",
            "Anthropic-Version",
            "Anthropic-Beta",
            "OpenAI-Beta",
            "X-Stainless-Lang",
            "X-Client-Request-Id",
            "X-Goog-Api-Client",
            "X-Goog-Upload-Command",
            "HTTP-Referer",
            "X-Title",
            "X-DashScope-SSE",
            "Traceparent",
            "X-Request-Id",
            "X-Session-Id",
            "Cfx",
            "Viable",
            "Forward",
            "X-Forwardable",
            "X-Trip",
        ] {
            assert!(is_forwarded(name), "{name}");
        }
    }

    #[test]
    fn headers_that_select_an_account_stay_here() {
        for (provider, name) in [
            ("openai", "openai-organization"),
            ("groq", "openai-project"),
            ("openai-compatible", "openai-organization"),
            ("anthropic", "anthropic-workspace-id"),
            ("gemini", "x-goog-user-project"),
            ("ark", "x-project-name"),
            ("tavily", "x-tavily-orgid"),
            ("tavily", "x-project-id"),
        ] {
            let mut client = HeaderMap::new();
            client.insert(name, HeaderValue::from_static("v"));
            let dialect = keypool_providers::catalogue::find(provider).unwrap();
            assert_eq!(forwarded(&client, dialect).len(), 1, "{provider}: {name}");
        }
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
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "*"),
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
