//! Opens connections: name lookup, TCP, proxy, TLS, and HTTP/1.1 or HTTP/2 as the provider chooses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::{ProxyScheme, ProxyUrl};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tower::ServiceExt;

use super::http1::Http1;
use super::http2::{self, Http2};
use super::proxy;
use super::{ErrorKind, Peer, Socket, UpstreamError, tls};
use crate::telemetry::Telemetry;

/// How long one of several addresses may take to accept a connection.
const MAX_EACH: Duration = Duration::from_secs(3);
/// Maximum number of addresses of one name that a SOCKS proxy is asked for.
const MAX_ADDRESSES: usize = 8;

pub(super) struct Connector {
    /// Looks up names and races both address families (RFC 8305).
    tcp: HttpConnector,
    tls: TlsConnector,
    /// For proxies, and for requests on a connection of their own: HTTP/1.1 only.
    http1_tls: TlsConnector,
}

/// A new connection.
pub(super) enum NewConnection {
    /// One request at a time.
    Http1(Box<Http1>),
    /// Many requests at a time.
    Http2(Http2),
}

impl Connector {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let (tls, http1_tls) = tls::connectors(telemetry);
        Self {
            tcp,
            tls,
            http1_tls,
        }
    }

    /// Opens a connection that is ready for a request.
    pub(super) async fn connect(
        &self,
        peer: &Peer<'_>,
        by: Instant,
        limit: Duration,
    ) -> Result<NewConnection, UpstreamError> {
        let timeout = || UpstreamError::unsent(ErrorKind::ConnectTimeout(limit));
        let failed = |source| UpstreamError::unsent(ErrorKind::Connect { source, limit });
        let connected = match peer.proxy {
            None => timeout_at(by, self.direct(peer))
                .await
                .map_err(|_| timeout())?,
            Some(proxy) => {
                self.through_proxy(proxy, peer, TimeLimit { by, limit })
                    .await
            }
        };
        let stream = connected.map_err(failed)?;
        timeout_at(by, self.start_http(stream, peer))
            .await
            .map_err(|_| match slow_tunnel(peer, limit) {
                Some(error) => failed(error),
                None => timeout(),
            })?
            .map_err(failed)
    }

    /// Opens a connection to the first of these addresses that accepts one. The caller sets the deadline.
    pub(super) async fn connect_to(
        &self,
        base_url: &BaseUrl,
        addresses: &[SocketAddr],
    ) -> Result<Box<Http1<Socket>>, UpstreamError> {
        let mut failed = UpstreamError::unsent(ErrorKind::ConnectTimeout(MAX_EACH));
        for address in addresses {
            let connecting = self.connect_to_one(base_url, *address);
            match timeout(MAX_EACH, connecting).await {
                Ok(Ok(stream)) => return Ok(Box::new(Http1::new(stream))),
                Ok(Err(source)) => {
                    let limit = MAX_EACH;
                    failed = UpstreamError::unsent(ErrorKind::Connect { source, limit });
                }
                Err(_) => {}
            }
        }
        Err(failed)
    }

    async fn connect_to_one(&self, base_url: &BaseUrl, address: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !base_url.is_https() {
            return Ok(Either::Left(stream));
        }
        let peer = Peer {
            base_url,
            proxy: None,
        };
        let name = server_name(peer.host_and_port().0)?;
        self.http1_tls
            .connect(name, stream)
            .await
            .map(Either::Right)
    }

    async fn direct(&self, peer: &Peer<'_>) -> io::Result<Socket> {
        let uri = peer.base_url.origin().parse().map_err(io::Error::other)?;
        self.tcp(uri).await.map(Either::Left)
    }

    /// Connects through a proxy. A timeout on the way is reported as the proxy's.
    async fn through_proxy(
        &self,
        proxy: &ProxyUrl,
        peer: &Peer<'_>,
        time: TimeLimit,
    ) -> io::Result<Socket> {
        if peer.uses_absolute_form() {
            return self.connect_to_proxy(proxy, time).await;
        }
        let (host, port) = peer.host_and_port();
        if proxy.scheme() == ProxyScheme::Socks5 {
            let addresses = time.look_up(host, port).await?;
            return self.through_socks(proxy, &addresses, port, time).await;
        }
        let stream = self.connect_to_proxy(proxy, time).await?;
        time.open_tunnel(stream, proxy, host, port).await
    }

    /// Asks the proxy for one address after the other, each over a new connection and with an even share of the time left,
    /// until one connects.
    async fn through_socks(
        &self,
        proxy: &ProxyUrl,
        addresses: &[IpAddr],
        port: u16,
        time: TimeLimit,
    ) -> io::Result<Socket> {
        let mut failed = io::Error::other("the provider's name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            let stream = self.connect_to_proxy(proxy, time).await?;
            let share = match addresses.len() {
                1 => time,
                all => time.share(all - tried),
            };
            let address = address.to_string();
            match share.open_tunnel(stream, proxy, &address, port).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Starts TLS if the provider uses it, and HTTP.
    async fn start_http(&self, stream: Socket, peer: &Peer<'_>) -> io::Result<NewConnection> {
        if !peer.base_url.is_https() {
            return Ok(NewConnection::Http1(Box::new(Http1::new(Either::Left(
                stream,
            )))));
        }
        let name = server_name(peer.host_and_port().0)?;
        let stream = self.tls.connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(tls::HTTP_2) {
            let transport = Either::Right(Box::new(stream));
            return Ok(NewConnection::Http1(Box::new(Http1::new(transport))));
        }
        let authority: Authority = peer
            .base_url
            .authority()
            .parse()
            .map_err(io::Error::other)?;
        let opened = http2::handshake(stream, authority).await?;
        Ok(NewConnection::Http2(opened))
    }

    async fn tcp(&self, uri: Uri) -> io::Result<TcpStream> {
        let connecting = self.tcp.clone().oneshot(uri);
        let connected = connecting.await;
        let stream =
            connected.map_err(|error| proxy::with_message(proxy::error_chain(&error), error))?;
        Ok(stream.into_inner())
    }

    /// Opens a connection to the proxy itself.
    async fn connect_to_proxy(&self, proxy: &ProxyUrl, time: TimeLimit) -> io::Result<Socket> {
        let unreachable = |error: io::Error| proxy::failed(proxy, "cannot be reached", error);
        let uri = proxy::address(proxy)?;
        let connecting = async { self.tcp(uri).await.map_err(unreachable) };
        let stream = time
            .proxy_step(proxy, "accepted no connection", connecting)
            .await?;
        if proxy.scheme() != ProxyScheme::Https {
            return Ok(Either::Left(stream));
        }
        let name = server_name(proxy.host())?;
        let handshake = async {
            let connected = self.http1_tls.connect(name, stream).await;
            connected.map(Either::Right).map_err(unreachable)
        };
        time.proxy_step(proxy, "began no TLS", handshake).await
    }
}

/// A deadline, and the duration that it was computed from, for error messages.
#[derive(Clone, Copy)]
struct TimeLimit {
    by: Instant,
    limit: Duration,
}

impl TimeLimit {
    /// Waits for a step of the proxy. A timeout is reported as the proxy's.
    async fn proxy_step<T>(
        self,
        proxy: &ProxyUrl,
        not_done: &str,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let late = |_| Err(proxy::timed_out(proxy, not_done, self.limit));
        timeout_at(self.by, step).await.unwrap_or_else(late)
    }

    async fn open_tunnel(
        self,
        stream: Socket,
        proxy: &ProxyUrl,
        host: &str,
        port: u16,
    ) -> io::Result<Socket> {
        let to = proxy::authority(host, port);
        let opening = proxy::open_tunnel(stream, proxy, host, port);
        self.proxy_step(proxy, &format!("opened no tunnel to {to}"), opening)
            .await
    }

    async fn look_up(self, host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
        let found = timeout_at(self.by, tokio::net::lookup_host((host, port))).await;
        let late = |_| {
            let text = format!("no address for {host} within {:?}", self.limit);
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        let found = found.map_err(late)??;
        Ok(alternate_families(found.map(|address| address.ip())))
    }

    /// An even share of the time left for one of `parts` steps, in whole milliseconds.
    fn share(self, parts: usize) -> Self {
        let now = Instant::now();
        let left = self.by.saturating_duration_since(now).as_millis();
        let share = left / parts.max(1) as u128;
        let limit = Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX));
        Self {
            by: now + limit,
            limit,
        }
    }
}

/// The addresses in their order, with the two families alternating (RFC 8305 §4), in case one family is unreachable.
fn alternate_families(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let all: Vec<IpAddr> = addresses.collect();
    let preferred = all.first().is_some_and(IpAddr::is_ipv6);
    let (one, other): (Vec<IpAddr>, Vec<IpAddr>) = all
        .into_iter()
        .partition(|address| address.is_ipv6() == preferred);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let pairs = std::iter::from_fn(|| match [one.next(), other.next()] {
        [None, None] => None,
        pair => Some(pair),
    });
    pairs.flatten().flatten().take(MAX_ADDRESSES).collect()
}

/// The error if TLS or HTTP does not start in time through a proxy's tunnel: it names the proxy. `None` without a tunnel.
fn slow_tunnel(peer: &Peer<'_>, limit: Duration) -> Option<io::Error> {
    let proxy = peer.proxy.filter(|_| peer.base_url.is_https())?;
    let (host, port) = peer.host_and_port();
    let to = proxy::authority(host, port);
    let what = format!("leads to {to}, but TLS did not begin there");
    Some(proxy::timed_out(proxy, &what, limit))
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

#[cfg(test)]
mod tests;
