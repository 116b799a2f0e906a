//! Checks of keys that a provider rejected without a reason although it has served them: a call that costs nothing decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::fault::Class;
use keypool_core::key::KeyId;
use keypool_core::pool::MemberRef;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::context::Gateway;
use crate::free_call::{self, FreeCallError};
use crate::snapshot::PoolEntry;

/// A key is checked at most once in this time.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a check may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// When each key was checked last.
#[derive(Default)]
pub(crate) struct KeyChecks(Mutex<HashMap<KeyId, Instant>>);

impl KeyChecks {
    /// Whether the key may be checked now, which is then noted.
    fn begin(&self, key: &KeyId, now: Instant) -> bool {
        let mut last = self.0.lock();
        last.retain(|_, at| now.saturating_duration_since(*at) < INTERVAL);
        if last.contains_key(key) {
            return false;
        }
        last.insert(key.clone(), now);
        true
    }
}

/// Checks the key in the background. If the provider rejects it again, it is invalid.
pub(crate) fn check(gw: &Arc<Gateway>, entry: &Arc<PoolEntry>, member: &MemberRef) {
    if !gw.key_checks.begin(&member.key.id, gw.clock.now()) {
        return;
    }
    let (gw, entry, member) = (Arc::clone(gw), Arc::clone(entry), member.clone());
    let tasks = gw.tasks.clone();
    tasks.spawn(async move {
        let checking = free_call::list_models(&gw, &entry, &member);
        let Ok(Err(FreeCallError::Refused(fault))) = timeout(TIMEOUT, checking).await else {
            return;
        };
        if fault.class == Class::Rejected {
            member.reject();
            gw.telemetry.check_failed(&entry.pool, &member);
            gw.telemetry
                .health
                .after_failure(&entry.pool, gw.clock.now());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_once_a_minute() {
        let id = |origin: &str| KeyId {
            provider: "mock",
            origin: origin.into(),
            digest: keypool_core::secret::Digest256::of(b"k"),
        };
        let (checks, now) = (KeyChecks::default(), tokio::time::Instant::now().into_std());
        assert!(checks.begin(&id("a"), now));
        assert!(!checks.begin(&id("a"), now + INTERVAL / 2));
        assert!(checks.begin(&id("b"), now));
        assert!(checks.begin(&id("a"), now + INTERVAL));
    }
}
