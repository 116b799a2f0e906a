//! Reloaded configurations and what they change. This module knows settings, not what is built from them.

use crate::settings::Settings;

/// Reads the configuration again. Returns the settings, or every mistake in them as a line of text.
pub type LoadSettings = Box<dyn Fn() -> Result<Reloaded, Vec<String>> + Send + Sync>;

/// A reloaded configuration.
pub struct Reloaded {
    /// The settings.
    pub settings: Settings,
    /// Settings that have no effect yet, one sentence each.
    pub warnings: Vec<String>,
}

/// What a reload changed, by pool.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Changes {
    /// Pools that were added.
    pub pools_added: Vec<String>,
    /// Pools that were removed.
    pub pools_removed: Vec<String>,
    /// Pools whose settings or keys changed.
    pub pools_changed: Vec<String>,
    /// Other sections that changed: `server`, `log`, `admin`, `virtual_keys`, `routes`.
    pub sections_changed: Vec<&'static str>,
    /// Settings that have no effect yet, one sentence each.
    pub warnings: Vec<String>,
}

impl Changes {
    /// What `loaded` changes compared with `before`.
    pub(crate) fn between(before: &Settings, loaded: &Reloaded) -> Self {
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
            ("routes", before.routes != after.routes),
        ];
        Self {
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
}
