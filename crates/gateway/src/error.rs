//! The gateway's own errors: a stable code, a status, a sentence that says what to do.
//!
//! Rendered in one place, in the format of the protocol that was called.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use keypool_core::limit::Dimension;
use keypool_providers::protocol::{self, OwnError, Protocol};

/// What went wrong. Each kind has one code and one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidRequest,
    InvalidVirtualKey,
    ModelNotAllowed,
    NativeNotAllowed,
    ModelNotFound,
    NotFound,
    MethodNotAllowed(&'static str),
    /// The client wants another protocol than HTTP. Clients such as Codex use HTTP at once after this status.
    UpgradeRequired,
    RequestTimeout,
    RequestTooLarge,
    HeadersTooLarge,
    NoKeyAvailable,
    QueueFull,
    QueueTimeout,
    /// A limit of the caller has no room now.
    RateLimitExceeded(Dimension),
    /// The call needs more than a whole limit of the caller.
    RequestExceedsLimit(Dimension),
    UpstreamUnreachable,
    UpstreamTimeout,
    /// The store does not respond, or takes no writes.
    StoreUnavailable,
    /// What the caller has queued or stored leaves no room.
    JobLimitExceeded,
    /// The same idempotency key came with another request.
    IdempotencyMismatch,
    /// The response to a job's call was asked for before the job's end.
    JobNotEnded,
    /// The job has ended, so it cannot be cancelled.
    JobEnded,
    /// The job has ended without a response.
    JobWithoutResponse,
    /// A batch that has not ended reads the file.
    FileInUse,
    /// The batch has ended, so it cannot be cancelled.
    BatchEnded,
}

/// An error on its way to the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct GatewayError {
    pub(crate) kind: Kind,
    /// A sentence or two for the person who reads it. Never a secret.
    pub(crate) message: String,
    /// When the same request may succeed.
    pub(crate) retry_after: Option<Duration>,
    /// Tells the SDK not to retry.
    pub(crate) dont_retry: bool,
}

/// An error with the protocol to render it in.
#[derive(Clone, Debug)]
pub(crate) struct RenderableError {
    pub(crate) error: GatewayError,
    pub(crate) protocol: Protocol,
}

impl RenderableError {
    /// The response in the protocol's form.
    pub(crate) fn render(&self) -> Response<Bytes> {
        self.error.render(self.protocol)
    }
}

impl Kind {
    /// The stable code.
    pub(crate) fn code(self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::InvalidVirtualKey => (StatusCode::UNAUTHORIZED, "invalid_virtual_key"),
            Self::ModelNotAllowed => (StatusCode::FORBIDDEN, "model_not_allowed"),
            Self::NativeNotAllowed => (StatusCode::FORBIDDEN, "native_not_allowed"),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, "model_not_found"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            Self::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
            ),
            Self::NoKeyAvailable => (StatusCode::SERVICE_UNAVAILABLE, "no_key_available"),
            Self::QueueFull => (StatusCode::SERVICE_UNAVAILABLE, "queue_full"),
            Self::QueueTimeout => (StatusCode::GATEWAY_TIMEOUT, "queue_timeout"),
            Self::RateLimitExceeded(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            Self::RequestExceedsLimit(_) => (StatusCode::BAD_REQUEST, "request_exceeds_limit"),
            Self::UpstreamUnreachable => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            Self::JobLimitExceeded => (StatusCode::TOO_MANY_REQUESTS, "job_limit_exceeded"),
            Self::IdempotencyMismatch => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch"),
            Self::JobNotEnded => (StatusCode::CONFLICT, "job_not_ended"),
            Self::JobEnded => (StatusCode::CONFLICT, "job_ended"),
            Self::JobWithoutResponse => (StatusCode::CONFLICT, "job_without_response"),
            Self::FileInUse => (StatusCode::CONFLICT, "file_in_use"),
            Self::BatchEnded => (StatusCode::CONFLICT, "batch_ended"),
        }
    }
}

impl GatewayError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            dont_retry: false,
        }
    }

    /// A request that cannot be understood or must not be served as it is.
    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message)
    }

    /// The same error, to be rendered in `protocol`.
    pub(crate) fn in_protocol(self, protocol: Protocol) -> RenderableError {
        RenderableError {
            error: self,
            protocol,
        }
    }

    /// The response in the protocol's form.
    pub(crate) fn render(&self, protocol: Protocol) -> Response<Bytes> {
        let body = protocol::error_body(protocol, &self.own());
        let mut response = Response::new(body);
        *response.status_mut() = self.kind.status_and_code().0;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, whole_seconds(wait));
        }
        if self.dont_retry {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        match self.kind {
            Kind::MethodNotAllowed(allow) => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Kind::UpgradeRequired => {
                headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            }
            _ => {}
        }
        response
    }

    /// The event that ends a broken stream.
    pub(crate) fn render_in_stream(&self, protocol: Protocol) -> Bytes {
        protocol::stream_error(protocol, &self.own())
    }

    fn own(&self) -> OwnError<'_> {
        let (status, code) = self.kind.status_and_code();
        OwnError {
            status: status.as_u16(),
            code,
            message: &self.message,
            dimension: match self.kind {
                Kind::RateLimitExceeded(dimension) | Kind::RequestExceedsLimit(dimension) => {
                    Some(dimension.as_str())
                }
                _ => None,
            },
            retry_after: self.retry_after.map(in_whole_seconds),
        }
    }
}

/// `Retry-After` in whole seconds, rounded up, at least 1.
pub(crate) fn whole_seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(in_whole_seconds(wait))
}

/// The same as a number.
pub(crate) fn in_whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
