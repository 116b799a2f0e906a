//! What a check of a key finds out, and when keys were checked that a provider rejected without a reason although it has
//! served them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::key::KeyId;
use parking_lot::Mutex;

/// What a call that costs nothing says about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckResult {
    /// The provider accepts it.
    Works,
    /// The provider rejects it.
    Rejected,
    /// It could not be found out, for the reason of this code.
    Unknown(Arc<str>),
}

/// A key is checked at most once in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// When each key was checked last.
#[derive(Default)]
pub(crate) struct KeyChecks(Mutex<HashMap<KeyId, Instant>>);

impl KeyChecks {
    /// Whether the key may be checked now, which is then noted.
    pub(crate) fn begin(&self, key: &KeyId, now: Instant) -> bool {
        let mut last = self.0.lock();
        last.retain(|_, at| now.saturating_duration_since(*at) < INTERVAL);
        if last.contains_key(key) {
            return false;
        }
        last.insert(key.clone(), now);
        true
    }
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
