//! Keeps the gateway and the store in step: changes through the admin API are made in the store first, changes of other nodes
//! are followed, and what is counted while serving is stored every few seconds. Serving never waits for any of it.

mod flush;
mod follow;

use std::sync::Arc;

use keypool_core::store::{AuditEntry, Change, KeyStateChange, StoreError, StoreErrorKind};

use crate::context::Gateway;
use crate::stored::Access;

pub(crate) use flush::{compact_regularly, flush_regularly};
pub(crate) use follow::follow_regularly;

impl Gateway {
    /// Notes and logs whether the store responded.
    pub(crate) fn note_store<T>(
        &self,
        access: Access,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_news = self.stored.note_outcome(access, &outcome);
        match &outcome {
            Err(error) if is_news => self.telemetry.store_failed(access, error),
            Ok(_) if is_news => self.telemetry.store_recovered(access),
            _ => {}
        }
        outcome
    }

    /// Makes a change of the catalog, and applies it.
    pub(crate) async fn change_catalog(
        self: &Arc<Self>,
        change: &Change,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        let changed = self.stored.store()?.change(change, audit).await;
        self.note_store(Access::Write, changed)?;
        self.follow_store().await.map_err(|error| {
            let message = format!(
                "the change was stored, and takes effect when the store can be read again: {error}"
            );
            StoreError::new(StoreErrorKind::Unavailable, message)
        })
    }

    /// Makes changes of what is known of keys. Other nodes follow them; this one must do the same to its keys.
    pub(crate) async fn change_key_states(
        &self,
        changes: &[KeyStateChange],
        audit: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        if !self.stored.is_there() {
            return Ok(());
        }
        self.stored.check_reachable()?;
        let now = self.clock.wall();
        let store = self.stored.store()?;
        let changed = store.change_key_states(changes, audit, now).await;
        let revision = self.note_store(Access::Write, changed)?;
        // Following it later would repeat it: a reset would end cooldowns that began since.
        self.stored.note_followed(revision);
        Ok(())
    }
}
