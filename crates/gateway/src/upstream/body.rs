//! The body of a provider's response, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::ConnectionError;
use super::http1::Http1;
use super::http2::Stream;
use super::idle::{Destination, IdleConnections};

/// The body of a response. Once it is read to its end, the connection is free for the next request.
pub(crate) struct UpstreamBody(Source);

/// Where the body comes from.
enum Source {
    Http1 {
        http1: Box<Http1>,
        destination: Destination,
        idle: Arc<IdleConnections>,
    },
    Http2 {
        body: Incoming,
        /// Dropping it frees the slot for another call; if the response has not ended, hyper resets the stream.
        _stream: Stream,
    },
    /// The body was read to its end, or it broke.
    Ended,
}

impl UpstreamBody {
    pub(super) fn of_http1(
        http1: Box<Http1>,
        destination: Destination,
        idle: Arc<IdleConnections>,
    ) -> Self {
        Self::new(Source::Http1 {
            http1,
            destination,
            idle,
        })
    }

    pub(super) fn of_http2(body: Incoming, stream: Stream) -> Self {
        Self::new(Source::Http2 {
            body,
            _stream: stream,
        })
    }

    fn new(source: Source) -> Self {
        let mut body = Self(source);
        body.end_if_done();
        body
    }

    /// Whether `Pending` means that nothing more has arrived. With HTTP/2, another task reads the connection and may
    /// already have more.
    pub(crate) fn is_read_by_this_task(&self) -> bool {
        !matches!(self.0, Source::Http2 { .. })
    }

    fn end_if_done(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Source::Http1 {
            http1,
            destination,
            idle,
        } = std::mem::replace(&mut self.0, Source::Ended)
        {
            idle.put(destination, http1);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ConnectionError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        let frame = match &mut self.0 {
            Source::Http1 { http1, .. } => {
                let data = ready!(http1.poll_data(cx));
                data.map(|data| data.map(Frame::data))
            }
            Source::Http2 { body, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(ConnectionError::Http2))
            }
            Source::Ended => None,
        };
        match &frame {
            None => self.end(),
            Some(Ok(_)) => self.end_if_done(),
            Some(Err(_)) => self.0 = Source::Ended,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1 { http1, .. } => http1.is_body_done(),
            // A client that knows the length reads no further, so the end of the stream may come too late.
            Source::Http2 { body, .. } => {
                body.is_end_stream() || body.size_hint().exact() == Some(0)
            }
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1 { http1, .. } => http1
                .remaining()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Http2 { body, .. } => body.size_hint(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}
