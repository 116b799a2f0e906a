//! Calls to providers: directly or through a proxy, over HTTP/1.1 with one request on one connection at a time, or
//! over HTTP/2 with many; connections are kept for the next.
//!
//! Nothing here knows keys or classes; retrying is the caller's decision. A connection of HTTP/1.1 is kept only
//! after the whole answer was read from it.

mod body;
mod connect;
mod error;
mod http1;
mod http2;
mod idle;
mod proxy;
mod request;
mod request_body;
mod tls;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Response, StatusCode, Version};
use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::ProxyUrl;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::telemetry::Telemetry;

pub(crate) use body::UpstreamBody;
use connect::{Connector, Opened};
use error::Resend;
pub(crate) use error::{ConnectionError, ErrorKind, UpstreamError};
use idle::{Carrier, Destination, IdleConnections};
pub(crate) use request::UpstreamRequest;
pub(crate) use request_body::RequestBody;

/// The longest answer head taken from a provider, in bytes.
const MAX_HEAD: usize = 256 * 1024;

/// A connection to the provider or to a proxy, the latter with or without TLS.
type Socket = Either<TcpStream, TlsStream<TcpStream>>;

/// A connection that another call opens may serve this one too; it is waited for so long, and no longer.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(1);

/// A kept connection that breaks so soon after a request was sent was closed before it came. One that breaks later
/// broke in the call.
const STALE_WITHIN: Duration = Duration::from_secs(2);

/// All connections to providers.
pub(crate) struct Upstream {
    connector: Connector,
    idle: Arc<IdleConnections>,
}

/// Where a call goes, and by which way.
struct Peer<'a> {
    base_url: &'a BaseUrl,
    proxy: Option<&'a ProxyUrl>,
}

/// Puts a request together. `None`: the configuration let something pass that cannot be sent.
pub(crate) type BuildRequest<'a> = &'a (dyn Fn() -> Option<UpstreamRequest<'a>> + Sync);

impl Peer<'_> {
    fn destination(&self) -> Destination {
        Destination {
            origin: Arc::clone(self.base_url.origin()),
            proxy: self.proxy.cloned(),
        }
    }

    /// Whether the proxy gets the request itself, and not a way to the provider.
    fn is_forwarded(&self) -> bool {
        !self.base_url.is_https() && self.proxy.is_some_and(|proxy| proxy.scheme().is_http())
    }

    /// The provider's host, an IPv6 address without brackets, and port.
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

    /// Sends one request and returns its answer as soon as the head is there. `request` puts it together, a second
    /// time where a kept connection turns out to be closed; `repeatable`: also if it was written to that.
    pub(crate) async fn send(
        &self,
        base_url: &BaseUrl,
        proxy: Option<&ProxyUrl>,
        request: BuildRequest<'_>,
        connect_timeout: Duration,
        repeatable: bool,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let peer = Peer { base_url, proxy };
        let forwarder = proxy.filter(|_| peer.is_forwarded());
        let build = || {
            let request = request()?;
            Some(match forwarder {
                Some(proxy) => request.for_proxy(base_url.authority(), proxy::credentials(proxy)),
                None => request,
            })
        };
        let answer = self
            .exchange(&peer, &build, connect_timeout, repeatable)
            .await?;
        match forwarder {
            Some(proxy) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(UpstreamError::unsent(ErrorKind::Connect {
                    source: proxy::asks_for_credentials(proxy),
                    limit: connect_timeout,
                }))
            }
            _ => Ok(answer),
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
        let (carrier, kept) = match self.idle.take(&destination) {
            Some(carrier) => (carrier, true),
            None => (self.open(peer, &destination, connect_timeout).await?, false),
        };
        let error = match self.send_on(carrier, &destination, request, kept).await {
            Ok(answer) => return Ok(answer),
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

    /// A new connection; or, with HTTP/2, a stream of one that another request opened meanwhile.
    ///
    /// Boxed: it is large and seldom needed, and would make every call larger.
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
        if is_https && let Some(opening) = self.idle.opening(destination) {
            let patience = (limit / 4).min(WAIT_FOR_OTHERS);
            // A handshake that hangs must not hold up those that could have one of their own.
            if let Ok(mine) = timeout(patience, opening.lock_owned()).await {
                if let Some(stream) = self.idle.stream(destination) {
                    return Ok(Carrier::Http2(stream));
                }
                // Whoever had the permit before may have found that each request needs a connection of its own.
                permit = self.idle.opening(destination).map(|_| mine);
            }
        }
        // Begun only now: what was waited for others is not the provider's time.
        let by = Instant::now() + limit;
        match self.connector.connect(peer, by, limit).await? {
            Opened::Http1(connection) => {
                if is_https {
                    self.idle.note_http1(destination);
                }
                Ok(Carrier::Http1(connection))
            }
            Opened::Http2(connection) => {
                let stream = connection.stream(false);
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
        kept: bool,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let answer = match carrier {
            Carrier::Http1(mut http1) => {
                let began = Instant::now();
                http1.begin(request);
                let answer = http1.answer().await.map_err(|error| {
                    let is_stale = !http1.is_answered() && began.elapsed() < STALE_WITHIN;
                    UpstreamError {
                        kind: ErrorKind::NoResponse(error),
                        may_have_run: http1.has_begun(),
                        resend: match kept {
                            true if !http1.has_begun() => Resend::Always,
                            true if is_stale => Resend::IfRepeatable,
                            _ => Resend::Never,
                        },
                    }
                })?;
                let idle = Arc::clone(&self.idle);
                answer.map(|()| UpstreamBody::of_http1(http1, destination.clone(), idle))
            }
            Carrier::Http2(mut stream) => {
                let answer = stream.send(request).await?;
                answer.map(|body| UpstreamBody::of_http2(body, stream))
            }
        };
        Ok(as_http1(answer))
    }
}

/// An answer as a client of HTTP/1.1 may see it.
fn as_http1<B>(mut answer: Response<B>) -> Response<B> {
    *answer.version_mut() = Version::HTTP_11;
    // Of the two the length does not count (RFC 9112 §6.3), and would cut the body short further on.
    if answer.headers().contains_key(TRANSFER_ENCODING) {
        answer.headers_mut().remove(CONTENT_LENGTH);
    }
    answer
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
