//! What can go wrong on the way to a provider and back, and whether the call may be tried again.
//!
//! One type covers the whole path: a failed connection, a missing response, a broken body.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::proxy;

/// Why a call to a provider got no response, or one that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct UpstreamError {
    #[source]
    pub(crate) kind: ErrorKind,
    /// The provider may have begun to process the call.
    pub(crate) may_have_run: bool,
    /// Whether the same call may be sent once more, over a new connection.
    pub(super) resend: Resend,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrorKind {
    /// The configuration allowed a value that no request can carry.
    #[error("the request could not be built: a name, a secret or a path is not valid in HTTP")]
    Unsendable,
    /// No connection: name, TCP, proxy or TLS.
    #[error("cannot connect: {source}")]
    Connect {
        source: io::Error,
        /// How long connecting may take.
        limit: Duration,
    },
    /// No connection in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// An outbound proxy responded in the provider's place; the text names it.
    #[error("{0}")]
    ForwardProxy(String),
    /// The connection broke before a response head arrived.
    #[error("the connection broke before a response arrived: {0}")]
    NoResponse(#[source] ConnectionError),
    /// No response, or no further part of one, in time.
    #[error("no response within {0:?}")]
    ResponseTimeout(Duration),
    /// The response broke off while its beginning was still being inspected.
    #[error("the response broke off: {0}")]
    ResponseBroke(#[source] ConnectionError),
    /// The response says that the call went well, but there is no answer in it; what there is instead.
    #[error("the response has no answer: {0}")]
    NoAnswer(&'static str),
}

/// What is wrong with a connection or with the bytes received over it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The provider, or something on the way, closed it.
    #[error("the connection was closed before the response was complete")]
    Closed,
    /// The bytes received are not an HTTP/1 response.
    #[error("not a valid HTTP/1 response: {0}")]
    Malformed(&'static str),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// HTTP/2 cannot carry the request's path.
    #[error("the request's path cannot be sent over HTTP/2")]
    Address,
    /// HTTP/2 failed.
    #[error("{}", proxy::error_chain(.0))]
    Http2(#[source] hyper::Error),
}

/// When a call may be resent over a new connection, with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resend {
    /// The connection was new, or the provider had begun to respond.
    Never,
    /// A reused connection closed without a byte of response: the provider may have closed it before the request arrived.
    IfRepeatable,
    /// The provider has certainly not begun to process the call.
    Always,
}

impl UpstreamError {
    /// An error before anything was sent.
    pub(crate) fn unsent(kind: ErrorKind) -> Self {
        Self {
            kind,
            may_have_run: false,
            resend: Resend::Never,
        }
    }

    /// An error after the request was sent.
    pub(crate) fn sent(kind: ErrorKind) -> Self {
        Self {
            kind,
            may_have_run: true,
            resend: Resend::Never,
        }
    }

    /// The time limit that passed, if that is what went wrong.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match &self.kind {
            ErrorKind::ConnectTimeout(limit) | ErrorKind::ResponseTimeout(limit) => Some(*limit),
            // A proxy took too long; the error names it.
            ErrorKind::Connect { source, limit } if source.kind() == io::ErrorKind::TimedOut => {
                Some(*limit)
            }
            _ => None,
        }
    }

    /// Whether the gateway itself is the reason, so that the key is not blamed: the configuration, or this process or
    /// machine is out of file descriptors.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.kind, ErrorKind::Unsendable) || self.is_out_of_files()
    }

    fn is_out_of_files(&self) -> bool {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        let causes = std::iter::successors(self.source(), |&cause| cause.source());
        causes
            .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
            .any(|code| matches!(code, ENFILE | EMFILE))
    }
}
