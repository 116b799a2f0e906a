//! Jobs in the store: submitted, settled, cancelled.

use std::sync::Arc;

use keypool_core::store::{
    AuditEntry, Cancelled, ChangedJob, JobClaim, JobResult, JobStatus, NewJob, StoreError,
    Submitted, WebhookResult,
};

use crate::context::Gateway;
use crate::stored::Access;

impl Gateway {
    /// Stores a job, with others that come at the same time.
    ///
    /// # Errors
    /// If the store fails; then it may be stored all the same.
    pub(crate) async fn submit_job(
        self: &Arc<Self>,
        job: NewJob,
    ) -> Result<Submitted, Arc<StoreError>> {
        let pool = Arc::clone(&job.pool);
        let gw = Arc::clone(self);
        let commit = move |jobs: Vec<NewJob>| {
            let gw = Arc::clone(&gw);
            async move {
                let limits = gw.snapshot().settings.jobs.limits;
                let added = gw.stored.store()?.add_jobs(&jobs, &limits).await;
                gw.note_store(Access::Write, added)
            }
        };
        let submitted = self.jobs.submissions.add(&self.tasks, job, commit).await?;
        if submitted == Submitted::Accepted {
            self.jobs.note_due(&pool);
        }
        Ok(submitted)
    }

    /// Stores what became of a claimed job. False if the claim was lost, so that it changes nothing.
    pub(crate) async fn settle_job(
        self: &Arc<Self>,
        result: JobResult,
    ) -> Result<bool, Arc<StoreError>> {
        let gw = Arc::clone(self);
        let commit = move |results: Vec<JobResult>| {
            let gw = Arc::clone(&gw);
            async move {
                let settled = gw.stored.store()?.settle_jobs(gw.jobs.node, &results).await;
                gw.note_store(Access::Write, settled)
            }
        };
        self.jobs.results.add(&self.tasks, result, commit).await
    }

    /// Ends a job, and the provider's call if this node makes it. Another node finds out when it renews its claim.
    pub(crate) async fn cancel_job(
        &self,
        id: &Arc<str>,
        attempts: u32,
        audit: Option<&AuditEntry>,
    ) -> Result<Cancelled, StoreError> {
        let keep = self.snapshot().settings.jobs.keep;
        let cancelled = self.stored.store()?.cancel_job(id, keep, audit).await;
        let cancelled = self.note_store(Access::Write, cancelled)?;
        if cancelled == Cancelled::Now {
            self.jobs.claims.stop(id);
            self.jobs.webhooks.wake.notify_one();
            self.jobs.watchers.note(&ChangedJob {
                id: Arc::clone(id),
                status: JobStatus::Cancelled,
                attempts,
            });
        }
        Ok(cancelled)
    }

    /// Stores what became of a claimed announcement. False if the claim was lost, so that it changes nothing.
    pub(crate) async fn settle_webhook(
        self: &Arc<Self>,
        result: WebhookResult,
    ) -> Result<bool, Arc<StoreError>> {
        let gw = Arc::clone(self);
        let commit = move |results: Vec<WebhookResult>| {
            let gw = Arc::clone(&gw);
            async move {
                let settled = gw.stored.store()?.settle_webhooks(&results).await;
                gw.note_store(Access::Write, settled)
            }
        };
        let results = &self.jobs.webhooks.results;
        results.add(&self.tasks, result, commit).await
    }

    /// Notes that the provider may get the call of this claim, which must not be made twice. False if the claim was lost.
    pub(crate) async fn note_job_sent(&self, claim: &JobClaim) -> Result<bool, StoreError> {
        let noted = self.stored.store()?.note_sent(self.jobs.node, claim).await;
        self.note_store(Access::Write, noted)
    }
}
