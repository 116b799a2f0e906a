//! Accepting a call as a job.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use keypool_core::secret::Digest256;
use keypool_core::store::{
    Idempotency, JobPriority, JobRecord, JobStatus, NewJob, Submitted, Webhook,
};

use super::access;
use super::view::JobView;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::jobs::StoredCall;
use crate::proxy::headers::kept_headers;
use crate::proxy::inbound::{Call, Caller};
use crate::proxy::log::RequestLog;
use crate::proxy::objects::ObjectTracking;
use crate::proxy::own_answer::{json, limit_exceeded, new_id, store_unavailable};
use crate::proxy::routing;
use crate::snapshot::Snapshot;
use crate::webhook_hosts::WebhookUrl;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const PRIORITY: HeaderName = HeaderName::from_static("x-keypool-priority");
const WEBHOOK: HeaderName = HeaderName::from_static("x-keypool-webhook");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Whether the client asks for a job: `Prefer: respond-async` (RFC 7240 §4.1) on a POST.
pub(in crate::proxy) fn wants_job(parts: &Parts) -> bool {
    if parts.method != Method::POST {
        return false;
    }
    let values = parts.headers.get_all(PREFER).iter();
    let mut preferences = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    preferences.any(|one| {
        let name = one.split([';', '=']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("respond-async")
    })
}

/// Queues the call, once it is known that it could be made now if a key were free.
pub(in crate::proxy) async fn submit(
    gw: &Arc<Gateway>,
    snapshot: &Snapshot,
    call: &Call<'_>,
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Response<Bytes>, GatewayError> {
    let targets = routing::targets(snapshot, call, caller, log)?;
    let targets = ObjectTracking::new(gw, snapshot, call, caller).restrict(targets, log)?;
    log.set_pool(&targets[0].entry);
    let new = new_job(gw, call, caller, targets[0].entry.pool.name())?;
    let accepted = accepted(gw, &new);
    let submitted = gw.submit_job(new).await;
    let submitted = submitted.map_err(|error| store_unavailable(&error))?;
    let job = match submitted {
        Submitted::Accepted => accepted,
        Submitted::Repeated(earlier) => access::read(gw, &earlier)
            .await?
            .ok_or_else(access::no_job)?,
        Submitted::ContentDiffers => {
            let message = "this Idempotency-Key came with another request before: use a new key for a new request";
            return Err(GatewayError {
                dont_retry: true,
                ..GatewayError::new(Kind::IdempotencyMismatch, message)
            });
        }
        Submitted::Refused(limit) => return Err(limit_exceeded(limit)),
    };
    let mut response = json(&JobView::of(&job));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/jobs/{}", job.id)) {
        headers.insert(LOCATION, location);
    }
    headers.insert(
        PREFERENCE_APPLIED,
        HeaderValue::from_static("respond-async"),
    );
    Ok(response)
}

/// What is shown of a job once it is accepted, without a look into the store. Its position is not known.
fn accepted(gw: &Gateway, new: &NewJob) -> JobRecord {
    let now = gw.clock.wall();
    JobRecord {
        id: Arc::clone(&new.id),
        caller: new.caller.clone(),
        pool: Arc::clone(&new.pool),
        priority: new.priority,
        status: JobStatus::Queued,
        attempts: 0,
        request: new.request.clone(),
        response: None,
        response_bytes: 0,
        error: None,
        webhook: None,
        created_at: now,
        started_at: None,
        ended_at: None,
        deadline_at: now + new.deadline,
        expires_at: None,
        position: None,
    }
}

fn new_job(
    gw: &Gateway,
    call: &Call<'_>,
    caller: &Caller,
    pool: &Arc<str>,
) -> Result<NewJob, GatewayError> {
    let body = call.body_without_key();
    Ok(NewJob {
        id: new_id("job_")?,
        caller: caller.owner(),
        pool: Arc::clone(pool),
        priority: priority(call.headers)?,
        request: stored_call(call, caller.address()).to_json(),
        is_repeatable: call.repeatable,
        deadline: gw.snapshot().settings.jobs.deadline,
        idempotency: idempotency(call, caller, &body)?,
        webhook: webhook(gw, call.headers, caller)?,
        body,
    })
}

fn priority(headers: &HeaderMap) -> Result<JobPriority, GatewayError> {
    let Some(value) = headers.get(PRIORITY) else {
        return Ok(JobPriority::default());
    };
    let named = value.to_str().ok().and_then(JobPriority::of);
    named.ok_or_else(|| GatewayError::invalid_request("x-keypool-priority must be `high` or `low`"))
}

/// Where the end of the job is to be announced.
fn webhook(
    gw: &Gateway,
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<Option<Webhook>, GatewayError> {
    let mut values = headers.get_all(WEBHOOK).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if !caller.has_webhook_secret() {
        return Err(GatewayError::invalid_request(
            "x-keypool-webhook needs a virtual key with a `webhook_secret`, and this caller has none: ask the operator of this gateway, or ask for the job's state instead",
        ));
    }
    let hosts = &gw.snapshot().settings.jobs.webhook_hosts;
    if hosts.is_empty() {
        return Err(GatewayError::invalid_request(
            "this gateway calls no webhooks, since [jobs] webhook_hosts is empty: ask its operator to list the host, or ask for the job's state instead",
        ));
    }
    let wrong = |why: &str| GatewayError::invalid_request(format!("x-keypool-webhook {why}"));
    let text = value.to_str().unwrap_or_default();
    if values.next().is_some() {
        return Err(wrong("must be there once"));
    }
    let url = WebhookUrl::parse(text).map_err(wrong)?;
    let allowed = url.allowed_by(hosts);
    allowed.map_err(|why| wrong(&format!("is refused: {why}")))?;
    Ok(Some(Webhook {
        url: text.to_owned(),
        host: url.host,
    }))
}

fn idempotency(
    call: &Call<'_>,
    caller: &Caller,
    body: &[u8],
) -> Result<Option<Idempotency>, GatewayError> {
    let Some(key) = call.headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY {
        let message = format!("Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters");
        return Err(GatewayError::invalid_request(message));
    }
    let owner = caller.owner();
    let owner = owner.as_deref().unwrap_or_default().as_bytes();
    let path = call.uri.path().as_bytes();
    // No part can hold a zero byte.
    let scope = [owner, path, key.as_bytes()].join(&0);
    let content_type = call.headers.get(CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let query = call.query.as_deref().unwrap_or_default().as_bytes();
    let content = [query, content_type, body].join(&0);
    Ok(Some(Idempotency {
        scope: Digest256::of(&scope),
        content: Digest256::of(&content),
    }))
}

/// The call without its credentials.
fn stored_call(call: &Call<'_>, address: IpAddr) -> StoredCall {
    let mut target = call.uri.path().to_owned();
    if let Some(query) = &call.query {
        target = format!("{target}?{query}");
    }
    let kept = kept_headers(call.headers);
    StoredCall::new((call.method, target), &kept, address, call.model_name())
}
