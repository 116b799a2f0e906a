//! One request to addresses that the caller has chosen and checked: over a connection of its own, without a proxy, and without
//! following a redirect.

use std::future::poll_fn;
use std::net::SocketAddr;

use http::StatusCode;
use keypool_core::base_url::BaseUrl;

use super::http1::Http1;
use super::{BuildRequest, ErrorKind, Socket, Upstream, UpstreamError};

/// The rest of a response that nobody needs.
pub(crate) struct Unread(Box<Http1<Socket>>);

impl Upstream {
    /// Sends a request to the first of these addresses that accepts a connection. The caller sets the deadline. TLS checks the
    /// certificate for the host of `base_url`.
    pub(crate) async fn send_once(
        &self,
        base_url: &BaseUrl,
        addresses: &[SocketAddr],
        request: BuildRequest<'_>,
    ) -> Result<(StatusCode, Unread), UpstreamError> {
        let request = request().ok_or_else(|| UpstreamError::unsent(ErrorKind::Unsendable))?;
        let mut http1 = self.connector.connect_to(base_url, addresses).await?;
        http1.begin(request);
        let response = http1.response().await;
        let response =
            response.map_err(|error| UpstreamError::sent(ErrorKind::NoResponse(error)))?;
        Ok((response.status(), Unread(http1)))
    }
}

impl Unread {
    /// Reads the body up to this number of bytes, so that the connection is not closed while the other side writes.
    pub(crate) async fn drain(mut self, most: usize) {
        let mut read = 0;
        while let Some(Ok(data)) = poll_fn(|cx| self.0.poll_data(cx)).await {
            read += data.len();
            if read >= most {
                return;
            }
        }
    }
}
