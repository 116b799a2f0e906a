//! The body of a response to a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use keypool_core::fault::Class;

use super::{BrokeOff, Relay};

/// One of the three kinds of response.
pub(crate) enum OutBody {
    /// Complete in memory.
    Whole(Full<Bytes>),
    /// Relayed from a provider as it comes.
    Relay(Box<Relay>),
    /// Made piece by piece: by the admin API, or read from the store.
    Pieces(axum::body::Body),
}

/// Closes the client's connection, so that a broken response is not mistaken for a complete one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutError {
    /// The provider's response broke off.
    #[error("the provider's response broke off")]
    Broke,
    /// Making the response failed.
    #[error(transparent)]
    Pieces(#[from] axum::Error),
}

impl OutBody {
    /// A small body that is complete in memory.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Full::new(body))
    }
}

/// What became of a response, once its body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What the response, or the error that ended it, means.
    pub(crate) class: Class,
    /// The provider sent all of it.
    pub(crate) is_whole: bool,
}

impl OutBody {
    /// What became of a relayed response; `None` if it is none. To be asked once the body has ended.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Relay(relay) => Some(relay.verdict),
            Self::Whole(_) | Self::Pieces(_) => None,
        }
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
            Self::Pieces(body) => Pin::new(body).poll_frame(cx).map_err(OutError::Pieces),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Relay(relay) => relay.is_complete(),
            Self::Pieces(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Relay(_) => SizeHint::default(),
            Self::Pieces(body) => body.size_hint(),
        }
    }
}
