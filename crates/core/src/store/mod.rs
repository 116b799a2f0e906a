//! What outlives the process: pools, keys and virtual keys that the admin API manages, the state of keys, usage, owners of
//! objects, and the audit log.
//!
//! This module must never know SQL, a wire form or a file. Settings pass through as the JSON text that the gateway wrote.

mod batch;
mod catalog;
mod change;
mod error;
mod key_record;
mod object_record;
mod usage;

use std::time::SystemTime;

use async_trait::async_trait;

pub use batch::Batch;
pub use catalog::{Catalog, StoredKey, StoredPool, StoredVirtualKey};
pub use change::{AuditEntry, AuditRecord, Change, Expected, NewKey, NewVirtualKey};
pub use error::{StoreError, StoreErrorKind};
pub use key_record::{
    KeyCooldown, KeyMarks, KeyRecord, KeyStateChange, KeyUse, MarksChange, NewMarks, Quota,
    QuotaChange, UpstreamKeyId,
};
pub use object_record::{ObjectChange, ObjectRecord};
pub use usage::{UsageCounts, UsageGroup, UsageQuery, UsageRow, UsageTotal};

/// Number of a change, counted from 1. Each change of the catalog, and each change of key states that other nodes must
/// follow, takes the next one.
pub type Revision = u64;

/// Where everything is stored that outlives the process.
///
/// Each method that writes does so in one transaction: all of it takes effect, or nothing. The number of statements does
/// not depend on the number of rows. Every wait has a deadline. Dropping a future may leave its transaction committed.
pub trait Store: CatalogStore + KeyStateStore + RecordStore {}

impl<T: CatalogStore + KeyStateStore + RecordStore> Store for T {}

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
    /// Adds what a node has counted and noted. A batch with a number that the same node has already stored is not added
    /// again, so a batch whose outcome is unknown may be repeated.
    async fn record(&self, batch: &Batch) -> Result<(), StoreError>;

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
