//! A job as JSON.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use keypool_core::store::{ChangedJob, JobRecord, JobStatus};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::jobs::{ResponseHead, StoredCall};

/// A job. Times are seconds since 1970.
#[derive(Serialize)]
pub(super) struct JobView {
    id: String,
    object: &'static str,
    status: &'static str,
    method: Option<String>,
    path: Option<String>,
    model: Option<String>,
    pool: String,
    priority: &'static str,
    attempts: u32,
    /// While it is queued: its place in the queue of its pool, from 1.
    position: Option<u64>,
    created_at: u64,
    started_at: Option<u64>,
    ended_at: Option<u64>,
    deadline_at: u64,
    expires_at: Option<u64>,
    error: Option<ErrorView>,
    pub(super) response: Option<ResponseView>,
}

#[derive(Serialize)]
struct ErrorView {
    code: String,
    message: String,
}

/// The response to a job's call.
#[derive(Serialize)]
pub(super) struct ResponseView {
    status: u16,
    headers: BTreeMap<String, String>,
    /// Size of the body, in bytes.
    body_bytes: u64,
    /// A body that is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    /// Any other body.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl JobView {
    pub(super) fn of(job: &JobRecord) -> Self {
        let call = StoredCall::from_json(&job.request);
        let (method, path) = match &call {
            Some(call) => {
                let (method, path) = call.method_and_path();
                (Some(method.to_owned()), Some(path.to_owned()))
            }
            None => (None, None),
        };
        let error = job.error.as_ref().map(|error| ErrorView {
            code: error.code.clone(),
            message: error.message.clone(),
        });
        Self {
            id: job.id.to_string(),
            object: "job",
            status: job.status.as_str(),
            method,
            path,
            model: call.and_then(|call| call.model),
            pool: job.pool.to_string(),
            priority: job.priority.as_str(),
            attempts: job.attempts,
            position: job.position,
            created_at: seconds(job.created_at),
            started_at: job.started_at.map(seconds),
            ended_at: job.ended_at.map(seconds),
            deadline_at: seconds(job.deadline_at),
            expires_at: job.expires_at.map(seconds),
            error,
            response: None,
        }
    }

    /// The same after a change of the job that did not end it.
    pub(super) fn changed(self, change: &ChangedJob) -> Self {
        Self {
            status: change.status.as_str(),
            attempts: change.attempts,
            position: self.position.filter(|_| change.status == JobStatus::Queued),
            ..self
        }
    }
}

impl ResponseView {
    /// `body`: `None` if it is too large to be shown here.
    pub(super) fn new(head: ResponseHead, body_bytes: u64, body: Option<Bytes>) -> Self {
        let json = body
            .as_ref()
            .and_then(|body| serde_json::from_slice::<Box<RawValue>>(body).ok());
        let other = body.filter(|_| json.is_none());
        Self {
            status: head.status,
            headers: head.headers.into_iter().collect(),
            body_bytes,
            body: json,
            body_base64: other.map(|body| base64(&body)),
        }
    }
}

fn base64(body: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(body)
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
