//! Checks invalid keys again and again, at growing intervals, so that those that work again serve again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use keypool_core::key::KeyId;
use keypool_core::pool::MemberRef;
use tokio::time::sleep;

use crate::checks;
use crate::context::Gateway;
use crate::snapshot::PoolEntry;

/// Time between two looks for invalid keys whose check is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time until an invalid key is checked for the first time. It doubles with each check.
const FIRST_CHECK: Duration = Duration::from_secs(300);
/// Maximum time between two checks of an invalid key.
const MAX_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Maximum number of checks at once.
const CONCURRENCY: usize = 8;

/// When invalid keys are checked next, and at which interval.
#[derive(Default)]
struct InvalidKeys(HashMap<KeyId, (Instant, Duration)>);

impl InvalidKeys {
    /// The keys of `invalid` that are due, which are then due again later. Others are forgotten.
    fn take_due<T>(&mut self, invalid: Vec<(KeyId, T)>, now: Instant) -> Vec<T> {
        let mut known = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (id, key) in invalid {
            let (at, interval) = known
                .remove(&id)
                .unwrap_or((now + jittered(FIRST_CHECK), FIRST_CHECK));
            if self.0.contains_key(&id) {
                // The same key in another pool.
                continue;
            }
            if at > now {
                self.0.insert(id, (at, interval));
                continue;
            }
            let interval = (interval * 2).min(MAX_INTERVAL);
            self.0.insert(id, (now + jittered(interval), interval));
            due.push(key);
        }
        due
    }
}

/// `time`, up to a fifth longer, so that nodes and keys fall apart.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(1.0 + fastrand::f64() / 5.0)
}

/// Checks them with a call that costs nothing.
pub(crate) async fn check_regularly(gw: &Arc<Gateway>) -> Infallible {
    let mut keys = InvalidKeys::default();
    loop {
        sleep(jittered(LOOK_EVERY)).await;
        let due = keys.take_due(invalid_keys(gw), gw.clock.now());
        let checks = stream::iter(due).map(|(entry, member)| async move {
            checks::check_and_apply(gw, &entry, &member).await;
        });
        checks
            .buffer_unordered(CONCURRENCY)
            .for_each(|()| async {})
            .await;
    }
}

/// The invalid keys of all pools.
fn invalid_keys(gw: &Gateway) -> Vec<(KeyId, (Arc<PoolEntry>, MemberRef))> {
    let mut found = Vec::new();
    for entry in &gw.snapshot().pools {
        let has_free_call = entry.dialect.list_models.is_some() || entry.dialect.quota.is_some();
        for member in entry.pool.keys().all().filter(|_| has_free_call) {
            if member.is_invalid() && !member.is_disabled() {
                found.push((member.key.id.clone(), (Arc::clone(entry), member)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_key_is_checked_at_growing_intervals() {
        let start = tokio::time::Instant::now().into_std();
        let id = KeyId {
            provider: "mock",
            origin: "a".into(),
            digest: keypool_core::secret::Digest256::of(b"k"),
        };
        let (mut keys, mut checks) = (InvalidKeys::default(), Vec::new());
        for minute in 0..24 * 60 {
            let now = start + Duration::from_secs(60 * minute);
            // The key is in two pools.
            let invalid = vec![(id.clone(), ()), (id.clone(), ())];
            if !keys.take_due(invalid, now).is_empty() {
                checks.push(minute);
            }
        }
        assert!((5..=6).contains(&checks[0]), "{checks:?}");
        assert!((8..=11).contains(&checks.len()), "{checks:?}");
        let gaps: Vec<u64> = checks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps[..4].is_sorted() && gaps.iter().all(|gap| *gap <= 433),
            "{gaps:?}"
        );
        assert!(keys.take_due(Vec::<(KeyId, ())>::new(), start).is_empty() && keys.0.is_empty());
    }
}
