//! Jobs on any SQL database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keypool_core::store::{
    AuditEntry, Cancelled, ChangedJob, ClaimedJob, JobClaim, JobId, JobLimits, JobQuery, JobRecord,
    JobResult, JobRevision, JobStore, NewJob, StoreError, Submitted,
};

use super::jobs::{self, BodyOf, JobsWrite};
use super::sql::Database;
use super::sql_store::{DEADLINE, LONG_DEADLINE, SqlStore, in_time, until_committed};
use super::{batches, files};

impl<D: Database> SqlStore<D> {
    async fn change_jobs(&self) -> Result<JobsWrite, StoreError> {
        self.keys().await?;
        JobsWrite::begin(self.database()).await
    }

    async fn body_piece(&self, id: &str, of: BodyOf, piece: u32) -> Result<Bytes, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            jobs::piece(&mut *self.database().read().await?, id, of, piece).await
        })
        .await
    }
}

#[async_trait]
impl<D: Database> JobStore for SqlStore<D> {
    async fn add_jobs(
        &self,
        jobs: &[NewJob],
        limits: &JobLimits,
    ) -> Result<Vec<Submitted>, StoreError> {
        let added = in_time(LONG_DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let added = jobs::add(&mut write, jobs, limits).await?;
            Ok((write, added))
        });
        let (write, added) = added.await?;
        until_committed(write.commit()).await?;
        Ok(added)
    }

    async fn claim_jobs(
        &self,
        node: u64,
        wanted: &[(Arc<str>, usize)],
    ) -> Result<Vec<ClaimedJob>, StoreError> {
        in_time(DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let claimed = jobs::claim(&mut write, node, wanted).await?;
            if !claimed.is_empty() {
                write.commit().await?;
            }
            Ok(claimed)
        })
        .await
    }

    async fn request_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError> {
        self.body_piece(id, BodyOf::Request, piece).await
    }

    async fn note_sent(&self, node: u64, claim: &JobClaim) -> Result<bool, StoreError> {
        in_time(DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let is_held = jobs::note_sent(&mut write, node, claim).await?;
            write.commit().await?;
            Ok(is_held)
        })
        .await
    }

    async fn add_response_piece(
        &self,
        claim: &JobClaim,
        piece: u32,
        data: Bytes,
    ) -> Result<bool, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            let mut transaction = self.database().write().await?;
            let is_held = jobs::add_piece(&mut *transaction, claim, piece, data).await?;
            transaction.commit().await?;
            Ok(is_held)
        })
        .await
    }

    async fn settle_jobs(&self, node: u64, results: &[JobResult]) -> Result<Vec<bool>, StoreError> {
        let settled = in_time(LONG_DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let settled = jobs::settle(&mut write, node, results).await?;
            Ok((write, settled))
        });
        let (write, settled) = settled.await?;
        until_committed(write.commit()).await?;
        Ok(settled)
    }

    async fn renew_claims(&self, node: u64) -> Result<Vec<JobClaim>, StoreError> {
        in_time(DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let claims = jobs::renew(&mut write, node).await?;
            write.commit().await?;
            Ok(claims)
        })
        .await
    }

    async fn sweep_jobs(&self, all: bool, keep: Duration) -> Result<bool, StoreError> {
        in_time(LONG_DEADLINE, async {
            self.keys().await?;
            // A write costs a synchronisation of the disk, and most sweeps find nothing.
            if !jobs::has_work(&mut *self.database().read().await?, all).await? {
                return Ok(false);
            }
            let mut write = self.change_jobs().await?;
            let has_more = jobs::sweep(&mut write, all, keep).await?;
            let has_expired = batches::expire(&mut write).await?;
            batches::forget(&mut write).await?;
            files::forget(&mut write).await?;
            write.commit().await?;
            Ok(has_more || has_expired)
        })
        .await
    }

    async fn cancel_job(
        &self,
        id: &str,
        keep: Duration,
        audit: Option<&AuditEntry>,
    ) -> Result<Cancelled, StoreError> {
        let cancelled = in_time(DEADLINE, async {
            let mut write = self.change_jobs().await?;
            let cancelled = jobs::cancel(&mut write, id, keep, audit).await?;
            Ok((write, cancelled))
        });
        let (write, cancelled) = cancelled.await?;
        if cancelled == Cancelled::Now {
            until_committed(write.commit()).await?;
        }
        Ok(cancelled)
    }

    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<JobRecord>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            jobs::by_id(&mut *self.database().read().await?, ids).await
        })
        .await
    }

    async fn list_jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            jobs::list(&mut *self.database().read().await?, query).await
        })
        .await
    }

    async fn due_pools(&self) -> Result<Vec<Arc<str>>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            jobs::due_pools(&mut *self.database().read().await?).await
        })
        .await
    }

    async fn response_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError> {
        self.body_piece(id, BodyOf::Response, piece).await
    }

    async fn changed_jobs(
        &self,
        since: Option<JobRevision>,
    ) -> Result<(JobRevision, Vec<ChangedJob>), StoreError> {
        in_time(LONG_DEADLINE, async {
            self.keys().await?;
            jobs::changed(&mut *self.database().read().await?, since).await
        })
        .await
    }
}
