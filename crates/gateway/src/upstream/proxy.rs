//! The way through an outbound proxy: a tunnel by `CONNECT` or SOCKS 5, or, for http, requests with absolute URLs.
//!
//! Nothing here may show the proxy's user and password: errors name it by scheme, host and port.

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

/// The longest head of an answer to `CONNECT`, in bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// The proxy's address and credentials, as the library reads them.
fn intercept(proxy: &ProxyUrl) -> Option<Intercept> {
    let matcher = Matcher::builder().all(proxy.expose()).build();
    matcher.intercept(&Uri::from_static("http://any"))
}

/// The `Proxy-Authorization` that an http proxy wants to see.
pub(super) fn credentials(proxy: &ProxyUrl) -> Option<HeaderValue> {
    intercept(proxy)?.basic_auth().cloned()
}

/// Where to connect: the proxy's scheme, host and port, without credentials.
pub(super) fn address(proxy: &ProxyUrl) -> Result<Uri, io::Error> {
    proxy.to_string().parse().map_err(io::Error::other)
}

/// Asks the proxy at the other end of `stream` for a connection to `host`: a name, or an address without brackets.
pub(super) async fn tunnel(
    stream: Socket,
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
) -> io::Result<Socket> {
    let opened = match proxy.scheme() {
        ProxyScheme::Http | ProxyScheme::Https => by_connect(stream, proxy, host, port).await,
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => by_socks(stream, proxy, host, port).await,
    };
    opened.map_err(|error| {
        let to = authority(host, port);
        let what = format!("opened no tunnel to {to}, check its user, password and rules");
        failed(proxy, &what, error)
    })
}

type Opened = Result<Socket, Cause>;

async fn by_connect(mut stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Opened {
    let to = authority(host, port);
    let mut asked = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(credentials) = credentials(proxy) {
        asked.extend_from_slice(b"Proxy-Authorization: ");
        asked.extend_from_slice(credentials.as_bytes());
        asked.extend_from_slice(b"\r\n");
    }
    asked.extend_from_slice(b"\r\n");
    stream.write_all(&asked).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let end = loop {
        let known = answer.len().saturating_sub(3);
        if answer.len() > MAX_ANSWER {
            return Err(format!("the head of its answer is longer than {MAX_ANSWER} bytes").into());
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("it closed the connection".into());
        }
        let new = answer[known..].windows(4);
        if let Some(at) = { new }.position(|four| four == b"\r\n\r\n") {
            break known + at + 4;
        }
    };
    match status(&answer) {
        Some(status) if !status.is_success() => Err(format!("it answered {status}").into()),
        // The provider says nothing before it is spoken to.
        Some(_) if end == answer.len() => Ok(stream),
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

async fn by_socks(stream: Socket, proxy: &ProxyUrl, host: &str, port: u16) -> Opened {
    let to = Uri::builder()
        .scheme("http")
        .authority(authority(host, port))
        .path_and_query("/")
        .build()?;
    let mut socks = SocksV5::new(Uri::from_static("http://any"), once(stream));
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

/// The proxy did not do `what` in time, which was `limit`.
pub(super) fn too_slow(proxy: &ProxyUrl, what: &str, limit: Duration) -> io::Error {
    let text = format!("the proxy {proxy} {what} within {limit:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

type Cause = Box<dyn Error + Send + Sync>;

/// An error that says all in one transport; what caused it can still be looked at.
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

/// An error with what caused it, in one transport.
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
