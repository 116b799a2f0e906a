//! Checks of keys: a call that costs nothing finds out whether the provider accepts a key.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::pool::MemberRef;
use keypool_core::store::{AuditEntry, KeyStateChange, MarksChange, StoreError};
use tokio::time::timeout;

use crate::context::Gateway;
use crate::free_call;
use crate::key_checks::CheckResult;
use crate::snapshot::PoolEntry;

/// How long a check of a key may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Finds out whether the key works. `audit`: who asked.
///
/// A provider without a model list is asked for the key's quota, which is a refresh: it counts under the allowance of such
/// calls, and its figures are stored.
///
/// # Errors
/// Only of such a refresh: what it found could not be stored.
pub(crate) async fn check_key(
    gw: &Gateway,
    entry: &Arc<PoolEntry>,
    member: &MemberRef,
    audit: Option<&AuditEntry>,
) -> Result<CheckResult, StoreError> {
    if entry.dialect.list_models.is_none() && entry.dialect.quota.is_some() {
        return gw.refresh_key(entry, member, audit).await;
    }
    let asked = timeout(TIMEOUT, free_call::list_models(gw, entry, member)).await;
    Ok(match asked {
        Ok(Ok(_)) => CheckResult::Works,
        Ok(Err(error)) => error.check(),
        Err(_) => CheckResult::Unknown("upstream_timeout".into()),
    })
}

impl Gateway {
    /// Applies the result of a check to the key, here and on other nodes.
    ///
    /// # Errors
    /// With `audit`, if the result cannot be stored; nothing is applied then. Without it, the result is stored with the next
    /// flush, and other nodes find it out by themselves.
    pub(crate) async fn apply_check(
        &self,
        entry: &PoolEntry,
        member: &MemberRef,
        result: &CheckResult,
        audit: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        let marks = match result {
            CheckResult::Works if member.is_invalid() => MarksChange::Valid,
            CheckResult::Rejected if !member.is_invalid() => MarksChange::Invalid,
            _ => return Ok(()),
        };
        let change = KeyStateChange {
            key: (&member.key.id).into(),
            disabled: None,
            marks,
            quota: None,
        };
        let stored = self.change_key_states(&[change], audit).await;
        if audit.is_some() {
            stored?;
        }
        self.apply_marks(entry, member, marks);
        Ok(())
    }
}

/// Checks the key in the background. If the provider rejects it again, it is invalid.
pub(crate) fn check(gw: &Arc<Gateway>, entry: &Arc<PoolEntry>, member: &MemberRef) {
    if !gw.key_checks.begin(&member.key.id, gw.clock.now()) {
        return;
    }
    let (gw, entry, member) = (Arc::clone(gw), Arc::clone(entry), member.clone());
    let tasks = gw.tasks.clone();
    tasks.spawn(async move { check_and_apply(&gw, &entry, &member).await });
}

/// Checks the key, and applies the result.
pub(crate) async fn check_and_apply(gw: &Gateway, entry: &Arc<PoolEntry>, member: &MemberRef) {
    if let Ok(result) = check_key(gw, entry, member, None).await {
        // Without an audit entry, this does not fail.
        let _ = gw.apply_check(entry, member, &result, None).await;
    }
}
