//! The body of an answer to a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::relay::{BrokeOff, Relay};

/// One of the three kinds of answer.
pub(crate) enum OutBody {
    /// There as a whole.
    Whole(Option<Bytes>),
    /// Relayed from a provider as it comes.
    Relay(Box<Relay>),
    /// Made by the admin API.
    Admin(axum::body::Body),
}

/// Ends the client's connection, so that a broken answer is not taken for a whole one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutError {
    /// The provider's answer broke.
    #[error("the provider's answer broke off")]
    Broke,
    /// The admin API's did.
    #[error(transparent)]
    Admin(#[from] axum::Error),
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = OutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutError>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(
                bytes
                    .take()
                    .filter(|bytes| !bytes.is_empty())
                    .map(|bytes| Ok(Frame::data(bytes))),
            ),
            Self::Relay(relay) => relay.poll_next(cx).map_err(|BrokeOff| OutError::Broke),
            Self::Admin(body) => Pin::new(body).poll_frame(cx).map_err(OutError::Admin),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Relay(relay) => relay.is_over(),
            Self::Admin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relay(_) => SizeHint::default(),
            Self::Admin(body) => body.size_hint(),
        }
    }
}
