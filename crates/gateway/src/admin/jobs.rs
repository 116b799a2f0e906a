//! `jobs`: the jobs of all callers, without their bodies.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use keypool_core::store::{Cancelled, JobId, JobQuery, JobRecord, JobStatus, WebhookRecord};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::audit;
use super::extract::{Names, Params, Source};
use super::format::rfc3339;
use super::openapi::{ChangeProblems, ReadProblems};
use super::page::{Page, checked_limit};
use super::problem::Problem;
use crate::context::Gateway;
use crate::jobs::{ResponseHead, StoredCall};
use crate::stored::Access;

/// Which jobs are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobParams {
    /// Only jobs with this status.
    #[param(inline)]
    status: Option<StatusName>,
    /// Only jobs of this virtual key. Empty: only those for which no virtual key was required.
    caller: Option<String>,
    /// Only jobs that were submitted before the job with this id: `next` of the page before.
    after: Option<String>,
    /// Maximum number of items, from 1 to 1000. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobStatus)]
pub(super) enum StatusName {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// A job. Neither the request nor the response is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobView {
    /// Its id.
    #[schema(example = "job_0123456789abcdef0123456789abcdef")]
    id: String,
    status: StatusName,
    /// The virtual key that submitted it; null if none was required.
    #[schema(required)]
    caller: Option<String>,
    /// The method of the call.
    #[schema(required)]
    method: Option<String>,
    /// The path of the call, without its query.
    #[schema(required)]
    path: Option<String>,
    /// The model that the call names.
    #[schema(required)]
    model: Option<String>,
    /// The pool in whose queue it is or was.
    pool: String,
    /// `high` or `low`.
    priority: &'static str,
    /// How often it was tried.
    attempts: u32,
    /// While it is queued: its place in the queue of its pool, from 1.
    #[schema(required)]
    position: Option<u64>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was first tried.
    #[schema(required, format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(required, format = DateTime)]
    ended_at: Option<String>,
    /// When it fails if no provider has served it.
    #[schema(format = DateTime)]
    deadline_at: String,
    /// Until when it is kept; null before its end.
    #[schema(required, format = DateTime)]
    expires_at: Option<String>,
    /// Why it failed, or why it was not served at the last try.
    #[schema(required)]
    error: Option<JobErrorView>,
    /// The response to its call; null if there is none.
    #[schema(required)]
    response: Option<JobResponseView>,
    /// Where its end is announced; null if that was not asked for.
    #[schema(required)]
    webhook: Option<JobWebhookView>,
}

/// Why a job failed, or was not served yet.
#[derive(Serialize, ToSchema)]
#[schema(as = JobError)]
pub(super) struct JobErrorView {
    code: String,
    message: String,
}

/// The response to a job's call, without its body.
#[derive(Serialize, ToSchema)]
#[schema(as = JobResponse)]
pub(super) struct JobResponseView {
    /// The HTTP status.
    status: u16,
    /// Size of the body, in bytes.
    body_bytes: u64,
}

/// Where a job's end is announced, and what became of that.
#[derive(Serialize, ToSchema)]
#[schema(as = JobWebhook)]
pub(super) struct JobWebhookView {
    /// The URL, without its query.
    url: String,
    /// `pending`, `delivered` or `given_up`.
    status: &'static str,
    /// How often it was tried.
    attempts: u32,
    /// When it is tried next; null before the job's end, and once it is delivered or given up.
    #[schema(required, format = DateTime)]
    next_attempt_at: Option<String>,
    /// Why the last attempt failed.
    #[schema(required)]
    error: Option<String>,
}

impl From<WebhookRecord> for JobWebhookView {
    fn from(webhook: WebhookRecord) -> Self {
        let url = webhook.url.split('?').next().unwrap_or_default();
        Self {
            url: url.to_owned(),
            status: webhook.state.as_str(),
            attempts: webhook.attempts,
            next_attempt_at: webhook.next_at.map(rfc3339),
            error: webhook.error,
        }
    }
}

impl From<JobStatus> for StatusName {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => Self::Queued,
            JobStatus::Running => Self::Running,
            JobStatus::Succeeded => Self::Succeeded,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
        }
    }
}

impl From<StatusName> for JobStatus {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Queued => Self::Queued,
            StatusName::Running => Self::Running,
            StatusName::Succeeded => Self::Succeeded,
            StatusName::Failed => Self::Failed,
            StatusName::Cancelled => Self::Cancelled,
        }
    }
}

impl From<JobRecord> for JobView {
    fn from(job: JobRecord) -> Self {
        let call = StoredCall::from_json(&job.request);
        let target = call.as_ref().map(StoredCall::method_and_path);
        let head = job.response.as_deref().and_then(ResponseHead::from_json);
        Self {
            id: job.id.to_string(),
            status: job.status.into(),
            caller: job.caller.map(|name| name.to_string()),
            method: target.map(|(method, _)| method.to_owned()),
            path: target.map(|(_, path)| path.to_owned()),
            model: call.as_ref().and_then(|call| call.model.clone()),
            pool: job.pool.to_string(),
            priority: job.priority.as_str(),
            attempts: job.attempts,
            position: job.position,
            created_at: rfc3339(job.created_at),
            started_at: job.started_at.map(rfc3339),
            ended_at: job.ended_at.map(rfc3339),
            deadline_at: rfc3339(job.deadline_at),
            expires_at: job.expires_at.map(rfc3339),
            error: job.error.map(|error| JobErrorView {
                code: error.code,
                message: error.message,
            }),
            response: head.map(|head| JobResponseView {
                status: head.status,
                body_bytes: job.response_bytes,
            }),
            webhook: job.webhook.map(Into::into),
        }
    }
}

fn no_job(id: &str) -> Problem {
    Problem::missing(format!(
        "there is no job \"{id}\": its id is wrong, or it is kept no longer"
    ))
}

async fn read(gw: &Gateway, id: &JobId) -> Result<JobRecord, Problem> {
    let found = gw.stored.store()?.jobs(std::slice::from_ref(id)).await;
    let mut found = gw.note_store(Access::Read, found)?;
    found.pop().ok_or_else(|| no_job(id))
}

/// The jobs of all callers, newest first.
#[utoipa::path(get, path = "/api/v1/admin/jobs", operation_id = "list_jobs", tag = "jobs", params(JobParams),
    responses((status = 200, body = Page<JobView>), ReadProblems))]
pub(super) async fn list(
    State(gw): State<Arc<Gateway>>,
    Params(params): Params<JobParams>,
) -> Result<Json<Page<JobView>>, Problem> {
    let limit = checked_limit(params.limit)?;
    let caller = params.caller.as_deref();
    let query = JobQuery {
        caller: caller.map(|name| Some(name.into()).filter(|_| !name.is_empty())),
        status: params.status.map(Into::into),
        after: params.after.as_deref().map(Into::into),
        limit: limit + 1,
    };
    let read = gw.stored.store()?.list_jobs(&query).await;
    let mut jobs = gw.note_store(Access::Read, read)?;
    let has_more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = jobs.last().filter(|_| has_more);
    Ok(Json(Page {
        next: next.map(|job| job.id.to_string()),
        items: jobs.into_iter().map(JobView::from).collect(),
    }))
}

/// One job.
#[utoipa::path(get, path = "/api/v1/admin/jobs/{id}", operation_id = "get_job", tag = "jobs",
    params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, body = JobView), ReadProblems))]
pub(super) async fn get(
    State(gw): State<Arc<Gateway>>,
    Names(id): Names<String>,
) -> Result<Json<JobView>, Problem> {
    read(&gw, &id.into()).await.map(|job| Json(job.into()))
}

/// Cancels a job. If a provider is working on it, that call ends too.
#[utoipa::path(delete, path = "/api/v1/admin/jobs/{id}", operation_id = "cancel_job", tag = "jobs",
    params(("id" = String, Path, description = "The job's id.")),
    responses((status = 204), ChangeProblems))]
pub(super) async fn cancel(
    State(gw): State<Arc<Gateway>>,
    Names(id): Names<String>,
    source: Source,
) -> Result<StatusCode, Problem> {
    let id: JobId = id.into();
    let job = read(&gw, &id).await?;
    let details = json!({ "caller": job.caller.as_deref() });
    let entry = audit::entry(&gw, source, "job.cancel", format!("jobs/{id}"), &details);
    match gw.cancel_job(&id, job.attempts, Some(&entry)).await? {
        Cancelled::Now => Ok(StatusCode::NO_CONTENT),
        Cancelled::Missing => Err(no_job(&id)),
        Cancelled::HadEnded => match read(&gw, &id).await?.status {
            JobStatus::Cancelled => Ok(StatusCode::NO_CONTENT),
            status => Err(Problem::conflict(
                "job_ended",
                format!(
                    "this job has ended ({}), so it cannot be cancelled",
                    status.as_str()
                ),
            )),
        },
    }
}
