//! The store on any SQL database.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use keypool_core::store::{
    AuditEntry, AuditRecord, Catalog, CatalogStore, Change, Flush, KeyRecord, KeyStateChange,
    KeyStateStore, ObjectRecord, RecordStore, Revision, StoreError, StoreErrorKind, UpstreamKeyId,
    UsageQuery, UsageTotal,
};
use tokio::sync::OnceCell;

use super::envelope::{Keys, MasterKey};
use super::schema::{self, Access};
use super::sql::Database;
use super::transaction::Write;
use super::{audit, catalog, change, compact, flush, key_states, objects, usage};

/// How long an operation may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long an operation may take that moves many rows, or an unknown number.
pub(super) const LONG_DEADLINE: Duration = Duration::from_secs(30);
/// Maximum number of rows of which an operation has not the longer deadline.
const FEW_ROWS: usize = 1_000;

/// A store on the database `D`.
pub struct SqlStore<D> {
    database: D,
    master_key: MasterKey,
    access: Access,
    keys: OnceCell<Arc<Keys>>,
}

impl<D: Database> SqlStore<D> {
    pub(super) fn on(database: D, master_key: MasterKey, access: Access) -> Self {
        Self {
            database,
            master_key,
            access,
            keys: OnceCell::new(),
        }
    }

    pub(super) fn database(&self) -> &D {
        &self.database
    }

    /// Prepares the database, if that is not done yet: creates or updates the schema and opens the store's keys.
    ///
    /// # Errors
    /// [`StoreErrorKind::NewerSchema`], [`StoreErrorKind::WrongMasterKey`]; nothing is written then.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        in_time(LONG_DEADLINE, self.keys()).await.map(drop)
    }

    /// Closes every connection, once its transaction has ended. Nothing can be read or written after that.
    pub async fn close(&self) {
        let close = async {
            self.database.close().await;
            Ok(())
        };
        // What is not closed in time is closed with the process.
        let _ = in_time(DEADLINE, close).await;
    }

    /// The store's keys, once the database is prepared.
    pub(super) async fn keys(&self) -> Result<Arc<Keys>, StoreError> {
        let keys = self.keys.get_or_try_init(|| async {
            schema::prepare(&self.database, &self.master_key, self.access)
                .await
                .map(Arc::new)
        });
        keys.await.cloned()
    }

    async fn write(&self, makes_change: bool) -> Result<Write, StoreError> {
        Write::begin(&self.database, self.keys().await?, makes_change).await
    }
}

/// How long an operation may take that writes this number of rows.
fn deadline(rows: usize) -> Duration {
    if rows > FEW_ROWS {
        LONG_DEADLINE
    } else {
        DEADLINE
    }
}

/// Waits for `work` until the deadline.
pub(super) async fn in_time<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let Ok(result) = tokio::time::timeout(deadline, work).await else {
        let message = format!(
            "the database did not answer within {} s",
            deadline.as_secs()
        );
        return Err(StoreError::new(StoreErrorKind::Unavailable, message));
    };
    result
}

async fn commit(write: Write) -> Result<Revision, StoreError> {
    until_committed(write.commit()).await
}

/// Waits until a change has taken effect. It may do so after the deadline too, which the error says.
pub(super) async fn until_committed<T>(
    commit: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, commit)
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "it is not known whether the change was stored; read it again before you repeat it",
            ))
        })
}

#[async_trait]
impl<D: Database> CatalogStore for SqlStore<D> {
    fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            catalog::revision(&mut *self.database.read().await?).await
        })
        .await
    }

    async fn catalog(&self) -> Result<Catalog, StoreError> {
        in_time(LONG_DEADLINE, async {
            let keys = self.keys().await?;
            catalog::read(&mut *self.database.read().await?, &keys).await
        })
        .await
    }

    async fn change(&self, change: &Change, audit: &AuditEntry) -> Result<Revision, StoreError> {
        let rows = match change {
            Change::AddKeys { keys, .. } => keys.len(),
            _ => 1,
        };
        let write = in_time(deadline(rows), async {
            let mut write = self.write(true).await?;
            change::apply(&mut write, change, audit.at).await?;
            audit::add(&mut write, audit).await?;
            Ok(write)
        });
        commit(write.await?).await
    }

    async fn audit_log(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        in_time(DEADLINE, async {
            self.keys().await?;
            audit::read(&mut *self.database.read().await?, before, limit).await
        })
        .await
    }

    async fn close(&self) {
        SqlStore::close(self).await;
    }
}

#[async_trait]
impl<D: Database> KeyStateStore for SqlStore<D> {
    async fn key_records(&self, since: Revision) -> Result<Vec<KeyRecord>, StoreError> {
        in_time(LONG_DEADLINE, async {
            let keys = self.keys().await?;
            key_states::read(&mut *self.database.read().await?, &keys, since).await
        })
        .await
    }

    async fn change_key_states(
        &self,
        changes: &[KeyStateChange],
        audit: Option<&AuditEntry>,
        now: SystemTime,
    ) -> Result<Revision, StoreError> {
        let write = in_time(deadline(changes.len()), async {
            let mut write = self.write(true).await?;
            key_states::change(&mut write, changes, now).await?;
            if let Some(audit) = audit {
                audit::add(&mut write, audit).await?;
            }
            Ok(write)
        });
        commit(write.await?).await
    }

    async fn quota_calls(
        &self,
        keys: &[UpstreamKeyId],
    ) -> Result<Vec<(UpstreamKeyId, Vec<SystemTime>)>, StoreError> {
        in_time(deadline(keys.len()), async {
            let opened = self.keys().await?;
            key_states::quota_calls(&mut *self.database.read().await?, &opened, keys).await
        })
        .await
    }
}

#[async_trait]
impl<D: Database> RecordStore for SqlStore<D> {
    async fn record(&self, flush: &Flush) -> Result<(), StoreError> {
        let rows = flush.rows.len() + flush.keys.len() + flush.objects.len();
        in_time(deadline(rows), async {
            let mut write = self.write(false).await?;
            if flush::is_new(&mut write, flush).await? {
                usage::add(&mut write, &flush.rows).await?;
                key_states::add_use(&mut write, flush).await?;
                objects::add(&mut write, &flush.objects).await?;
                write.commit().await?;
            }
            Ok(())
        })
        .await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageTotal>, StoreError> {
        in_time(LONG_DEADLINE, async {
            self.keys().await?;
            usage::read(&mut *self.database.read().await?, query).await
        })
        .await
    }

    async fn compact(&self, now: SystemTime) -> Result<(), StoreError> {
        in_time(LONG_DEADLINE, async {
            let mut write = self.write(false).await?;
            compact::run(&mut write, now).await?;
            write.commit().await.map(drop)
        })
        .await
    }

    async fn objects(
        &self,
        since: Option<SystemTime>,
        limit: usize,
    ) -> Result<Vec<ObjectRecord>, StoreError> {
        in_time(LONG_DEADLINE, async {
            let keys = self.keys().await?;
            objects::read(&mut *self.database.read().await?, &keys, since, limit).await
        })
        .await
    }
}
