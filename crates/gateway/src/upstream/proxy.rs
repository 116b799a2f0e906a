//! Reaching a provider through an outbound proxy: a `CONNECT` or SOCKS 5 tunnel, or, for http providers, requests with
//! absolute URLs.
//!
//! Nothing here may reveal the proxy's user and password: errors name it by scheme, host and port.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{HeaderValue, StatusCode, Uri};
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use keypool_core::proxy_url::{ProxyScheme, ProxyUrl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{ServiceExt, service_fn};

use super::Socket;

/// Maximum size of the head of a response to `CONNECT`, in bytes.
const MAX_CONNECT_HEAD: usize = 16 * 1024;

/// The proxy's address and credentials, as hyper-util parses them.
fn intercept(proxy: &ProxyUrl) -> Option<Intercept> {
    let matcher = Matcher::builder().all(proxy.expose()).build();
    matcher.intercept(&Uri::from_static("http://any"))
}

/// The `Proxy-Authorization` header for an http proxy.
pub(super) fn credentials(proxy: &ProxyUrl) -> Option<HeaderValue> {
    intercept(proxy)?.basic_auth().cloned()
}

/// The proxy's scheme, host and port, without credentials.
pub(super) fn address(proxy: &ProxyUrl) -> Result<Uri, io::Error> {
    proxy.to_string().parse().map_err(io::Error::other)
}

/// Asks the proxy at the other end of `stream` for a connection to `host`, which is a name or an address without brackets.
pub(super) async fn open_tunnel(
    stream: Socket,
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
) -> io::Result<Socket> {
    let opened = match proxy.scheme() {
        ProxyScheme::Http | ProxyScheme::Https => http_tunnel(stream, proxy, host, port).await,
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => socks_tunnel(stream, proxy, host, port).await,
    };
    opened.map_err(|error| {
        let to = authority(host, port);
        let what = format!("opened no tunnel to {to}, check its user, password and rules");
        failed(proxy, &what, error)
    })
}

type Tunnel = Result<Socket, Cause>;

async fn http_tunnel(mut stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Tunnel {
    let to = authority(host, port);
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(credentials) = credentials(proxy) {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut response = Vec::new();
    let end = loop {
        let searched = response.len().saturating_sub(3);
        if response.len() > MAX_CONNECT_HEAD {
            return Err(
                format!("the head of its answer is longer than {MAX_CONNECT_HEAD} bytes").into(),
            );
        }
        if stream.read_buf(&mut response).await? == 0 {
            return Err("it closed the connection".into());
        }
        let new = response[searched..].windows(4);
        if let Some(at) = { new }.position(|four| four == b"\r\n\r\n") {
            break searched + at + 4;
        }
    };
    match status(&response) {
        Some(status) if !status.is_success() => Err(format!("it answered {status}").into()),
        // The provider sends nothing before it gets a request.
        Some(_) if end == response.len() => Ok(stream),
        _ => Err("its answer is not HTTP/1".into()),
    }
}

fn status(head: &[u8]) -> Option<StatusCode> {
    let versions = [b"HTTP/1.1 ", b"HTTP/1.0 "];
    let rest = versions
        .iter()
        .find_map(|version| head.strip_prefix(*version))?;
    StatusCode::from_bytes(rest.get(..3)?).ok()
}

async fn socks_tunnel(stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Tunnel {
    let to = Uri::builder()
        .scheme("http")
        .authority(authority(host, port))
        .path_and_query("/")
        .build()?;
    let mut socks = SocksV5::new(Uri::from_static("http://any"), connected(stream));
    let found = intercept(proxy);
    if let Some((user, password)) = found.as_ref().and_then(Intercept::raw_auth) {
        socks = socks.with_auth(user.to_owned(), password.to_owned());
    }
    Ok(socks.oneshot(to).await?.into_inner())
}

/// Host and port, an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A connector that returns an open connection.
fn connected(
    stream: Socket,
) -> impl tower::Service<Uri, Response = TokioIo<Socket>, Error = io::Error, Future: Send + 'static>
{
    let mut stream = Some(stream);
    service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    })
}

/// The error of a proxy that responded 407 to a request with an absolute URL.
pub(super) fn credentials_rejected(proxy: &ProxyUrl) -> io::Error {
    io::Error::other(format!(
        "the proxy {proxy} asks for other credentials (407): set user and password in its URL"
    ))
}

/// The error of a proxy that failed at `what`.
pub(super) fn failed(proxy: &ProxyUrl, what: &str, error: impl Into<Cause>) -> io::Error {
    let error = error.into();
    with_message(
        format!("the proxy {proxy} {what}: {}", error_chain(&*error)),
        error,
    )
}

/// The error of a proxy that did not do `what` within `limit`.
pub(super) fn timed_out(proxy: &ProxyUrl, what: &str, limit: Duration) -> io::Error {
    let text = format!("the proxy {proxy} {what} within {limit:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

type Cause = Box<dyn Error + Send + Sync>;

/// An error with a complete message of its own; `source` stays accessible as its cause.
pub(super) fn with_message(text: String, source: impl Into<Cause>) -> io::Error {
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct WithMessage {
        text: String,
        source: Cause,
    }
    let source = source.into();
    io::Error::other(WithMessage { text, source })
}

/// An error and its causes, in one line of text.
pub(super) fn error_chain(error: &(dyn Error + 'static)) -> String {
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
