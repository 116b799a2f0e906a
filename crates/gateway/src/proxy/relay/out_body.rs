//! The body of a response to a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::{BrokeOff, Relay};

/// One of the three kinds of response.
pub(crate) enum OutBody {
    /// Complete in memory.
    Whole(Full<Bytes>),
    /// Relayed from a provider as it comes.
    Relay(Box<Relay>),
    /// Made by the admin API.
    Admin(axum::body::Body),
}

/// Closes the client's connection, so that a broken response is not mistaken for a complete one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutError {
    /// The provider's response broke off.
    #[error("the provider's response broke off")]
    Broke,
    /// The admin API's response did.
    #[error(transparent)]
    Admin(#[from] axum::Error),
}

impl OutBody {
    /// A small body that is complete in memory.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Full::new(body))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = OutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutError>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Relay(relay) => relay.poll_next(cx).map_err(|BrokeOff| OutError::Broke),
            Self::Admin(body) => Pin::new(body).poll_frame(cx).map_err(OutError::Admin),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Relay(relay) => relay.is_complete(),
            Self::Admin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Relay(_) => SizeHint::default(),
            Self::Admin(body) => body.size_hint(),
        }
    }
}
