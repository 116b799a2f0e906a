//! Delivering announcements of jobs' ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{JobId, JobStatus, StoreError};

/// An announcement that a node has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedWebhook {
    /// Which job.
    pub job: JobId,
    /// How often it was claimed, with this time: a fencing token.
    pub attempt: u32,
    /// The virtual key that submitted the job.
    pub caller: Option<Arc<str>>,
    /// Where it goes.
    pub url: String,
    /// Its host.
    pub host: Arc<str>,
    /// How the job ended.
    pub status: JobStatus,
    /// When the job ended.
    pub ended_at: SystemTime,
    /// Time from the job's end until the claim.
    pub age: Duration,
}

/// What became of a claimed announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookResult {
    /// Which job.
    pub job: JobId,
    /// Which claim.
    pub attempt: u32,
    /// What became of it.
    pub outcome: WebhookOutcome,
}

/// What became of a claimed announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The receiver has accepted it.
    Delivered,
    /// It is to be tried again.
    Retry {
        /// Time until then.
        after: Duration,
        /// Why it failed, in a sentence without secrets.
        error: String,
    },
    /// It is not tried any more.
    GivenUp {
        /// Why it failed, in a sentence without secrets.
        error: String,
    },
}

/// Announcements of jobs' ends that are still to be delivered, by any node. Each is due from its job's end on, in the same
/// transaction. A claim lasts [`WEBHOOK_LEASE`].
#[async_trait]
pub trait WebhookStore: Send + Sync {
    /// The hosts for which announcements are due.
    async fn due_webhook_hosts(&self) -> Result<Vec<Arc<str>>, StoreError>;

    /// Claims announcements that are due, for each of these hosts up to this number; the one that is due for longest first.
    async fn claim_webhooks(
        &self,
        wanted: &[(Arc<str>, usize)],
    ) -> Result<Vec<ClaimedWebhook>, StoreError>;

    /// Stores what became of claimed announcements. False for those that were claimed again, or are kept no longer: nothing
    /// is stored of them.
    async fn settle_webhooks(&self, results: &[WebhookResult]) -> Result<Vec<bool>, StoreError>;
}

/// How long a node has an announcement that it has claimed: longer than an attempt may take.
pub const WEBHOOK_LEASE: Duration = Duration::from_secs(15);
