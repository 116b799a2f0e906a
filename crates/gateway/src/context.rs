//! What every part of the gateway shares: a few handles, cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::settings::Settings;
use arc_swap::ArcSwap;
use keypool_core::clock::Clock;
use keypool_core::limit::Limiter;
use keypool_core::pool::Registry;
use keypool_core::secret::Digest256;
use keypool_core::store::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::jobs::Jobs;
use crate::key_checks::KeyChecks;
use crate::limits::CallerLimits;
use crate::model_lists::ModelLists;
use crate::objects::Objects;
use crate::prebuilt_headers;
use crate::quota_refreshes::QuotaRefreshes;
pub use crate::reload::{Changes, LoadSettings, Reloaded};
use crate::snapshot::Snapshot;
pub use crate::stored::HeldVirtualKey;
use crate::stored::{self, Stored, StoredVirtualKeys};
use crate::telemetry::Telemetry;
use crate::threads::Threads;
use crate::traces::Traces;
use crate::upstream::Upstream;

/// Memory for the request bodies of all requests together, in bytes. A body that does not fit waits.
const BODY_BUDGET: u64 = 1 << 30;
/// The unit in which the budget is counted, in bytes.
pub(crate) const BUDGET_UNIT: u64 = 4096;

/// The limiter and the store, which other processes may share.
pub struct Backends {
    /// Counts the limits of callers and keys.
    pub limiter: Arc<dyn Limiter>,
    /// Keeps what the admin API manages, and what is counted; `None`: nothing is kept.
    pub store: Option<Arc<dyn Store>>,
    /// What is known of the store's virtual keys while it does not respond.
    pub held_virtual_key: HeldVirtualKey,
}

impl Backends {
    /// A limiter and no store.
    pub fn without_store(limiter: Arc<dyn Limiter>) -> Self {
        Self {
            limiter,
            store: None,
            held_virtual_key: HeldVirtualKey::default(),
        }
    }
}

/// The gateway's shared handles.
pub struct Gateway {
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Tasks that a shutdown waits for.
    pub tasks: TaskTracker,
    pub(crate) threads: Threads,
    pub(crate) upstream: Upstream,
    pub(crate) model_lists: ModelLists,
    pub(crate) key_checks: KeyChecks,
    pub(crate) objects: Objects,
    pub(crate) telemetry: Telemetry,
    pub(crate) traces: Traces,
    pub(crate) limits: Arc<CallerLimits>,
    pub(crate) body_budget: Arc<Semaphore>,
    pub(crate) stored: Stored,
    pub(crate) quota: QuotaRefreshes,
    pub(crate) jobs: Jobs,
    pub(crate) admin_token: Digest256,
    /// The configuration without what the store adds.
    declared: Mutex<Arc<Settings>>,
    snapshot: ArcSwap<Snapshot>,
    registry: Registry,
    load: LoadSettings,
    /// Held during a reload, so that there is one at a time.
    reloading: Mutex<()>,
    /// Number of units that the body budget has.
    budget_units: AtomicUsize,
    shutting_down: AtomicBool,
    aborting: AtomicBool,
}

impl Gateway {
    /// A gateway for `settings`. `admin_token`: the digest of the admin token. What is stored is applied by
    /// [`Gateway::load_store`].
    pub fn new(
        settings: Settings,
        admin_token: Digest256,
        clock: Arc<dyn Clock>,
        backends: Backends,
        load: LoadSettings,
    ) -> Arc<Self> {
        let Backends {
            limiter,
            store,
            held_virtual_key,
        } = backends;
        let virtual_keys = StoredVirtualKeys::unknown(held_virtual_key.is_known);
        let stored = Stored::new(store, held_virtual_key);
        let registry = Registry::new(Arc::clone(&clock), Box::new(prebuilt_headers::prepare))
            .with_limiter(&limiter)
            .with_records(Arc::clone(&stored.records));
        let pools = registry.pools(&settings.pools, &[]);
        let budget = budget_units(&settings);
        let telemetry = Telemetry::default();
        Arc::new(Self {
            upstream: Upstream::new(&telemetry),
            model_lists: ModelLists::default(),
            key_checks: KeyChecks::default(),
            objects: Objects::new(stored.has_store()),
            stored,
            quota: QuotaRefreshes::default(),
            jobs: Jobs::default(),
            telemetry,
            traces: Traces::default(),
            limits: CallerLimits::new(limiter, &clock),
            body_budget: Arc::new(Semaphore::new(budget)),
            declared: Mutex::new(Arc::new(settings.clone())),
            snapshot: ArcSwap::from_pointee(Snapshot::new(settings, pools, virtual_keys)),
            admin_token,
            registry,
            load,
            reloading: Mutex::new(()),
            budget_units: AtomicUsize::new(budget),
            shutting_down: AtomicBool::new(false),
            aborting: AtomicBool::new(false),
            clock,
            tasks: TaskTracker::new(),
            threads: Threads::default(),
        })
    }

    /// The current configuration.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Reads the configuration again and applies it. An invalid one changes nothing.
    pub fn reload(&self) -> Result<Changes, Vec<String>> {
        let _one_at_a_time = self.reloading.lock();
        let loaded = (self.load)().inspect_err(|errors| self.telemetry.reload_rejected(errors))?;
        let before = self.snapshot();
        let warnings = loaded.warnings.clone();
        *self.declared.lock() = Arc::new(loaded.settings);
        self.apply(&before);
        let changes = Changes::between(&before.settings, &self.snapshot().settings, warnings);
        self.telemetry.reloaded(&changes);
        Ok(changes)
    }

    /// The configuration without what the store adds.
    pub(crate) fn declared(&self) -> Arc<Settings> {
        Arc::clone(&self.declared.lock())
    }

    /// Puts into effect what is declared and what is stored.
    pub(crate) fn rebuild(&self) {
        let _one_at_a_time = self.reloading.lock();
        self.apply(&self.snapshot());
    }

    /// To be called while `reloading` is held.
    fn apply(&self, before: &Snapshot) {
        let catalog = self.stored.catalog();
        let mut merged = stored::merge(&self.declared(), catalog.as_deref());
        if catalog.is_none() {
            merged.virtual_keys = before.stored_virtual_keys().clone();
        }
        self.stored.remember_held(&merged.virtual_keys);
        let settings = merged.settings;
        self.telemetry
            .inactive(&self.stored.inactive(), &merged.inactive);
        self.stored.set_inactive(merged.inactive);
        self.grow_body_budget(budget_units(&settings));
        let pools_before: Vec<_> = before
            .pools
            .iter()
            .map(|entry| Arc::clone(&entry.pool))
            .collect();
        let pools = self.registry.pools(&settings.pools, &pools_before);
        let next = Snapshot::new(settings, pools, merged.virtual_keys);
        self.snapshot.store(Arc::new(next));
        self.model_lists.forget();
    }

    /// Raises the body budget to `units`, so that a body of the allowed size fits. It never shrinks.
    fn grow_body_budget(&self, units: usize) {
        let before = self.budget_units.fetch_max(units, Ordering::SeqCst);
        self.body_budget.add_permits(units.saturating_sub(before));
    }

    /// From now on `/readyz` answers 503.
    pub fn begin_shutdown(&self) {
        self.shutting_down.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::SeqCst)
    }

    /// `shutdown_timeout` has passed: responses that are being relayed are broken off.
    pub(crate) fn begin_abort(&self) {
        self.aborting.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_aborting(&self) -> bool {
        // Read for every piece of a response. A task that must see the change is woken after it.
        self.aborting.load(Ordering::Relaxed)
    }
}

/// The budget for bodies, in units: large enough for two of the largest allowed size.
fn budget_units(settings: &Settings) -> usize {
    let units = BODY_BUDGET.max(2 * settings.server.max_request_body) / BUDGET_UNIT;
    usize::try_from(units)
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS)
}

/// How long a body waits for its part of the budget.
pub(crate) const BUDGET_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use crate::settings::ServerSettings;

    use super::*;
    use crate::clock::PollClock;

    fn settings(max_request_body: u64) -> Settings {
        Settings {
            server: ServerSettings {
                max_request_body,
                ..ServerSettings::default()
            },
            ..Settings::default()
        }
    }

    #[test]
    fn bodies_that_a_reload_allows_fit_into_the_budget() {
        let sizes = Mutex::new(vec![1 << 20, 4 << 30, 3 << 30]);
        let load = move || {
            let settings = settings(sizes.lock().pop().unwrap_or_default());
            let warnings = Vec::new();
            Ok(Reloaded { settings, warnings })
        };
        let token = Digest256::of(b"unused");
        let gw = Gateway::new(
            settings(1 << 20),
            token,
            Arc::new(PollClock),
            Backends::without_store(crate::limits::unlimited()),
            Box::new(load),
        );
        let budget = || gw.body_budget.available_permits() as u64 * BUDGET_UNIT;
        assert_eq!(budget(), BODY_BUDGET);
        for largest in [3_u64 << 30, 4 << 30, 4 << 30] {
            gw.reload().unwrap();
            assert_eq!(budget(), 2 * largest);
        }
    }
}
