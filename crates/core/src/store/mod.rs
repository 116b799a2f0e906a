//! What outlives the process: pools, keys and virtual keys that the admin API manages, the state of keys, usage, owners of
//! objects, and the audit log.
//!
//! This module must never know SQL, a wire form or a file. Settings pass through as the JSON text that the gateway wrote.

mod batch;
mod catalog;
mod change;
mod error;
mod file;
mod flush;
mod job;
mod job_failure;
mod key_record;
mod object_record;
mod usage;
mod webhook;
mod webhook_delivery;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{
    BatchEnding, BatchPart, BatchQuery, BatchRecord, BatchStatus, BatchUsage, LineResult,
    LineState, NewBatch, ResultStored,
};
pub use catalog::{Catalog, StoredKey, StoredPool, StoredVirtualKey};
pub use change::{AuditEntry, AuditRecord, Change, Expected, NewKey, NewVirtualKey};
pub use error::{StoreError, StoreErrorKind};
pub use file::{FileDeletion, FileQuery, FileRecord, NewFile, ResultsOf};
pub use flush::Flush;
pub use job::{
    Cancelled, ChangedJob, ClaimedJob, Idempotency, JobClaim, JobError, JobId, JobKind, JobLimit,
    JobLimits, JobOutcome, JobPriority, JobQuery, JobRecord, JobResponse, JobResult, JobRevision,
    JobStatus, NewJob, Submitted,
};
pub use job_failure::JobFailure;
pub use key_record::{
    KeyCooldown, KeyMarks, KeyRecord, KeyStateChange, KeyUse, MarksChange, NewMarks, Quota,
    QuotaChange, UpstreamKeyId,
};
pub use object_record::{ObjectChange, ObjectRecord};
pub use usage::{UsageCounts, UsageGroup, UsageQuery, UsageRow, UsageTotal};
pub use webhook::{Webhook, WebhookRecord, WebhookState};
pub use webhook_delivery::{
    ClaimedWebhook, WEBHOOK_LEASE, WebhookOutcome, WebhookResult, WebhookStore,
};

/// Number of a change, counted from 1. Each change of the catalog, and each change of key states that other nodes must
/// follow, takes the next one.
pub type Revision = u64;

/// Where everything is stored that outlives the process.
///
/// Each method that writes does so in one transaction: all of it takes effect, or nothing. The number of statements does
/// not depend on the number of rows. Every wait has a deadline. Dropping a future may leave its transaction committed.
pub trait Store:
    CatalogStore + KeyStateStore + RecordStore + JobStore + FileStore + BatchStore + WebhookStore
{
}

impl<T> Store for T where
    T: CatalogStore
        + KeyStateStore
        + RecordStore
        + JobStore
        + FileStore
        + BatchStore
        + WebhookStore
{
}

/// Pools, keys and virtual keys that the admin API manages, and who changed them.
#[async_trait]
pub trait CatalogStore: Send + Sync {
    /// Whether other nodes may change it.
    fn is_shared(&self) -> bool;

    /// The number of the newest change; 0: nothing was ever changed.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Everything that the admin API manages, as of one revision.
    async fn catalog(&self) -> Result<Catalog, StoreError>;

    /// Makes one change and writes `audit` beside it. Returns the change's number.
    ///
    /// # Errors
    /// If it contradicts what is stored by now: [`StoreErrorKind::NameTaken`], [`StoreErrorKind::SecretTaken`],
    /// [`StoreErrorKind::Missing`], [`StoreErrorKind::VersionMismatch`].
    async fn change(&self, change: &Change, audit: &AuditEntry) -> Result<Revision, StoreError>;

    /// The newest entries of the audit log before the entry `before` (`None`: from the newest on), newest first.
    async fn audit_log(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError>;

    /// Ends the use of the store, so that its file is complete without what is kept beside it while it is used. Nothing can be
    /// read or written after that.
    async fn close(&self) {}
}

/// What is known of upstream keys, wherever they come from.
#[async_trait]
pub trait KeyStateStore: Send + Sync {
    /// The records changed after `since` by [`KeyStateStore::change_key_states`]; with 0, all records.
    async fn key_records(&self, since: Revision) -> Result<Vec<KeyRecord>, StoreError>;

    /// Makes these changes, which other nodes follow, and writes `audit` beside them. A record that is missing is made.
    /// Returns the number of the change.
    async fn change_key_states(
        &self,
        changes: &[KeyStateChange],
        audit: Option<&AuditEntry>,
        now: SystemTime,
    ) -> Result<Revision, StoreError>;

    /// When these keys' providers were last asked for their quota, for all nodes together; oldest first.
    async fn quota_calls(
        &self,
        keys: &[UpstreamKeyId],
    ) -> Result<Vec<(UpstreamKeyId, Vec<SystemTime>)>, StoreError>;
}

/// What is counted and noted while serving.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// Adds what a node has counted and noted. A flush with a number that the same node has already stored is not added
    /// again, so a flush whose outcome is unknown may be repeated.
    async fn record(&self, flush: &Flush) -> Result<(), StoreError>;

    /// Sums of usage.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, StoreError>;

    /// Adds up old usage into hours and days, and deletes what is older than is kept.
    async fn compact(&self, now: SystemTime) -> Result<(), StoreError>;

    /// Objects created or deleted since then; `None`: the newest `limit` that are not deleted. Oldest first.
    async fn objects(
        &self,
        since: Option<SystemTime>,
        limit: usize,
    ) -> Result<Vec<ObjectRecord>, StoreError>;
}

/// Calls that are accepted now and made later, by any node.
///
/// A node claims jobs and says what became of them. A claim lasts [`JOB_LEASE`] unless it is renewed; when it has run out,
/// another node may claim the job, and what the first one says changes nothing any more. Times are those of the store's
/// clock.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Queues these jobs, each unless it repeats another one or would exceed a limit. What is accepted survives a power cut.
    async fn add_jobs(
        &self,
        jobs: &[NewJob],
        limits: &JobLimits,
    ) -> Result<Vec<Submitted>, StoreError>;

    /// Claims jobs for the node, from the queue of each of these pools up to this number. Callers take turns.
    async fn claim_jobs(
        &self,
        node: u64,
        wanted: &[(Arc<str>, usize)],
    ) -> Result<Vec<ClaimedJob>, StoreError>;

    /// A piece of the body of a job's request, counted from 0; empty after the last one.
    async fn request_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError>;

    /// Notes that the provider may have got the call of this claim, which must not be made twice. False if the node does
    /// not have the claim any more.
    async fn note_sent(&self, node: u64, claim: &JobClaim) -> Result<bool, StoreError>;

    /// Stores a piece of the response to a claimed job, counted from 0. False if the claim has been lost.
    async fn add_response_piece(
        &self,
        claim: &JobClaim,
        piece: u32,
        data: Bytes,
    ) -> Result<bool, StoreError>;

    /// Stores what became of claimed jobs. False for those whose claim the node does not have any more: nothing is stored of
    /// them.
    async fn settle_jobs(&self, node: u64, results: &[JobResult]) -> Result<Vec<bool>, StoreError>;

    /// Renews all claims of the node, and returns those that it has.
    async fn renew_claims(&self, node: u64) -> Result<Vec<JobClaim>, StoreError>;

    /// Puts jobs back into their queues whose claim has run out, or whose next try is due, and ends those that cannot go on;
    /// deletes those that are kept no longer. `all`: every claim has run out, since no other node uses the store. `keep`: how
    /// long a job that ends is kept. Returns whether there is more to claim than before.
    async fn sweep_jobs(&self, all: bool, keep: Duration) -> Result<bool, StoreError>;

    /// Ends a job. If it is cancelled now, `audit` is written beside it.
    async fn cancel_job(
        &self,
        id: &str,
        keep: Duration,
        audit: Option<&AuditEntry>,
    ) -> Result<Cancelled, StoreError>;

    /// What is known of these jobs. Those that are not known are left out.
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<JobRecord>, StoreError>;

    /// Jobs, newest first.
    async fn list_jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, StoreError>;

    /// The pools with jobs that can be claimed.
    async fn due_pools(&self) -> Result<Vec<Arc<str>>, StoreError>;

    /// A piece of the body of a job's response, counted from 0; empty after the last one.
    async fn response_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError>;

    /// The jobs that were changed after `since`, oldest change first, and the newest change. `None`: only that.
    async fn changed_jobs(
        &self,
        since: Option<JobRevision>,
    ) -> Result<(JobRevision, Vec<ChangedJob>), StoreError>;
}

/// How long a node has a job that it has claimed, unless it renews the claim.
pub const JOB_LEASE: Duration = Duration::from_secs(10);

/// Files that callers keep here.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// Begins an upload. Nobody sees the file before it is complete; an upload that comes to nothing is deleted after an hour.
    async fn begin_file(&self, file: &NewFile) -> Result<(), StoreError>;

    /// Stores a piece of an upload, counted from 0.
    async fn add_file_piece(&self, id: &str, piece: u32, data: Bytes) -> Result<(), StoreError>;

    /// Ends an upload of this size, to be kept as long as this, or as said at its begin. Returns the limit that it would exceed;
    /// then it is deleted.
    async fn complete_file(
        &self,
        id: &str,
        bytes: u64,
        keep: Option<Duration>,
        limits: &JobLimits,
    ) -> Result<Option<JobLimit>, StoreError>;

    /// What is known of a file; `None` if there is none that is complete.
    async fn file(&self, id: &str) -> Result<Option<FileRecord>, StoreError>;

    /// Files.
    async fn list_files(&self, query: &FileQuery) -> Result<Vec<FileRecord>, StoreError>;

    /// A piece of an uploaded file, counted from 0; empty after the last one.
    async fn file_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError>;

    /// Deletes a file, uploaded or in upload, unless a batch that has not ended reads it.
    async fn delete_file(&self, id: &str) -> Result<FileDeletion, StoreError>;
}

/// Batches of calls. Their parts are jobs ([`JobKind`]), with the claims of jobs.
#[async_trait]
pub trait BatchStore: Send + Sync {
    /// Creates a batch, with the job that checks its file.
    async fn add_batch(&self, batch: &NewBatch) -> Result<(), StoreError>;

    /// What is known of a batch.
    async fn batch(&self, id: &str) -> Result<Option<BatchRecord>, StoreError>;

    /// Batches, newest first.
    async fn list_batches(&self, query: &BatchQuery) -> Result<Vec<BatchRecord>, StoreError>;

    /// Begins the calls of a batch whose file is valid: queues its parts. `model`: the one that all calls name. False if the
    /// node does not have the claim any more; the same holds below.
    async fn begin_batch(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        model: Option<&str>,
        parts: &[BatchPart],
    ) -> Result<bool, StoreError>;

    /// Ends a batch whose file has mistakes. `errors`: as JSON.
    async fn fail_batch(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        errors: &str,
    ) -> Result<bool, StoreError>;

    /// Those of these lines that have a result or were sent.
    async fn line_states(
        &self,
        id: &str,
        lines: Range<u64>,
    ) -> Result<Vec<(u64, LineState)>, StoreError>;

    /// Notes that the provider may have got the call of this line, which must not be made twice.
    async fn note_line_sent(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        line: u64,
    ) -> Result<bool, StoreError>;

    /// Stores results, each once. The last one completes its batch.
    async fn add_results(
        &self,
        node: u64,
        results: &[LineResult],
    ) -> Result<Vec<ResultStored>, StoreError>;

    /// Begins to end a batch before all its calls were made: no further line is called, and a job ends it once nothing runs any
    /// more. False if it has ended, or is ending already.
    async fn begin_ending(&self, id: &str, ending: BatchEnding) -> Result<bool, StoreError>;

    /// Number of parts of the batch that a node works on.
    async fn running_parts(&self, id: &str) -> Result<u64, StoreError>;

    /// Ends a batch of which no part runs any more.
    async fn end_batch(&self, by: (u64, &JobClaim), id: &str) -> Result<bool, StoreError>;

    /// Lines of the file with the results or the errors of a batch, after this line of its input, in the order of the input;
    /// empty after the last one.
    async fn results(&self, of: &ResultsOf, after: u64) -> Result<Vec<(u64, String)>, StoreError>;
}
