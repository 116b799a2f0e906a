//! Calls to providers over HTTP/1.1: one request on one connection, connections kept for the next.
//!
//! Nothing here knows keys or classes; retrying is the caller's decision. A connection is kept only after
//! the whole answer was read from it.

mod connect;
mod idle;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use keypool_core::base_url::BaseUrl;

use connect::Connector;
use idle::IdleConnections;

/// All connections to providers.
pub(crate) struct Upstream {
    connector: Connector,
    idle: Arc<IdleConnections>,
}

/// A request body of a few shared pieces; cloning it for another attempt copies nothing.
#[derive(Clone, Default)]
pub(crate) struct Pieces(Vec<Bytes>);

/// An answer's body. When it has been read to its end, its connection is free for the next request.
pub(crate) struct UpstreamBody {
    body: Incoming,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Pieces>,
    origin: Arc<str>,
    idle: Arc<IdleConnections>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No connection: name, TCP or TLS.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// No connection in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The connection broke before an answer came.
    #[error("the connection broke before an answer came: {source}")]
    Broken {
        /// What broke.
        source: hyper::Error,
        /// Nothing of the request was written.
        unsent: bool,
    },
}

impl SendError {
    /// Whether the provider may have seen the request.
    pub(crate) fn was_sent(&self) -> bool {
        matches!(self, Self::Broken { unsent: false, .. })
    }
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self {
            connector: Connector::new(),
            idle: Arc::new(IdleConnections::default()),
        }
    }

    /// Sends one request and returns its answer as soon as the head is there. `repeatable`: the request may
    /// be sent again, should a kept connection turn out to be closed.
    pub(crate) async fn send(
        &self,
        base_url: &BaseUrl,
        request: Request<Pieces>,
        connect_timeout: Duration,
        repeatable: bool,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let again = request.clone();
        if let Some(sender) = self.idle.take(base_url.origin()).await {
            match self.send_on(sender, base_url, request).await {
                // Closed by the provider while it was idle. An answer that cannot be read is another matter.
                Err(SendError::Broken { unsent, source })
                    if unsent || (repeatable && !source.is_parse()) => {}
                other => return other,
            }
        }
        let sender = self.connector.connect(base_url, connect_timeout).await?;
        self.send_on(sender, base_url, again).await
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<Pieces>,
        base_url: &BaseUrl,
        request: Request<Pieces>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let connection = Connection {
                    sender,
                    origin: Arc::clone(base_url.origin()),
                    idle: Arc::clone(&self.idle),
                };
                Ok(answer.map(|body| UpstreamBody::new(body, connection)))
            }
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                Err(SendError::Broken {
                    source: error.into_error(),
                    unsent,
                })
            }
        }
    }
}

impl UpstreamBody {
    fn new(body: Incoming, connection: Connection) -> Self {
        let mut this = Self {
            body,
            connection: Some(connection),
        };
        if this.body.is_end_stream() {
            this.keep_connection();
        }
        this
    }

    fn keep_connection(&mut self) {
        if let Some(Connection {
            sender,
            origin,
            idle,
        }) = self.connection.take()
        {
            idle.put(origin, sender);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.keep_connection(),
            Some(Ok(_)) if self.body.is_end_stream() => self.keep_connection(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.connection = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Pieces {
    /// The pieces in order; empty ones are left out.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut pieces: Vec<Bytes> = pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect();
        pieces.reverse();
        Self(pieces)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}
