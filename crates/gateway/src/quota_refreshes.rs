//! The refreshes of quotas that run, and what they find. Must never ask a provider: `quota` does.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{Quota, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::key_checks::CheckResult;

/// What a refresh found.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefreshReport {
    pub(crate) duration: Duration,
    /// By pool and key, in the order of the configuration.
    pub(crate) keys: Vec<RefreshedKey>,
}

/// What a refresh found for one key.
#[derive(Clone, Debug)]
pub(crate) struct RefreshedKey {
    pub(crate) pool: Arc<str>,
    pub(crate) name: Arc<str>,
    /// The last figures that are known.
    pub(crate) quota: Option<Quota>,
    /// Why there are no new ones, as a code.
    pub(crate) error: Option<Arc<str>>,
    /// What that says about the key.
    pub(crate) check: CheckResult,
}

/// A refresh that failed as a whole: nothing was stored.
pub(crate) type RefreshResult = Result<Arc<RefreshReport>, Arc<StoreError>>;

/// The refreshes that run.
#[derive(Default)]
pub(crate) struct QuotaRefreshes {
    pub(crate) running: Mutex<Vec<Running>>,
    /// Held during a refresh of keys for which such calls are limited.
    pub(crate) limited: tokio::sync::Mutex<()>,
}

pub(crate) struct Running {
    /// The names of its pools.
    pub(crate) pools: Vec<Arc<str>>,
    pub(crate) result: watch::Receiver<Option<RefreshResult>>,
}
