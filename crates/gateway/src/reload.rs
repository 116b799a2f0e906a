//! Reloaded configurations and what they change. This module knows settings, not what is built from them.

use std::sync::Arc;

use keypool_core::settings::PoolSettings;

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
#[derive(Clone, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub struct Changes {
    /// Pools that were added.
    pub pools_added: Vec<String>,
    /// Pools that were removed.
    pub pools_removed: Vec<String>,
    /// Pools whose settings or keys changed.
    pub pools_changed: Vec<String>,
    /// Other sections that changed: `server`, `log`, `admin`, `limiter`, `store`, `jobs`, `virtual_keys`, `routes`.
    pub sections_changed: Vec<&'static str>,
    /// Settings that have no effect yet, one sentence each.
    pub warnings: Vec<String>,
}

impl Changes {
    /// What `after` changes compared with `before`.
    pub(crate) fn between(before: &Settings, after: &Settings, warnings: Vec<String>) -> Self {
        let sections = [
            ("server", before.server != after.server),
            ("log", before.log != after.log),
            ("admin", before.admin != after.admin),
            ("limiter", before.limiter != after.limiter),
            ("store", before.store != after.store),
            ("jobs", before.jobs != after.jobs),
            ("virtual_keys", before.virtual_keys != after.virtual_keys),
            ("routes", before.routes != after.routes),
        ];
        Self {
            pools_added: names(&after.pools, |pool| namesake(pool, before).is_none()),
            pools_removed: names(&before.pools, |pool| namesake(pool, after).is_none()),
            pools_changed: names(&after.pools, |pool| {
                namesake(pool, before).is_some_and(|old| old != pool)
            }),
            sections_changed: sections
                .into_iter()
                .filter_map(|(name, differs)| differs.then_some(name))
                .collect(),
            warnings,
        }
    }
}

/// The names of the pools that `is_meant` selects.
fn names(
    pools: &[Arc<PoolSettings>],
    is_meant: impl Fn(&Arc<PoolSettings>) -> bool,
) -> Vec<String> {
    let meant = pools.iter().filter(|pool| is_meant(pool));
    meant.map(|pool| pool.name.to_string()).collect()
}

/// The pool of the same name in `settings`.
fn namesake<'s>(pool: &PoolSettings, settings: &'s Settings) -> Option<&'s Arc<PoolSettings>> {
    settings.pools.iter().find(|other| other.name == pool.name)
}

#[cfg(test)]
mod tests {
    use keypool_core::limit::Limits;
    use keypool_core::secret::{Digest256, Secret};
    use keypool_core::settings::KeySettings;

    use super::*;
    use crate::settings::VirtualKeySettings;

    /// A configuration with these limits on calls for its only virtual key and its only upstream key.
    fn settings(caller: u32, upstream: u32) -> Settings {
        let limits = |requests| Limits {
            requests: Some(requests),
            ..Limits::default()
        };
        let base_url = "http://127.0.0.1:1".parse().unwrap();
        let key = KeySettings {
            limits: limits(upstream),
            ..KeySettings::new("key", Secret::new("made-up"), base_url)
        };
        let pool = PoolSettings {
            name: "pool".into(),
            keys: vec![key],
            ..PoolSettings::default()
        };
        let virtual_key = VirtualKeySettings {
            limits: limits(caller),
            ..VirtualKeySettings::new("caller", Digest256::of(b"made-up"))
        };
        Settings {
            pools: vec![pool.into()],
            virtual_keys: vec![virtual_key],
            ..Settings::default()
        }
    }

    #[test]
    fn a_changed_limit_is_a_change() {
        for (caller, upstream, sections, pools) in [
            (1, 1, &[][..], &[][..]),
            (2, 1, &["virtual_keys"], &[]),
            (1, 2, &[], &["pool"]),
        ] {
            let changes =
                Changes::between(&settings(1, 1), &settings(caller, upstream), Vec::new());
            assert_eq!(changes.sections_changed, sections);
            assert_eq!(changes.pools_changed, pools);
        }
    }
}
