//! Opening a connection: name, TCP, TLS, HTTP/1.1.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use keypool_core::base_url::BaseUrl;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use super::{Pieces, SendError};

/// The longest answer head taken from a provider, in bytes.
const MAX_HEAD: usize = 256 * 1024;

pub(super) struct Connector {
    /// Names, and both address families side by side (RFC 8305).
    tcp: HttpConnector,
    tls: TlsConnector,
}

impl Connector {
    pub(super) fn new() -> Self {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self {
            tcp,
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// A connection that is ready for a request.
    pub(super) async fn connect(
        &self,
        base_url: &BaseUrl,
        limit: Duration,
    ) -> Result<SendRequest<Pieces>, SendError> {
        let connecting = tokio::time::timeout(limit, self.open(base_url));
        connecting
            .await
            .map_err(|_| SendError::ConnectTimeout(limit))?
            .map_err(SendError::Connect)
    }

    async fn open(&self, base_url: &BaseUrl) -> io::Result<SendRequest<Pieces>> {
        let uri = base_url.origin().parse().map_err(io::Error::other)?;
        let connecting = self.tcp.clone().oneshot(uri);
        let stream = connecting.await.map_err(io::Error::other)?.into_inner();
        if !base_url.is_https() {
            return self.handshake(stream).await;
        }
        let name = ServerName::try_from(host_name(base_url).to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.handshake(self.tls.connect(name, stream).await?).await
    }

    async fn handshake<S>(&self, stream: S) -> io::Result<SendRequest<Pieces>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        drive(connection);
        sender.ready().await.map_err(io::Error::other)?;
        Ok(sender)
    }
}

/// Lets a connection do its work. The task ends with it: when the provider closes it, or when its sender is dropped.
/// What it returns is seen by the call on it as well.
#[expect(
    clippy::disallowed_methods,
    reason = "a kept connection is no work in flight: a shutdown waits for the calls on it, not for its idle end"
)]
fn drive<S>(connection: Connection<TokioIo<S>, Pieces>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move { drop(connection.await) });
}

/// The host for the certificate: without port, an IPv6 address without brackets.
fn host_name(base_url: &BaseUrl) -> &str {
    let authority = base_url.authority();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_host_for_the_certificate() {
        for (url, host) in [
            ("https://api.openai.com/v1", "api.openai.com"),
            ("https://127.0.0.1:9000", "127.0.0.1"),
            ("https://[::1]:9000", "::1"),
            ("https://[::1]", "::1"),
        ] {
            assert_eq!(host_name(&url.parse().unwrap()), host, "{url}");
        }
    }
}
