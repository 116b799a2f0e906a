//! What every part of the gateway shares: a handful of handles, cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keypool_core::clock::Clock;
use keypool_core::pool::Registry;
use keypool_core::secret::Digest256;
use keypool_core::settings::Settings;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::proxy::ModelLists;
use crate::snapshot::Snapshot;
use crate::telemetry::{self, PoolTrouble};
use crate::upstream::Upstream;

/// Request bodies held in memory at once, all requests together, in bytes. A body over what is left waits.
const BODY_BUDGET: u64 = 1 << 30;
/// The unit in which the budget is counted.
pub(crate) const BUDGET_UNIT: u64 = 4096;

/// Reads the configuration anew: the settings, or every mistake in them as a line of text.
pub type LoadSettings = Box<dyn Fn() -> Result<Reloaded, Vec<String>> + Send + Sync>;

/// A configuration that was read anew.
pub struct Reloaded {
    /// The settings.
    pub settings: Settings,
    /// What is set but not in force, a sentence each.
    pub warnings: Vec<String>,
}

/// The gateway's shared handles.
pub struct Gateway {
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Tasks that a shutdown waits for.
    pub tasks: TaskTracker,
    pub(crate) upstream: Upstream,
    pub(crate) model_lists: ModelLists,
    pub(crate) trouble: PoolTrouble,
    pub(crate) body_budget: Arc<Semaphore>,
    pub(crate) admin_token: Digest256,
    snapshot: ArcSwap<Snapshot>,
    registry: Registry,
    load: LoadSettings,
    /// One reload at a time.
    reloading: Mutex<()>,
    shutting_down: AtomicBool,
}

/// What a reload changed, by pool.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Changes {
    /// Pools that are new.
    pub pools_added: Vec<String>,
    /// Pools that are gone.
    pub pools_removed: Vec<String>,
    /// Pools whose settings or keys changed.
    pub pools_changed: Vec<String>,
    /// Other sections that changed: `server`, `log`, `admin`, `virtual_keys`.
    pub sections_changed: Vec<&'static str>,
    /// What is set but not in force.
    pub warnings: Vec<String>,
}

impl Gateway {
    /// A gateway for `settings`. `admin_token`: the digest of the admin token in force.
    pub fn new(
        settings: Settings,
        admin_token: Digest256,
        clock: Arc<dyn Clock>,
        load: LoadSettings,
    ) -> Arc<Self> {
        let registry = Registry::new(Arc::clone(&clock));
        let pools = registry.pools(&settings.pools, &[]);
        let budget = BODY_BUDGET.max(2 * settings.server.max_request_body) / BUDGET_UNIT;
        Arc::new(Self {
            upstream: Upstream::new(),
            model_lists: ModelLists::default(),
            trouble: PoolTrouble::default(),
            body_budget: Arc::new(Semaphore::new(
                usize::try_from(budget)
                    .unwrap_or(usize::MAX)
                    .min(Semaphore::MAX_PERMITS),
            )),
            snapshot: ArcSwap::from_pointee(Snapshot::new(settings, pools)),
            admin_token,
            registry,
            load,
            reloading: Mutex::new(()),
            shutting_down: AtomicBool::new(false),
            clock,
            tasks: TaskTracker::new(),
        })
    }

    /// The configuration in force now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Reads the configuration anew and puts it in force; a bad one leaves the old in force.
    pub fn reload(&self) -> Result<Changes, Vec<String>> {
        let _one_at_a_time = self.reloading.lock();
        let loaded = (self.load)().inspect_err(|errors| telemetry::reload_refused(errors))?;
        let before = self.snapshot();
        let changes = compare(&before.settings, &loaded);
        let pools_before: Vec<_> = before
            .pools
            .iter()
            .map(|entry| Arc::clone(&entry.pool))
            .collect();
        let pools = self.registry.pools(&loaded.settings.pools, &pools_before);
        self.snapshot
            .store(Arc::new(Snapshot::new(loaded.settings, pools)));
        self.model_lists.forget();
        telemetry::reloaded(&changes);
        Ok(changes)
    }

    /// From now on `/readyz` says 503.
    pub fn begin_shutdown(&self) {
        self.shutting_down.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::SeqCst)
    }
}

fn compare(before: &Settings, loaded: &Reloaded) -> Changes {
    let after = &loaded.settings;
    let names = |settings: &Settings| {
        settings
            .pools
            .iter()
            .map(|pool| pool.name.to_string())
            .collect::<Vec<_>>()
    };
    let (old, new) = (names(before), names(after));
    let changed = after.pools.iter().filter(|pool| {
        before
            .pools
            .iter()
            .any(|p| p.name == pool.name && p != *pool)
    });
    let sections = [
        ("server", before.server != after.server),
        ("log", before.log != after.log),
        ("admin", before.admin != after.admin),
        ("virtual_keys", before.virtual_keys != after.virtual_keys),
    ];
    Changes {
        pools_added: new
            .iter()
            .filter(|name| !old.contains(name))
            .cloned()
            .collect(),
        pools_removed: old
            .iter()
            .filter(|name| !new.contains(name))
            .cloned()
            .collect(),
        pools_changed: changed.map(|pool| pool.name.to_string()).collect(),
        sections_changed: sections
            .into_iter()
            .filter_map(|(name, differs)| differs.then_some(name))
            .collect(),
        warnings: loaded.warnings.clone(),
    }
}

/// How long a body may wait for its part of the budget.
pub(crate) const BUDGET_WAIT: Duration = Duration::from_secs(30);
