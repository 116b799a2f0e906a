//! `/v1/jobs`: a caller's own jobs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http::header::CONTENT_LENGTH;
use keypool_core::store::{
    Cancelled, ChangedJob, JobId, JobQuery, JobRecord, JobStatus, StoreError,
};
use keypool_core::values;
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::access::{no_job, own};
use super::events::events;
use super::view::{JobView, ResponseView};
use crate::context::{BUDGET_UNIT, BUDGET_WAIT, Gateway};
use crate::error::{GatewayError, Kind};
use crate::jobs::{ResponseHead, Watch};
use crate::proxy::OutBody;
use crate::proxy::inbound::{Caller, JobsAddress};
use crate::proxy::own_answer::{self, json, note, parameters, store, store_unavailable};

/// The longest that a request may wait for the end of a job.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Jobs in a list, if the caller does not say.
const PAGE: usize = 20;
/// Maximum number of jobs in a list.
const MAX_PAGE: usize = 100;
/// The largest body that is shown with its job, in bytes.
const MAX_SHOWN: u64 = 16 << 20;
/// How often a request that waits looks whether the gateway shuts down.
const LOOK: Duration = Duration::from_secs(1);

/// Answers a call about jobs.
pub(in crate::proxy) async fn answer(
    gw: &Arc<Gateway>,
    address: &JobsAddress,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<OutBody>, GatewayError> {
    let whole = |response: Response<Bytes>| response.map(OutBody::whole);
    match address {
        JobsAddress::List => list(gw, query, caller).await.map(whole),
        JobsAddress::One(id) => one(gw, id, query, caller).await.map(whole),
        JobsAddress::Cancel(id) => cancel(gw, id, caller).await.map(whole),
        JobsAddress::Response(id) => replay(gw, id, caller).await,
        JobsAddress::Events(id) => events(gw, id, caller).await,
    }
}

#[derive(Serialize)]
struct JobList {
    object: &'static str,
    data: Vec<JobView>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

async fn list(
    gw: &Gateway,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let [after, limit, status] = parameters(query, ["after", "limit", "status"])?;
    let limit = own_answer::limit(limit, PAGE, MAX_PAGE)?;
    let status = match status {
        None => None,
        Some(name) => Some(JobStatus::of(&name).ok_or_else(|| {
            let names = JobStatus::ALL.map(JobStatus::as_str).join(", ");
            GatewayError::invalid_request(format!("`status` must be one of {names}"))
        })?),
    };
    let query = JobQuery {
        caller: Some(caller.owner()),
        status,
        after: after.map(|id| id.as_ref().into()),
        limit: limit + 1,
    };
    let mut jobs = note(gw, store(gw)?.list_jobs(&query).await)?;
    let has_more = jobs.len() > limit;
    jobs.truncate(limit);
    let id_of = |job: Option<&JobRecord>| job.map(|job| job.id.to_string());
    Ok(json(&JobList {
        object: "list",
        first_id: id_of(jobs.first()),
        last_id: id_of(jobs.last()),
        data: jobs.iter().map(JobView::of).collect(),
        has_more,
    }))
}

async fn one(
    gw: &Gateway,
    id: &JobId,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let [wait] = parameters(query, ["wait"])?;
    let wait = match wait {
        None => Duration::ZERO,
        Some(text) => wait_of(&text)?,
    };
    // Watched before it is read, so that no change is missed in between.
    let mut watch = gw.jobs.watchers.watch(id);
    let job = own(gw, id, caller).await?;
    if job.status.has_ended() || wait.is_zero() {
        return with_response(gw, &job).await;
    }
    match until_ended(gw, &mut watch, Instant::now() + wait).await {
        Waited::Ended => {
            let job = own(gw, id, caller).await?;
            with_response(gw, &job).await
        }
        // What is known without asking the store again: many may wait.
        Waited::Unended(None) => Ok(json(&JobView::of(&job))),
        Waited::Unended(Some(change)) => Ok(json(&JobView::of(&job).changed(&change))),
    }
}

fn wait_of(text: &str) -> Result<Duration, GatewayError> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    let wait = values::duration(text).or_else(seconds);
    wait.filter(|wait| *wait <= MAX_WAIT).ok_or_else(|| {
        let most = values::duration_text(MAX_WAIT);
        let message = format!("`wait` must be a time up to {most}, such as 10s");
        GatewayError::invalid_request(message)
    })
}

enum Waited {
    Ended,
    /// The timeout has passed. With the last change that was heard of.
    Unended(Option<ChangedJob>),
}

/// Waits for the end of the job, until the timeout has passed or the gateway shuts down.
async fn until_ended(gw: &Gateway, watch: &mut Watch, until: Instant) -> Waited {
    let mut newest = None;
    loop {
        let look = until.min(Instant::now() + LOOK);
        match timeout_at(look, watch.next()).await {
            Ok(Some(change)) if change.status.has_ended() => return Waited::Ended,
            Ok(change) => newest = change,
            Err(_) if look == until || gw.is_shutting_down() => return Waited::Unended(newest),
            Err(_) => {}
        }
    }
}

/// A job with its response.
async fn with_response(gw: &Gateway, job: &JobRecord) -> Result<Response<Bytes>, GatewayError> {
    let mut view = JobView::of(job);
    let Some(head) = head_of(job) else {
        return Ok(json(&view));
    };
    let is_shown = job.response_bytes <= MAX_SHOWN;
    // Many may ask at once, so they share the memory of request bodies.
    let units = if is_shown {
        job.response_bytes.div_ceil(BUDGET_UNIT)
    } else {
        0
    };
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    let Ok(Ok(_memory)) = timeout(BUDGET_WAIT, gw.body_budget.acquire_many(units)).await else {
        let message = "too many large responses are asked for at once: try again in a moment";
        return Err(GatewayError {
            retry_after: Some(Duration::from_secs(1)),
            ..GatewayError::new(Kind::QueueFull, message)
        });
    };
    let body = match is_shown {
        true => Some(whole_body(gw, &job.id).await?),
        false => None,
    };
    view.response = Some(ResponseView::new(head, job.response_bytes, body));
    Ok(json(&view))
}

fn head_of(job: &JobRecord) -> Option<ResponseHead> {
    ResponseHead::from_json(job.response.as_deref()?)
}

async fn whole_body(gw: &Gateway, id: &str) -> Result<Bytes, GatewayError> {
    let mut body = Vec::new();
    for number in 0.. {
        let piece = note(gw, store(gw)?.response_piece(id, number).await)?;
        if piece.is_empty() {
            break;
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

async fn cancel(
    gw: &Gateway,
    id: &JobId,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let job = own(gw, id, caller).await?;
    let cancelled = gw.cancel_job(id, job.attempts, None).await;
    match cancelled.map_err(|error| store_unavailable(&error))? {
        Cancelled::Missing => Err(no_job()),
        Cancelled::Now => Ok(json(&JobView::of(&own(gw, id, caller).await?))),
        Cancelled::HadEnded => {
            let job = own(gw, id, caller).await?;
            if job.status == JobStatus::Cancelled {
                return Ok(json(&JobView::of(&job)));
            }
            let message = format!(
                "this job has ended ({}), so it cannot be cancelled",
                job.status.as_str()
            );
            Err(conflict(Kind::JobEnded, message))
        }
    }
}

fn conflict(kind: Kind, message: String) -> GatewayError {
    GatewayError {
        dont_retry: true,
        ..GatewayError::new(kind, message)
    }
}

/// The provider's response as it was.
async fn replay(
    gw: &Arc<Gateway>,
    id: &JobId,
    caller: &Caller,
) -> Result<Response<OutBody>, GatewayError> {
    let job = own(gw, id, caller).await?;
    let Some(head) = head_of(&job) else {
        return Err(without_response(&job));
    };
    let mut response = head.response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, job.response_bytes.into());
    let state = (Arc::clone(gw), Arc::clone(id), 0);
    let pieces = stream::try_unfold(state, async |(gw, id, number)| {
        let piece = gw.stored.store()?.response_piece(&id, number).await?;
        Ok::<_, StoreError>(match piece.is_empty() {
            true => None,
            false => Some((piece, (gw, id, number + 1))),
        })
    });
    Ok(response.map(|()| OutBody::Pieces(axum::body::Body::from_stream(pieces))))
}

fn without_response(job: &JobRecord) -> GatewayError {
    match (job.status.has_ended(), &job.error) {
        (false, _) => {
            let message = format!(
                "this job is {}, so it has no response yet: wait for its end with GET /v1/jobs/{}?wait=30s",
                job.status.as_str(),
                job.id
            );
            GatewayError::new(Kind::JobNotEnded, message)
        }
        (true, Some(error)) => {
            let (code, why) = (&error.code, &error.message);
            conflict(
                Kind::JobWithoutResponse,
                format!("this job failed without a response: {code}: {why}"),
            )
        }
        (true, None) => {
            let status = job.status.as_str();
            conflict(
                Kind::JobWithoutResponse,
                format!("this job is {status}, so there is no response"),
            )
        }
    }
}
