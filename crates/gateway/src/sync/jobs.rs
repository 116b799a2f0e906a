//! Jobs in the store: submitted, settled, cancelled.

use std::sync::Arc;

use keypool_core::store::{
    AuditEntry, BatchEnding, Cancelled, ChangedJob, JobResult, JobStatus, LineResult, NewJob,
    ResultStored, StoreError, Submitted, WebhookResult,
};

use crate::context::Gateway;
use crate::jobs::CallMark;
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

    /// Notes that the provider may get this call, which must not be made twice. False if the claim was lost.
    pub(crate) async fn note_call_sent(&self, mark: &CallMark) -> Result<bool, StoreError> {
        let (store, node) = (self.stored.store()?, self.jobs.node);
        let noted = match mark.line() {
            None => store.note_sent(node, mark.claim()).await,
            Some((batch, line)) => {
                store
                    .note_line_sent((node, mark.claim()), batch, line)
                    .await
            }
        };
        self.note_store(Access::Write, noted)
    }

    /// Stores the result of a line of a batch, with others that come at the same time.
    pub(crate) async fn add_line_result(
        self: &Arc<Self>,
        result: LineResult,
    ) -> Result<ResultStored, Arc<StoreError>> {
        let gw = Arc::clone(self);
        let commit = move |results: Vec<LineResult>| {
            let gw = Arc::clone(&gw);
            async move {
                let stored = gw.stored.store()?.add_results(gw.jobs.node, &results).await;
                gw.note_store(Access::Write, stored)
            }
        };
        self.jobs
            .line_results
            .add(&self.tasks, result, commit)
            .await
    }

    /// Begins to end a batch. Parts of it that run on this node make no further calls. False if it has ended, or is ending
    /// already.
    pub(crate) async fn cancel_batch(&self, id: &str) -> Result<bool, StoreError> {
        let store = self.stored.store()?;
        let begun = store.begin_ending(id, BatchEnding::Cancelled).await;
        let begun = self.note_store(Access::Write, begun)?;
        if begun {
            self.jobs.claims.wind_down(id);
            self.jobs.note_due(&"".into());
        }
        Ok(begun)
    }
}
