//! Logs when the condition of a pool changes: which of the three cases of trouble it is, and when it has recovered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keypool_core::fault::Class;
use keypool_core::pool::{NoFailover, Pool, PoolHealth};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::List;

/// Minimum time between two checks of a large pool, or of one in trouble: a check looks at every key.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pools up to this many keys are checked after every failure that changed something.
const SMALL_POOL: usize = 64;
/// Maximum number of failing keys that a message names.
const MAX_NAMED: usize = 5;

/// The last known condition of every pool.
#[derive(Default)]
pub(crate) struct HealthMonitor {
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Number of pools in trouble. Read without the lock after every success.
    in_trouble: AtomicUsize,
}

struct Known {
    health: PoolHealth,
    checked: Instant,
}

impl HealthMonitor {
    /// After a success: checks whether a pool in trouble has recovered.
    pub(crate) fn after_success(&self, pool: &Pool, now: Instant) {
        if self.in_trouble.load(Ordering::Relaxed) == 0 {
            return;
        }
        let is_due = |known: &Known| known.health != PoolHealth::Healthy && !known.is_recent(now);
        if self.known.lock().get(pool.name()).is_some_and(is_due) {
            self.check(pool, now);
        }
    }

    /// After a failure: checks the pool, and logs its condition if that changed.
    pub(crate) fn after_failure(&self, pool: &Pool, now: Instant) {
        let is_recent = |known: &Known| known.is_recent(now);
        let is_large = pool.current().members().len() > SMALL_POOL;
        if is_large && self.known.lock().get(pool.name()).is_some_and(is_recent) {
            return;
        }
        self.check(pool, now);
    }

    fn check(&self, pool: &Pool, now: Instant) {
        let health = pool.health();
        let known = Known {
            health: health.clone(),
            checked: now,
        };
        let mut all = self.known.lock();
        let before = all.insert(Arc::clone(pool.name()), known);
        let in_trouble = |known: &&Known| known.health != PoolHealth::Healthy;
        let count = all.values().filter(in_trouble).count();
        self.in_trouble.store(count, Ordering::Relaxed);
        drop(all);
        if before.map_or(PoolHealth::Healthy, |known| known.health) != health {
            log(pool, &health);
        }
    }
}

impl Known {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.checked) < CHECK_INTERVAL
    }
}

fn log(pool: &Pool, health: &PoolHealth) {
    let name = &**pool.name();
    let keys = pool.current().members().len();
    match health {
        PoolHealth::Healthy => info!(pool = name, "pool \"{name}\" recovered"),
        PoolHealth::AllFail(cause) => warn!(
            pool = name,
            case = "all_keys_fail",
            "all {keys} keys of pool \"{name}\" fail: {}",
            advice(*cause)
        ),
        PoolHealth::SomeFail(failing) => warn!(
            pool = name,
            case = "some_keys_fail",
            failing = ?List(failing),
            "{} of {keys} keys of pool \"{name}\" fail while the others work: look at {}",
            failing.len(),
            quoted(failing),
        ),
        PoolHealth::NoFailover(reason) => warn!(
            pool = name,
            case = "no_failover",
            "no failover is possible in pool \"{name}\": {}",
            no_failover(*reason)
        ),
    }
}

/// What an operator can do when all keys fail for this cause.
fn advice(cause: Option<Class>) -> &'static str {
    match cause {
        Some(Class::Rejected) => {
            "the provider rejects every one; look at the account, then replace or reset the keys"
        }
        Some(Class::Exhausted) => {
            "none has quota or balance left; top up, or add keys of another account"
        }
        Some(Class::RateLimited) => {
            "all are rate-limited; slow down, or add keys of another account"
        }
        Some(Class::Forbidden) => {
            "none may use this model; allow it at the provider, or add keys of an account that may"
        }
        Some(_) => "it is the provider or the way to it, not a key; requests still go out",
        None => "for different reasons; see the warnings above and /api/keys/stats",
    }
}

/// Why there is no failover, and what to do about it.
pub(crate) fn no_failover(reason: NoFailover) -> &'static str {
    match reason {
        NoFailover::SingleKey => "it has a single key; add another",
        NoFailover::NoRetries => "`retry.retries` is 0; raise it",
        NoFailover::OneGroup => {
            "all its keys belong to one quota group and cool down together; add a key of another account"
        }
    }
}

fn quoted(names: &[Arc<str>]) -> String {
    let named = names.iter().take(MAX_NAMED);
    let quoted: Vec<String> = named.map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}
