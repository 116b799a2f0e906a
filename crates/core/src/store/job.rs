//! Jobs: calls that are accepted now and made later.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::webhook::{Webhook, WebhookRecord};
use crate::secret::Digest256;

/// A job's id.
pub type JobId = Arc<str>;

/// Number of a change of jobs, counted from 1. Each change takes the next one.
pub type JobRevision = u64;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// It waits for its turn, or for the time of another try.
    Queued,
    /// A node makes the call.
    Running,
    /// The call got a response with a status below 400.
    Succeeded,
    /// The call got an error that nothing can change, or its deadline passed.
    Failed,
    /// Its caller or an operator called it off.
    Cancelled,
}

/// How urgent a job is among the jobs of its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JobPriority {
    /// Ten jobs of high priority may pass it.
    Low,
    /// As urgent as a job can be.
    #[default]
    High,
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id, which nobody can guess.
    pub id: JobId,
    /// The virtual key that submits it; `None`: no virtual key was required.
    pub caller: Option<Arc<str>>,
    /// The pool that it goes to. Jobs of one pool share a queue.
    pub pool: Arc<str>,
    /// How urgent it is.
    pub priority: JobPriority,
    /// The call without its body, as JSON that the gateway wrote.
    pub request: String,
    /// The body of the call.
    pub body: Bytes,
    /// The call may be made again when it is unknown whether the provider has run it.
    pub is_repeatable: bool,
    /// Time from now until the job fails if no provider has served it.
    pub deadline: Duration,
    /// What makes a repeated submission the same job.
    pub idempotency: Option<Idempotency>,
    /// Where its end is announced.
    pub webhook: Option<Webhook>,
}

/// What makes a repeated submission the same job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Hash of the caller, the path and the key that the caller chose.
    pub scope: Digest256,
    /// Hash of what is asked.
    pub content: Digest256,
}

/// How much may be queued and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Maximum number of jobs that have not ended.
    pub max_queued: u64,
    /// The same for one caller.
    pub max_queued_per_caller: u64,
    /// Maximum size of the requests and responses of all jobs, in bytes.
    pub max_stored: u64,
    /// The same for one caller.
    pub max_stored_per_caller: u64,
}

/// The limit that a job would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobLimit {
    /// [`JobLimits::max_queued`].
    Queued,
    /// [`JobLimits::max_queued_per_caller`].
    QueuedPerCaller,
    /// [`JobLimits::max_stored`].
    Stored,
    /// [`JobLimits::max_stored_per_caller`].
    StoredPerCaller,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The job is queued, and survives whatever happens to this process.
    Accepted,
    /// It repeats the submission of this job.
    Repeated(JobId),
    /// The key that makes a submission the same was used for something else.
    ContentDiffers,
    /// It would exceed a limit.
    Refused(JobLimit),
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// It makes one call.
    Call,
    /// It checks the file of this batch.
    BatchValidation(Arc<str>),
    /// It makes the calls of a part of this batch.
    BatchPart(Arc<str>),
    /// It ends this batch before all its calls were made.
    BatchEnd(Arc<str>),
}

/// A job that a node has claimed. Only this node, in this attempt, may say what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedJob {
    /// Which job.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Number of calls that it makes at most.
    pub weight: u64,
    /// How often it was claimed, with this time: together with the node, a fencing token.
    pub attempt: u32,
    /// How often it was tried, with this time.
    pub tries: u32,
    /// The virtual key that submitted it.
    pub caller: Option<Arc<str>>,
    /// The pool in whose queue it was.
    pub pool: Arc<str>,
    /// The call without its body.
    pub request: String,
    /// Size of the body, in bytes.
    pub body_bytes: u64,
    /// The body, if it is small; otherwise it is read in pieces.
    pub body: Option<Bytes>,
    /// Its end is announced.
    pub has_webhook: bool,
}

/// A claim, which its node must still have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobClaim {
    /// Which job.
    pub id: JobId,
    /// Which attempt.
    pub attempt: u32,
}

/// What became of a claimed job.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// Which claim.
    pub claim: JobClaim,
    /// What became of it.
    pub outcome: JobOutcome,
}

/// What became of a claimed job.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// It has ended, succeeded or failed.
    Ended {
        /// Whether it succeeded.
        succeeded: bool,
        /// What the caller would have got; `None` if the call was never made.
        response: Option<JobResponse>,
        /// Why it failed.
        error: Option<JobError>,
        /// How long it is kept.
        keep: Duration,
    },
    /// It is to be tried again after this time.
    Retry {
        /// Time until then.
        after: Duration,
        /// Why it could not be served.
        error: JobError,
    },
    /// It was not tried, and goes back to its place in the queue.
    Released,
}

/// The response to a job's call.
#[derive(Clone, Debug)]
pub struct JobResponse {
    /// Status and headers, as JSON that the gateway wrote.
    pub head: String,
    /// The rest of the body: what was not stored before in pieces (see [`super::JobStore::add_response_piece`]).
    pub rest: Bytes,
    /// Number of pieces stored before.
    pub pieces: u32,
    /// Size of the whole body, in bytes.
    pub bytes: u64,
}

/// Why a job failed or could not be served yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// The code, as in responses.
    pub code: String,
    /// A sentence for the caller.
    pub message: String,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// The virtual key that submitted it.
    pub caller: Option<Arc<str>>,
    /// The pool that it goes to.
    pub pool: Arc<str>,
    /// How urgent it is.
    pub priority: JobPriority,
    /// Where it is in its life.
    pub status: JobStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// The call without its body.
    pub request: String,
    /// Status and headers of its response; `None` if it has none.
    pub response: Option<String>,
    /// Size of the response's body, in bytes.
    pub response_bytes: u64,
    /// Why it failed, or why it was not served at the last try.
    pub error: Option<JobError>,
    /// Where its end is announced, and what became of that.
    pub webhook: Option<WebhookRecord>,
    /// When it was submitted.
    pub created_at: SystemTime,
    /// When it was first tried.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// When it fails if no provider has served it.
    pub deadline_at: SystemTime,
    /// Until when it is kept; `None` before its end.
    pub expires_at: Option<SystemTime>,
    /// While it is queued: number of jobs of its pool that come before it, at most 10,000, and 1.
    pub position: Option<u64>,
}

/// Which jobs are listed, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobQuery {
    /// Only this caller's; the inner `None`: those for which no virtual key was required.
    pub caller: Option<Option<Arc<str>>>,
    /// Only with this status.
    pub status: Option<JobStatus>,
    /// Only jobs submitted before this one.
    pub after: Option<JobId>,
    /// Maximum number.
    pub limit: usize,
}

/// What a call to end a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled now.
    Now,
    /// It had ended before.
    HadEnded,
    /// There is no such job.
    Missing,
}

/// A change of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedJob {
    /// Which job.
    pub id: JobId,
    /// Its status after the change.
    pub status: JobStatus,
    /// How often it was tried.
    pub attempts: u32,
}

impl JobStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing more will happen to the job.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl JobPriority {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
        }
    }

    /// The priority of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Low, Self::High]
            .into_iter()
            .find(|priority| priority.as_str() == name)
    }

    /// How far a job advances its caller's turn: of two callers with many jobs each, the one with priority high gets ten
    /// times as many turns.
    pub fn cost(self) -> u64 {
        match self {
            Self::Low => 10,
            Self::High => 1,
        }
    }
}
