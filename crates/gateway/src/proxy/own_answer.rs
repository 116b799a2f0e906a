//! What the answers to calls about jobs, files and batches have in common.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use keypool_core::store::{JobLimit, Store, StoreError};
use serde::Serialize;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::stored::Access;

pub(super) fn json(value: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Notes whether the store could be read.
pub(super) fn note<T>(gw: &Gateway, result: Result<T, StoreError>) -> Result<T, GatewayError> {
    gw.note_store(Access::Read, result)
        .map_err(|error| store_unavailable(&error))
}

/// Notes whether the store could be written.
pub(super) fn note_write<T>(
    gw: &Gateway,
    result: Result<T, StoreError>,
) -> Result<T, GatewayError> {
    gw.note_store(Access::Write, result)
        .map_err(|error| store_unavailable(&error))
}

pub(super) fn store(gw: &Gateway) -> Result<&Arc<dyn Store>, GatewayError> {
    gw.stored.store().map_err(|error| store_unavailable(&error))
}

/// The response to a call for which the store would be needed.
pub(super) fn store_unavailable(error: &StoreError) -> GatewayError {
    let message = format!("this cannot be stored or read at the moment: {error}");
    GatewayError {
        retry_after: Some(Duration::from_secs(2)),
        ..GatewayError::new(Kind::StoreUnavailable, message)
    }
}

/// The response to what would exceed a limit.
pub(super) fn limit_exceeded(limit: JobLimit) -> GatewayError {
    let message = match limit {
        JobLimit::QueuedPerCaller => {
            "you have as many jobs in the queue as one caller may have ([jobs] max_queued_per_caller): submit more when some have ended"
        }
        JobLimit::StoredPerCaller => {
            "your jobs and files take as much space as those of one caller may take ([jobs] max_stored_per_caller): delete files, or wait until jobs are deleted"
        }
        JobLimit::Queued => {
            "the queue of jobs is full ([jobs] max_queued): submit again when some have ended"
        }
        JobLimit::Stored => {
            "jobs and files take as much space as they may ([jobs] max_stored): delete files, or ask the operator of this gateway"
        }
    };
    GatewayError {
        retry_after: Some(Duration::from_secs(5)),
        ..GatewayError::new(Kind::JobLimitExceeded, message)
    }
}

/// The values of a query's parameters, each at most once.
pub(super) fn parameters<'q, const N: usize>(
    query: Option<&'q str>,
    names: [&str; N],
) -> Result<[Option<Cow<'q, str>>; N], GatewayError> {
    let mut values = [const { None }; N];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = names.iter().position(|known| *known == name) else {
            let names = names.join(", ");
            let message = format!("`{name}` is no parameter here; there are: {names}");
            return Err(GatewayError::invalid_request(message));
        };
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        if values[at].replace(value).is_some() {
            let message = format!("the parameter `{name}` is there twice");
            return Err(GatewayError::invalid_request(message));
        }
    }
    Ok(values)
}

/// The number of items on a page.
pub(super) fn limit(
    text: Option<Cow<'_, str>>,
    default: usize,
    most: usize,
) -> Result<usize, GatewayError> {
    let Some(text) = text else {
        return Ok(default);
    };
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| GatewayError::invalid_request(format!("`limit` must be from 1 to {most}")))
}

/// An id of 128 random bits behind `prefix`.
pub(super) fn new_id(prefix: &str) -> Result<Arc<str>, GatewayError> {
    let mut random = [0_u8; 16];
    if getrandom::fill(&mut random).is_err() {
        let message = "the system has no random numbers: try again";
        return Err(GatewayError::new(Kind::StoreUnavailable, message));
    }
    Ok(format!("{prefix}{:032x}", u128::from_be_bytes(random)).into())
}
