//! Opening a connection: name, TCP, proxy, TLS, and HTTP/1.1 or HTTP/2 as the provider chooses.

use std::io;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use keypool_core::proxy_url::{ProxyScheme, ProxyUrl};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tower::ServiceExt;

use super::http1::Http1;
use super::http2::{self, Http2};
use super::proxy::{self, chain};
use super::{SendError, Socket, Target, tls};

pub(super) struct Connector {
    /// Names, and both address families side by side (RFC 8305).
    tcp: HttpConnector,
    tls: TlsConnector,
    proxy_tls: TlsConnector,
}

/// A new connection.
pub(super) enum Opened {
    /// It takes one request at a time.
    Http1(Box<Http1>),
    /// It takes many.
    Http2(Http2),
}

impl Connector {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let (tls, proxy_tls) = tls::connectors();
        Self {
            tcp,
            tls,
            proxy_tls,
        }
    }

    /// A connection that is ready for a request.
    pub(super) async fn connect(
        &self,
        target: &Target<'_>,
        by: Instant,
        limit: Duration,
    ) -> Result<Opened, SendError> {
        timeout_at(by, self.open(target))
            .await
            .map_err(|_| SendError::ConnectTimeout(limit))?
            .map_err(SendError::Connect)
    }

    async fn open(&self, target: &Target<'_>) -> io::Result<Opened> {
        let stream = match target.proxy {
            None => {
                let uri = target.base_url.origin().parse().map_err(io::Error::other)?;
                Either::Left(self.tcp(uri).await?)
            }
            Some(proxy) if target.is_forwarded() => self.reach(proxy).await?,
            Some(proxy) => proxy::tunnel(self.reach(proxy).await?, target, proxy).await?,
        };
        if !target.base_url.is_https() {
            return Ok(Opened::Http1(Box::new(Http1::new(Either::Left(stream)))));
        }
        let name = server_name(target.host_and_port().0)?;
        let stream = self.tls.connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(tls::HTTP_2) {
            let line = Either::Right(Box::new(stream));
            return Ok(Opened::Http1(Box::new(Http1::new(line))));
        }
        let authority: Authority = target
            .base_url
            .authority()
            .parse()
            .map_err(io::Error::other)?;
        let opened = http2::handshake(stream, authority).await?;
        Ok(Opened::Http2(opened))
    }

    async fn tcp(&self, uri: Uri) -> io::Result<TcpStream> {
        let connecting = self.tcp.clone().oneshot(uri);
        let connected = connecting.await;
        let stream = connected.map_err(|error| proxy::explained(chain(&error), error))?;
        Ok(stream.into_inner())
    }

    /// A connection to the proxy itself.
    async fn reach(&self, proxy: &ProxyUrl) -> io::Result<Socket> {
        let unreachable = |error: io::Error| proxy::failed(proxy, "cannot be reached", error);
        let stream = self.tcp(proxy::address(proxy)?).await;
        let stream = stream.map_err(unreachable)?;
        if proxy.scheme() != ProxyScheme::Https {
            return Ok(Either::Left(stream));
        }
        let name = server_name(proxy.host())?;
        let connected = self.proxy_tls.connect(name, stream).await;
        connected.map(Either::Right).map_err(unreachable)
    }
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}
