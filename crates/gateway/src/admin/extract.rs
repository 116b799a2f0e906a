//! Reads requests of the admin API: path, query, body, conditions. Whatever is wrong becomes a problem document.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request};
use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError};
use keypool_core::store::Expected;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::openapi::field_names;
use super::problem::Problem;
use crate::telemetry::redact_any;

/// Maximum size of a body other than an import, in bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(super) struct Source(pub(super) IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Source {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get()
            .copied()
            .ok_or_else(Problem::internal)
    }
}

/// Names in the path.
pub(super) struct Names<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Names<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let names = Path::from_request_parts(parts, state).await;
        names.map(|Path(names)| Self(names)).map_err(|_| {
            let detail = "a name in the path is not UTF-8 with percent-encoding";
            Problem::new(StatusCode::BAD_REQUEST, "invalid_path", detail)
        })
    }
}

/// Parameters of the query.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = Query::from_request_parts(parts, state).await;
        params
            .map(|Query(params)| Self(params))
            .map_err(|error| Problem::invalid_query(redact_any(&error.body_text())))
    }
}

/// A JSON object with the fields of `T`.
pub(super) struct Fields<T>(pub(super) T);

impl<T: DeserializeOwned + ToSchema, S: Send + Sync> FromRequest<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Patch { fields, .. } = Patch::<T>::from_request(request, state).await?;
        read(fields).map(Self)
    }
}

impl<T: DeserializeOwned + ToSchema, S: Send + Sync> OptionalFromRequest<S> for Fields<T> {
    type Rejection = Problem;

    /// None if there is no body.
    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let has_type = request.headers().contains_key(CONTENT_TYPE);
        if !has_type && http_body::Body::is_end_stream(request.body()) {
            return Ok(None);
        }
        let read = <Self as FromRequest<S>>::from_request(request, state).await;
        read.map(Some)
    }
}

/// A JSON object with some of the fields of `T`: a merge patch (RFC 7396).
pub(super) struct Patch<T> {
    fields: Map<String, Value>,
    of: std::marker::PhantomData<T>,
}

impl<T: ToSchema, S: Send + Sync> FromRequest<S> for Patch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_json(request.headers())?;
        let body = body(request).await?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("the body is not JSON: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
        })?;
        let Value::Object(fields) = value else {
            let detail = "the body must be a JSON object";
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_body",
                detail,
            ));
        };
        let known = field_names::<T>();
        let unknown: Vec<String> = fields
            .keys()
            .filter(|name| !known.contains(name))
            .map(|name| match &**name {
                "name" => "`name` cannot be changed: it is part of the path".to_owned(),
                name => unknown_field(name, &known),
            })
            .collect();
        if !unknown.is_empty() {
            return Err(Problem::invalid(unknown));
        }
        Ok(Self {
            fields,
            of: std::marker::PhantomData,
        })
    }
}

impl<T: DeserializeOwned> Patch<T> {
    /// Removes a field, which must be a string, and returns it.
    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::invalid(vec![format!("`{name}` must be a string")])),
        }
    }

    /// The names of the fields, for the audit log.
    pub(super) fn names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// `stored`, a JSON object, with these fields in place of its own; null removes one.
    pub(super) fn apply<S: DeserializeOwned>(&self, stored: &str) -> Result<S, Problem> {
        let mut merged: Map<String, Value> = serde_json::from_str(stored).unwrap_or_default();
        for (name, value) in &self.fields {
            match value {
                Value::Null => _ = merged.remove(name),
                value => _ = merged.insert(name.clone(), value.clone()),
            }
        }
        read(merged)
    }
}

fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Problem> {
    let read = |fields| serde_json::from_value(Value::Object(fields));
    read(fields.clone()).map_err(|error: serde_json::Error| {
        let error = error.to_string();
        // The error does not name the field, but is the same when that is read alone.
        let is_wrong = |(name, value): &(&String, &Value)| {
            let alone = Map::from_iter([((*name).clone(), (*value).clone())]);
            read(alone).is_err_and(|alone: serde_json::Error| alone.to_string() == error)
        };
        let is_missing = read(Map::new()).is_err_and(|empty| empty.to_string() == error);
        let wrong = fields.iter().find(is_wrong).filter(|_| !is_missing);
        let sentence = match wrong {
            Some((name, _)) => format!("`{name}`: {error}"),
            None => error,
        };
        Problem::invalid(vec![redact_any(&sentence)])
    })
}

fn unknown_field(name: &str, known: &[String]) -> String {
    let shown: String = redact_any(name).chars().take(64).collect();
    let close = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known));
    match close.min() {
        Some((distance, nearest)) if distance <= 3 => {
            format!("`{shown}` is not known: did you mean `{nearest}`?")
        }
        _ => format!("`{shown}` is not known"),
    }
}

async fn body(request: Request) -> Result<Bytes, Problem> {
    let body = http_body_util::Limited::new(request.into_body(), MAX_BODY);
    let reading = timeout(BODY_TIME, body.collect());
    let broke_off = || {
        let detail = "the body broke off, or came too slowly";
        Problem::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
    };
    match reading.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = "the body is larger than 1 MiB";
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Problem::new(status, "body_too_large", detail))
        }
        Ok(Err(_)) | Err(_) => Err(broke_off()),
    }
}

/// The media type of a body, without parameters; empty if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = media_type(headers);
    let is_json =
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    match is_json {
        true => Ok(()),
        false => Err(unsupported("application/json")),
    }
}

/// The body has a type that is not read here.
pub(super) fn unsupported(expected: &str) -> Problem {
    let detail = format!("send the body with `Content-Type: {expected}`");
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        detail,
    )
}

/// `If-Match` and `If-None-Match` (RFC 9110 §13).
pub(super) struct Condition {
    /// The tags of `If-Match`; `None`: there is none.
    matches: Option<String>,
    /// `If-None-Match: *`: the resource must not exist.
    only_new: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Condition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let all = |name: HeaderName| -> Option<String> {
            let values = parts.headers.get_all(name).iter();
            let texts: Vec<&str> = values.map(|value| value.to_str().unwrap_or("?")).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        };
        Ok(Self {
            matches: all(IF_MATCH),
            only_new: all(IF_NONE_MATCH).is_some_and(|tags| tags.trim() == "*"),
        })
    }
}

impl Condition {
    /// What the store must hold when the change is made, given the resource's version now.
    pub(super) fn expect(&self, version: Option<u64>) -> Result<Expected, Problem> {
        if self.only_new && version.is_some() {
            return Err(Problem::version_mismatch());
        }
        if let Some(tags) = &self.matches {
            let current = version.ok_or_else(Problem::version_mismatch)?;
            let mut tags = tags.split(',').map(str::trim);
            if !tags.any(|tag| tag == "*" || tag == etag_text(current)) {
                return Err(Problem::version_mismatch());
            }
        }
        Ok(version.map_or(Expected::Absent, Expected::Version))
    }
}

fn etag_text(version: u64) -> String {
    format!("\"{version}\"")
}

/// The entity tag of a version.
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(etag_text(version)).unwrap_or(HeaderValue::from_static("\"\""))
}
