//! Puts what the admin API manages into the declared configuration.
//!
//! What is declared comes first: a stored resource never replaces a declared one. This module must never ask the store.

use std::collections::HashMap;
use std::sync::Arc;

use keypool_core::secret::{Digest256, HashKey};
use keypool_core::settings::PoolSettings;
use keypool_core::store::{Catalog, StoredKey, StoredVirtualKey};
use std::time::SystemTime;

use crate::resources::{KeyFields, Mistakes, PoolFields, Surroundings, VirtualKeyFields};
use crate::settings::{Settings, VirtualKeySettings};
use crate::webhook_secret::WebhookSecret;

/// The configuration in effect, and what of the catalog is not in effect.
pub(crate) struct Merged {
    pub(crate) settings: Settings,
    pub(crate) virtual_keys: StoredVirtualKeys,
    pub(crate) inactive: Vec<Inactive>,
}

/// Something stored that is not in effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Inactive {
    pub(crate) resource: Resource,
    pub(crate) reason: InactiveReason,
}

/// Something that is stored, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Pool(Arc<str>),
    Key { pool: Arc<str>, name: Arc<str> },
    VirtualKey(Arc<str>),
}

impl Resource {
    /// The pool that it is or belongs to; empty for a virtual key.
    pub(crate) fn pool(&self) -> &str {
        match self {
            Self::Pool(pool) | Self::Key { pool, .. } => pool,
            Self::VirtualKey(_) => "",
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "pool \"{name}\""),
            Self::Key { pool, name } => write!(f, "key \"{name}\" of pool \"{pool}\""),
            Self::VirtualKey(name) => write!(f, "virtual key \"{name}\""),
        }
    }
}

/// Why something stored is not in effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum InactiveReason {
    /// The configuration declares something of that name.
    Declared,
    /// The pool of a key is neither declared nor stored.
    NoPool,
    /// Another key of the pool has the same secret.
    SecretTaken,
    /// The pool leads elsewhere than when the secret was set.
    SecretRequired,
    /// What was valid when it was stored no longer is.
    Invalid(Mistakes),
}

impl InactiveReason {
    /// The stable name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::NoPool => "no_pool",
            Self::SecretTaken => "duplicate_key",
            Self::SecretRequired => "secret_required",
            Self::Invalid(_) => "invalid_settings",
        }
    }
}

impl std::fmt::Display for InactiveReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Declared => f.write_str("the configuration declares one of that name, which is used: rename that one, or remove it to use or delete this one"),
            Self::NoPool => f.write_str("its pool is neither declared nor stored any more: create the pool again, or delete the key"),
            Self::SecretTaken => f.write_str("another key of the pool has the same secret: delete one of the two"),
            Self::SecretRequired => f.write_str("its pool leads elsewhere than when the secret was set: set the secret again"),
            Self::Invalid(mistakes) => f.write_str(&mistakes.join("; ")),
        }
    }
}

/// The virtual keys of the store, found by the keyed hash of their secret's digest.
#[derive(Clone, Default)]
pub(crate) struct StoredVirtualKeys {
    hash_key: Option<HashKey>,
    by_hash: HashMap<Digest256, Accepted>,
    /// A virtual key was stored at some time.
    has_held: bool,
}

/// A secret that is accepted.
#[derive(Clone)]
struct Accepted {
    key: Arc<VirtualKeySettings>,
    /// `None`: as long as the virtual key exists.
    until: Option<SystemTime>,
}

impl StoredVirtualKeys {
    /// None are known yet. `has_held`: a virtual key was stored at some time.
    pub(crate) fn unknown(has_held: bool) -> Self {
        Self {
            has_held,
            ..Self::default()
        }
    }

    /// The virtual key whose secret has this digest, if the secret is accepted at `now`.
    pub(crate) fn find(
        &self,
        digest: &Digest256,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<&Arc<VirtualKeySettings>> {
        if self.by_hash.is_empty() {
            return None;
        }
        let found = self.by_hash.get(&self.hash_key.as_ref()?.hash(digest))?;
        let is_accepted = found.until.is_none_or(|until| until > now());
        is_accepted.then_some(&found.key)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<VirtualKeySettings>> {
        let mut all = self.by_hash.values();
        all.find(|found| &*found.key.name == name)
            .map(|found| &found.key)
    }

    /// Whether a virtual key was stored at some time, so that callers must present one.
    pub(crate) fn has_held(&self) -> bool {
        self.has_held
    }
}

/// The configuration in effect: `declared` with the catalog.
pub(crate) fn merge(declared: &Settings, catalog: Option<&Catalog>) -> Merged {
    let mut merging = Merging {
        settings: declared.clone(),
        inactive: Vec::new(),
    };
    let Some(catalog) = catalog else {
        return Merged {
            settings: merging.settings,
            virtual_keys: StoredVirtualKeys::default(),
            inactive: Vec::new(),
        };
    };
    merging.add_pools(declared, catalog);
    merging.add_keys(declared, catalog);
    let virtual_keys = merging.add_virtual_keys(catalog);
    Merged {
        settings: merging.settings,
        virtual_keys,
        inactive: merging.inactive,
    }
}

struct Merging {
    settings: Settings,
    inactive: Vec<Inactive>,
}

impl Merging {
    fn add_pools(&mut self, declared: &Settings, catalog: &Catalog) {
        let around = surroundings(declared);
        for stored in &catalog.pools {
            let is_declared = declared.pools.iter().any(|pool| pool.name == stored.name);
            let reason = match is_declared {
                true => InactiveReason::Declared,
                false => match pool_settings(&stored.settings, &stored.name, around) {
                    Ok(settings) => {
                        self.settings.pools.push(Arc::new(settings));
                        continue;
                    }
                    Err(mistakes) => InactiveReason::Invalid(mistakes),
                },
            };
            self.inactive.push(Inactive {
                resource: Resource::Pool(Arc::clone(&stored.name)),
                reason,
            });
        }
    }

    fn add_keys(&mut self, declared: &Settings, catalog: &Catalog) {
        let around = surroundings(declared);
        let mut keys = catalog.keys.as_slice();
        while let Some(first) = keys.first() {
            let number = keys.iter().take_while(|key| key.pool == first.pool).count();
            let (of_pool, others) = keys.split_at(number);
            keys = others;
            let pool = self
                .settings
                .pools
                .iter_mut()
                .find(|pool| pool.name == first.pool);
            let refused = match pool {
                Some(pool) => add_to_pool(Arc::make_mut(pool), of_pool, around),
                None => of_pool
                    .iter()
                    .map(|key| (key, InactiveReason::NoPool))
                    .collect(),
            };
            self.inactive
                .extend(refused.into_iter().map(|(key, reason)| Inactive {
                    resource: Resource::Key {
                        pool: Arc::clone(&key.pool),
                        name: Arc::clone(&key.name),
                    },
                    reason,
                }));
        }
    }

    fn add_virtual_keys(&mut self, catalog: &Catalog) -> StoredVirtualKeys {
        let mut by_hash = HashMap::new();
        for stored in &catalog.virtual_keys {
            let declared = &self.settings.virtual_keys;
            let is_declared = declared.iter().any(|key| key.name == stored.name);
            let settings = match is_declared {
                true => Err(InactiveReason::Declared),
                false => virtual_key_settings(stored).map_err(InactiveReason::Invalid),
            };
            let settings = match settings {
                Ok(settings) => settings,
                Err(reason) => {
                    let resource = Resource::VirtualKey(Arc::clone(&stored.name));
                    self.inactive.push(Inactive { resource, reason });
                    continue;
                }
            };
            let key = Arc::new(settings);
            if let Some((hash, until)) = stored.previous {
                let until = Some(until);
                by_hash.insert(
                    hash,
                    Accepted {
                        key: Arc::clone(&key),
                        until,
                    },
                );
            }
            by_hash.insert(stored.hash, Accepted { key, until: None });
        }
        StoredVirtualKeys {
            hash_key: Some(catalog.hash_key.clone()),
            by_hash,
            has_held: catalog.has_held_virtual_key,
        }
    }
}

/// Adds the keys that can be in effect to `pool`, and returns the others.
fn add_to_pool<'k>(
    pool: &mut PoolSettings,
    stored: &'k [StoredKey],
    around: Surroundings<'_>,
) -> Vec<(&'k StoredKey, InactiveReason)> {
    let mut names: std::collections::HashSet<Arc<str>> =
        pool.keys.iter().map(|key| Arc::clone(&key.name)).collect();
    let mut secrets: std::collections::HashSet<Digest256> =
        pool.keys.iter().map(|key| key.secret.digest()).collect();
    let mut refused = Vec::new();
    for key in stored {
        if !names.insert(Arc::clone(&key.name)) {
            refused.push((key, InactiveReason::Declared));
            continue;
        }
        if !secrets.insert(key.secret.digest()) {
            refused.push((key, InactiveReason::SecretTaken));
            continue;
        }
        let fields: Result<KeyFields, _> = serde_json::from_str(&key.settings);
        let settings = fields
            .map_err(|error| vec![error.to_string()])
            .and_then(|fields| fields.settings((&key.name, &key.secret), pool, around));
        match settings {
            Ok((settings, place)) if place.binding == key.bound_to => pool.keys.push(settings),
            Ok(_) => refused.push((key, InactiveReason::SecretRequired)),
            Err(mistakes) => refused.push((key, InactiveReason::Invalid(mistakes))),
        }
    }
    refused
}

/// What the base URLs and proxies of stored resources depend on.
pub(crate) fn surroundings(declared: &Settings) -> Surroundings<'_> {
    Surroundings {
        listen: declared.server.listen,
        proxies: &declared.proxies,
    }
}

/// What the settings of a stored pool mean.
pub(crate) fn pool_settings(
    json: &str,
    name: &Arc<str>,
    around: Surroundings<'_>,
) -> Result<PoolSettings, Mistakes> {
    let fields: PoolFields = serde_json::from_str(json).map_err(|error| vec![error.to_string()])?;
    fields.settings(name, around)
}

fn virtual_key_settings(stored: &StoredVirtualKey) -> Result<VirtualKeySettings, Mistakes> {
    let fields: VirtualKeyFields =
        serde_json::from_str(&stored.settings).map_err(|error| vec![error.to_string()])?;
    let settings = fields.settings(&stored.name, stored.hash)?;
    let secret = stored.webhook_secret.as_ref();
    Ok(VirtualKeySettings {
        webhook_secret: secret.and_then(|secret| WebhookSecret::parse(secret.expose()).ok()),
        ..settings
    })
}
