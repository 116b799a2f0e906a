//! The way through an outbound proxy: a tunnel by `CONNECT` or SOCKS 5, or, for http, requests with absolute URLs.
//!
//! Nothing here may show the proxy's user and password: errors name it by scheme, host and port.

use std::error::Error;
use std::io;
use std::net::IpAddr;

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderValue, Request, Uri};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use keypool_core::proxy_url::{ProxyScheme, ProxyUrl};
use tower::{ServiceExt, service_fn};

use super::{Socket, Target};

/// The proxy's address and credentials, as the library reads them.
fn intercept(proxy: &ProxyUrl) -> Option<Intercept> {
    let matcher = Matcher::builder().all(proxy.expose()).build();
    matcher.intercept(&Uri::from_static("http://any"))
}

/// Where to connect: the proxy's scheme, host and port, without credentials.
pub(super) fn address(proxy: &ProxyUrl) -> Result<Uri, io::Error> {
    proxy.to_string().parse().map_err(io::Error::other)
}

/// Asks the proxy at the other end of `stream` for a connection to the target.
pub(super) async fn tunnel(
    stream: Socket,
    target: &Target<'_>,
    proxy: &ProxyUrl,
) -> io::Result<Socket> {
    let (host, port) = target.host_and_port();
    let opened = match proxy.scheme() {
        ProxyScheme::Http | ProxyScheme::Https => by_connect(stream, proxy, host, port).await,
        ProxyScheme::Socks5 => {
            let address = look_up(host, port).await?.to_string();
            by_socks(stream, proxy, &address, port).await
        }
        ProxyScheme::Socks5h => by_socks(stream, proxy, host, port).await,
    };
    opened.map_err(|error| {
        failed(
            proxy,
            &format!("opened no tunnel to {host}:{port}, check its user, password and rules"),
            error,
        )
    })
}

type Opened = Result<Socket, Cause>;

async fn by_connect(stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Opened {
    let (to, connector) = (target_uri(host, port)?, once(stream));
    let mut tunnel = Tunnel::new(Uri::from_static("http://any"), connector);
    if let Some(auth) = intercept(proxy).and_then(|found| found.basic_auth().cloned()) {
        tunnel = tunnel.with_auth(auth);
    }
    Ok(tunnel.oneshot(to).await?.into_inner())
}

async fn by_socks(stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Opened {
    let (to, connector) = (target_uri(host, port)?, once(stream));
    let mut socks = SocksV5::new(Uri::from_static("http://any"), connector);
    let found = intercept(proxy);
    if let Some((user, password)) = found.as_ref().and_then(Intercept::raw_auth) {
        socks = socks.with_auth(user.to_owned(), password.to_owned());
    }
    Ok(socks.oneshot(to).await?.into_inner())
}

/// A connector that has connected already.
fn once(
    stream: Socket,
) -> impl tower::Service<Uri, Response = TokioIo<Socket>, Error = io::Error, Future: Send + 'static>
{
    let mut stream = Some(stream);
    service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    })
}

fn target_uri(host: &str, port: u16) -> Result<Uri, http::Error> {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Uri::builder()
        .scheme("http")
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()
}

async fn look_up(host: &str, port: u16) -> io::Result<IpAddr> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    let first = found.next().map(|address| address.ip());
    first.ok_or_else(|| io::Error::other(format!("no address for {host}")))
}

/// Puts a request for an http provider into the form that proxies take: with the whole URL, and our credentials there.
pub(super) fn address_to_proxy<B>(request: &mut Request<B>, target: &Target<'_>, proxy: &ProxyUrl) {
    let path = request.uri().path_and_query().cloned();
    let whole = Uri::builder()
        .scheme("http")
        .authority(&**target.base_url.authority())
        .path_and_query(path.unwrap_or(http::uri::PathAndQuery::from_static("/")))
        .build();
    if let Ok(uri) = whole {
        *request.uri_mut() = uri;
    }
    let credentials: Option<HeaderValue> =
        intercept(proxy).and_then(|found| found.basic_auth().cloned());
    if let Some(value) = credentials {
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
}

/// The proxy answered 407 to a request with an absolute URL.
pub(super) fn asks_for_credentials(proxy: &ProxyUrl) -> io::Error {
    io::Error::other(format!(
        "the proxy {proxy} asks for other credentials (407): set user and password in its URL"
    ))
}

/// The proxy failed at `what`.
pub(super) fn failed(proxy: &ProxyUrl, what: &str, error: impl Into<Cause>) -> io::Error {
    let error = error.into();
    explained(
        format!("the proxy {proxy} {what}: {}", chain(&*error)),
        error,
    )
}

type Cause = Box<dyn Error + Send + Sync>;

/// An error that says all in one line; what caused it can still be looked at.
pub(super) fn explained(text: String, source: impl Into<Cause>) -> io::Error {
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Explained {
        text: String,
        source: Cause,
    }
    let source = source.into();
    io::Error::other(Explained { text, source })
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = next.source();
    }
    text
}
