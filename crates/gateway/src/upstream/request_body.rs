//! The body of a request to a provider, made of shared pieces.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A request body of a few shared pieces; cloning it for another attempt copies nothing.
#[derive(Clone, Default)]
pub(crate) struct RequestBody(Vec<Bytes>);

impl RequestBody {
    /// Keeps the pieces in order, without empty ones.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut pieces: Vec<Bytes> = pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect();
        pieces.reverse();
        Self(pieces)
    }

    /// The pieces in order.
    pub(super) fn in_order(self) -> impl Iterator<Item = Bytes> {
        self.0.into_iter().rev()
    }
}

impl Body for RequestBody {
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
