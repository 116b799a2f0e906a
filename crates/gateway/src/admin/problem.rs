//! Errors of the admin API: RFC 9457 problem documents with a stable `code`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use keypool_core::store::{StoreError, StoreErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of a problem document.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// An error response of the admin API.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<String>,
}

/// An error (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// `about:blank`: the status and `code` say what it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What it is, as a stable code.
    #[schema(example = "not_found")]
    code: &'static str,
    /// What it is and what to do, as a sentence.
    detail: String,
    /// Everything that is wrong, if there is more than one thing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// Adds a list of everything that is wrong.
    pub(super) fn with_errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_admin_token",
            "send the admin token as `Authorization: Bearer …`; a generated token is in the file that was named at start-up",
        )
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "the admin API has nothing at this path",
        )
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not accept this method; see the `Allow` header",
        )
    }

    /// Something that is named in the path does not exist.
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// A query parameter is wrong.
    pub(super) fn invalid_query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
    }

    /// What was sent can be read, and is not valid.
    pub(super) fn invalid(errors: Vec<String>) -> Self {
        let detail = errors.join("; ");
        let more = if errors.len() > 1 { errors } else { Vec::new() };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_settings", detail).with_errors(more)
    }

    /// What was sent contradicts what there is.
    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// The resource is declared in the configuration, and changed only there.
    pub(super) fn declared(what: &str, source: &str) -> Self {
        let place = match source {
            "environment" => "the environment",
            file => file,
        };
        Self::conflict(
            "declared",
            format!("{what} is declared in {place}: change it there"),
        )
    }

    /// The resource is not in the version that the request expects.
    pub(super) fn version_mismatch() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "version_mismatch",
            "the resource has changed since it was read: read it again, and send its new ETag",
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "this failed unexpectedly; the log has the details",
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match error.kind {
            StoreErrorKind::NameTaken | StoreErrorKind::SecretTaken => StatusCode::CONFLICT,
            StoreErrorKind::Missing => StatusCode::NOT_FOUND,
            StoreErrorKind::VersionMismatch => StatusCode::PRECONDITION_FAILED,
            StoreErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            StoreErrorKind::Unavailable
            | StoreErrorKind::NotWritable
            | StoreErrorKind::WrongMasterKey
            | StoreErrorKind::NewerSchema
            | StoreErrorKind::InUse => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.kind.as_str(), error.message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            errors: self.errors,
        };
        let mut response = (self.status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}
