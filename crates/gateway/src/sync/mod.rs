//! Keeps the gateway and the store in step: changes through the admin API are made in the store first, changes of other nodes
//! are followed, and what is counted while serving is stored every few seconds. Serving never waits for any of it.

mod flush;
mod follow;
mod jobs;

use std::sync::Arc;

use keypool_core::key::KeyId;
use keypool_core::pool::MemberRef;
use keypool_core::settings::{KeySettings, PoolSettings};
use keypool_core::store::{
    AuditEntry, Change, KeyStateChange, MarksChange, StoreError, StoreErrorKind,
};

use crate::context::Gateway;
use crate::snapshot::PoolEntry;
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

    /// Applies a change of marks to a key on this node, and logs what it means.
    pub(crate) fn apply_marks(&self, entry: &PoolEntry, member: &MemberRef, marks: MarksChange) {
        let was_invalid = member.is_invalid();
        match marks {
            MarksChange::Keep => {}
            MarksChange::Recovered => member.recovered(true),
            MarksChange::Valid => member.recovered(false),
            MarksChange::Invalid => member.reject(),
            MarksChange::Cleared => member.reset(),
        }
        match (was_invalid, member.is_invalid()) {
            (false, true) => {
                self.telemetry.check_failed(&entry.pool, member);
                let now = self.clock.now();
                self.telemetry.health.after_failure(&entry.pool, now);
            }
            (true, false) => self.telemetry.check_passed(&entry.pool, member),
            _ => {}
        }
    }

    /// Before a key gets another secret or address: a key that is switched off stays so, although its state belongs to its
    /// secret. `settings` are those that it will have.
    pub(crate) async fn keep_disabled(
        &self,
        pool: &PoolSettings,
        settings: &KeySettings,
    ) -> Result<(), StoreError> {
        let snapshot = self.snapshot();
        let entry = snapshot.pool(&pool.name);
        let member = entry.and_then(|entry| entry.pool.member(&settings.name));
        let id = KeyId::of(pool, settings);
        if !member.is_some_and(|member| member.is_disabled() && member.key.id != id) {
            return Ok(());
        }
        let change = KeyStateChange {
            key: (&id).into(),
            disabled: Some(true),
            marks: MarksChange::Keep,
            quota: None,
        };
        self.change_key_states(std::slice::from_ref(&change), None)
            .await?;
        let now = self.clock.wall();
        let records = &self.stored.records;
        records.change(&change.key, now, |record| record.disabled = true);
        Ok(())
    }

    /// Makes changes of what is known of keys. Other nodes follow them; the caller applies them to this node's keys.
    pub(crate) async fn change_key_states(
        &self,
        changes: &[KeyStateChange],
        audit: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        if !self.stored.has_store() {
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
