//! Calls to providers: directly or through a proxy, over HTTP/1.1 with one request at a time on a connection, or over
//! HTTP/2 with many. Connections are kept for later requests.
//!
//! Nothing here knows keys or fault classes; retrying is the caller's decision. An HTTP/1.1 connection is kept only after
//! its whole response was read.

mod body;
mod connect;
mod error;
mod http1;
mod http2;
mod idle;
mod once;
mod proxy;
mod request;
mod request_body;
mod tls;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::ProxyUrl;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::telemetry::Telemetry;

pub(crate) use body::UpstreamBody;
use connect::{Connector, NewConnection};
use error::Resend;
pub(crate) use error::{ConnectionError, ErrorKind, UpstreamError};
use idle::{Carrier, Destination, IdleConnections};
pub(crate) use once::Unread;
pub(crate) use request::UpstreamRequest;
pub(crate) use request_body::RequestBody;

/// Maximum size of a response head, in bytes.
const MAX_HEAD: usize = 256 * 1024;

/// A connection to a provider or to a proxy, the latter with or without TLS.
type Socket = Either<TcpStream, TlsStream<TcpStream>>;

/// How long a call waits for a connection that another call is opening and that may serve both.
const MAX_WAIT_FOR_SHARED: Duration = Duration::from_secs(1);

/// If a reused connection breaks within this time after a request was sent, the provider had closed it before the request
/// arrived. If it breaks later, the call may have run.
const STALE_WITHIN: Duration = Duration::from_secs(2);

/// All connections to providers.
pub(crate) struct Upstream {
    connector: Connector,
    idle: Arc<IdleConnections>,
}

/// Where a call goes, and through which proxy.
struct Peer<'a> {
    base_url: &'a BaseUrl,
    proxy: Option<&'a ProxyUrl>,
}

/// Builds a request. `None`: the configuration allowed a value that no request can carry.
pub(crate) type BuildRequest<'a> = &'a (dyn Fn() -> Option<UpstreamRequest<'a>> + Sync);

impl Peer<'_> {
    fn destination(&self) -> Destination {
        Destination {
            origin: Arc::clone(self.base_url.origin()),
            proxy: self.proxy.cloned(),
        }
    }

    /// Whether the proxy receives the request itself and forwards it, instead of opening a tunnel.
    fn uses_absolute_form(&self) -> bool {
        !self.base_url.is_https() && self.proxy.is_some_and(|proxy| proxy.scheme().is_http())
    }

    /// The provider's host (an IPv6 address without brackets) and port.
    fn host_and_port(&self) -> (&str, u16) {
        let authority = self.base_url.authority();
        let default = if self.base_url.is_https() { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
            _ => (&**authority, default),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

impl Upstream {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self {
            connector: Connector::new(telemetry),
            idle: Arc::new(IdleConnections::default()),
        }
    }

    /// Sends one request and returns its response as soon as the head has arrived. `request` builds it, a second time if a
    /// reused connection turns out to be closed. `repeatable`: the request may be resent even if it was written to that
    /// connection.
    pub(crate) async fn send(
        &self,
        base_url: &BaseUrl,
        proxy: Option<&ProxyUrl>,
        request: BuildRequest<'_>,
        connect_timeout: Duration,
        repeatable: bool,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let peer = Peer { base_url, proxy };
        let forward_proxy = proxy.filter(|_| peer.uses_absolute_form());
        let build = || {
            let request = request()?;
            Some(match forward_proxy {
                Some(proxy) => request.for_proxy(base_url.authority(), proxy::credentials(proxy)),
                None => request,
            })
        };
        let response = self
            .exchange(&peer, &build, connect_timeout, repeatable)
            .await?;
        match forward_proxy {
            Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(UpstreamError::unsent(ErrorKind::Connect {
                    source: proxy::credentials_rejected(proxy),
                    limit: connect_timeout,
                }))
            }
            _ => Ok(response),
        }
    }

    async fn exchange(
        &self,
        peer: &Peer<'_>,
        build: BuildRequest<'_>,
        connect_timeout: Duration,
        repeatable: bool,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let destination = peer.destination();
        let unsendable = || UpstreamError::unsent(ErrorKind::Unsendable);
        let request = build().ok_or_else(unsendable)?;
        let (carrier, reused) = match self.idle.take(&destination) {
            Some(carrier) => (carrier, true),
            None => (self.open(peer, &destination, connect_timeout).await?, false),
        };
        let error = match self.send_on(carrier, &destination, request, reused).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match error.resend {
            Resend::Always => {}
            Resend::IfRepeatable if repeatable => {}
            Resend::IfRepeatable | Resend::Never => return Err(error),
        }
        let request = build().ok_or_else(unsendable)?;
        let carrier = self.open(peer, &destination, connect_timeout).await?;
        self.send_on(carrier, &destination, request, false).await
    }

    /// Opens a connection, or, with HTTP/2, a stream of one that another request opened meanwhile.
    ///
    /// Boxed: the future is large and rarely needed, and would make every call larger.
    fn open<'a>(
        &'a self,
        peer: &'a Peer<'_>,
        destination: &'a Destination,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Carrier, UpstreamError>> + Send + 'a>> {
        Box::pin(self.open_or_share(peer, destination, limit))
    }

    async fn open_or_share(
        &self,
        peer: &Peer<'_>,
        destination: &Destination,
        limit: Duration,
    ) -> Result<Carrier, UpstreamError> {
        let is_https = peer.base_url.is_https();
        let mut permit = None;
        if is_https && let Some(lock) = self.idle.connect_lock(destination) {
            // A handshake that hangs must not hold up calls that could open a connection of their own.
            let max_wait = (limit / 4).min(MAX_WAIT_FOR_SHARED);
            if let Ok(guard) = timeout(max_wait, lock.lock_owned()).await {
                if let Some(stream) = self.idle.reserve_stream(destination) {
                    return Ok(Carrier::Http2(stream));
                }
                // The previous holder may have found that the provider speaks HTTP/1.1 only.
                permit = self.idle.connect_lock(destination).map(|_| guard);
            }
        }
        // The limit starts only now: waiting for other calls does not count against the provider.
        let by = Instant::now() + limit;
        match self.connector.connect(peer, by, limit).await? {
            NewConnection::Http1(connection) => {
                if is_https {
                    self.idle.record_http1(destination);
                }
                Ok(Carrier::Http1(connection))
            }
            NewConnection::Http2(connection) => {
                let stream = connection.reserve_stream(false);
                self.idle.share(destination.clone(), connection, permit);
                let closed = || {
                    UpstreamError::unsent(ErrorKind::Connect {
                        source: std::io::ErrorKind::ConnectionReset.into(),
                        limit,
                    })
                };
                stream.map(Carrier::Http2).ok_or_else(closed)
            }
        }
    }

    async fn send_on(
        &self,
        carrier: Carrier,
        destination: &Destination,
        request: UpstreamRequest<'_>,
        reused: bool,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let response = match carrier {
            Carrier::Http1(mut http1) => {
                let began = Instant::now();
                http1.begin(request);
                let response = http1.response().await.map_err(|error| {
                    let is_stale = !http1.response_begun && began.elapsed() < STALE_WITHIN;
                    UpstreamError {
                        kind: ErrorKind::NoResponse(error),
                        may_have_run: http1.request_begun,
                        resend: match reused {
                            true if !http1.request_begun => Resend::Always,
                            true if is_stale => Resend::IfRepeatable,
                            _ => Resend::Never,
                        },
                    }
                })?;
                let idle = Arc::clone(&self.idle);
                response.map(|()| UpstreamBody::of_http1(http1, destination.clone(), idle))
            }
            Carrier::Http2(mut stream) => {
                let response = stream.send(request).await?;
                response.map(|body| UpstreamBody::of_http2(body, stream))
            }
        };
        Ok(as_http1(response))
    }
}

/// The response in the form for an HTTP/1.1 client.
fn as_http1<B>(mut response: Response<B>) -> Response<B> {
    *response.version_mut() = Version::HTTP_11;
    // With both headers, the length does not count (RFC 9112 §6.3), and would cut the body short downstream.
    if response.headers().contains_key(TRANSFER_ENCODING) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

/// How a response says that its body is compressed; empty if it says nothing.
pub(crate) fn content_encoding(headers: &HeaderMap) -> &[u8] {
    headers
        .get(CONTENT_ENCODING)
        .map_or(&b""[..], HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_host_and_port_of_the_provider() {
        for (url, expect) in [
            ("https://api.openai.com/v1", ("api.openai.com", 443)),
            ("http://api.openai.com/v1", ("api.openai.com", 80)),
            ("https://127.0.0.1:9000", ("127.0.0.1", 9000)),
            ("https://[::1]:9000", ("::1", 9000)),
            ("https://[::1]", ("::1", 443)),
        ] {
            let base_url = url.parse().unwrap();
            let peer = Peer {
                base_url: &base_url,
                proxy: None,
            };
            assert_eq!(peer.host_and_port(), expect, "{url}");
        }
    }
}
