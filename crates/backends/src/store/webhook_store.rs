//! Announcements of jobs' ends on any SQL database.

use std::sync::Arc;

use async_trait::async_trait;
use keypool_core::store::{ClaimedWebhook, StoreError, WebhookResult, WebhookStore};

use super::jobs::{self, JobsWrite};
use super::sql::Database;
use super::sql_store::{DEADLINE, SqlStore, in_time};

#[async_trait]
impl<D: Database> WebhookStore for SqlStore<D> {
    async fn due_webhook_hosts(&self) -> Result<Vec<Arc<str>>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            jobs::due_webhook_hosts(&mut *self.database().read().await?).await
        })
        .await
    }

    async fn claim_webhooks(
        &self,
        wanted: &[(Arc<str>, usize)],
    ) -> Result<Vec<ClaimedWebhook>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            let mut write = JobsWrite::begin(self.database()).await?;
            let claimed = jobs::claim_webhooks(&mut write, wanted).await?;
            if !claimed.is_empty() {
                write.commit().await?;
            }
            Ok(claimed)
        })
        .await
    }

    async fn settle_webhooks(&self, results: &[WebhookResult]) -> Result<Vec<bool>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            let mut write = JobsWrite::begin(self.database()).await?;
            let settled = jobs::settle_webhooks(&mut write, results).await?;
            write.commit().await?;
            Ok(settled)
        })
        .await
    }
}
