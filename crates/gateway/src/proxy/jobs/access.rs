//! Reading jobs for a caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use keypool_core::store::{JobId, JobRecord, Store, StoreError};
use serde::Serialize;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::proxy::inbound::Caller;
use crate::stored::Access;

/// The response to a request for a job that does not exist, or that another caller submitted.
pub(super) fn no_job() -> GatewayError {
    GatewayError::new(
        Kind::NotFound,
        "there is no such job: its id is wrong, it is kept no longer, or another caller submitted it",
    )
}

pub(super) fn json(value: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn note<T>(gw: &Gateway, result: Result<T, StoreError>) -> Result<T, GatewayError> {
    gw.note_store(Access::Read, result)
        .map_err(|error| store_unavailable(&error))
}

pub(super) fn store(gw: &Gateway) -> Result<&Arc<dyn Store>, GatewayError> {
    gw.stored.store().map_err(|error| store_unavailable(&error))
}

pub(super) async fn read(gw: &Gateway, id: &JobId) -> Result<Option<JobRecord>, GatewayError> {
    let found = store(gw)?.jobs(std::slice::from_ref(id)).await;
    Ok(note(gw, found)?.pop())
}

/// The caller's own job.
pub(super) async fn own(
    gw: &Gateway,
    id: &JobId,
    caller: &Caller,
) -> Result<JobRecord, GatewayError> {
    let found = read(gw, id).await?;
    found
        .filter(|job| job.caller == caller.owner())
        .ok_or_else(no_job)
}

/// The response to a call for which the store would be needed.
pub(super) fn store_unavailable(error: &StoreError) -> GatewayError {
    let message = format!("jobs cannot be stored or read at the moment: {error}");
    GatewayError {
        retry_after: Some(Duration::from_secs(2)),
        ..GatewayError::new(Kind::StoreUnavailable, message)
    }
}
