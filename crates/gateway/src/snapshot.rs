//! One immutable view of the configuration. A request uses the same one from beginning to end; a reload swaps the pointer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;

use crate::settings::{AuthMode, RouteSettings, Settings, VirtualKeySettings};
use crate::stored::StoredVirtualKeys;
use keypool_core::pattern;
use keypool_core::pool::{Member, Pool};
use keypool_core::secret::Digest256;
use keypool_core::settings::PoolSettings;
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::{Endpoint, Protocol};

use crate::prebuilt_headers::name_value;

/// A complete configuration, ready to serve.
pub struct Snapshot {
    /// The settings it was made from.
    pub settings: Settings,
    /// Its pools, in order.
    pub pools: Vec<Arc<PoolEntry>>,
    /// The virtual keys of the configuration.
    virtual_keys: HashMap<Digest256, Arc<VirtualKeySettings>>,
    stored_virtual_keys: StoredVirtualKeys,
}

/// A pool, with what routing must know of it.
pub struct PoolEntry {
    /// The pool.
    pub pool: Arc<Pool>,
    /// The models that it serves: names and patterns. Kept here because the pool's own settings are those of the newest
    /// configuration, and routing follows this snapshot.
    pub models: Vec<String>,
    /// Its provider's wire form.
    pub dialect: &'static Dialect,
    /// The pool's name, as clients see it in a header.
    pub name_header: HeaderValue,
    /// A key of the pool has limits of tokens.
    pub(crate) counts_tokens: bool,
}

/// Why no pool can be called for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// No pool serves it.
    Unknown,
    /// A pool serves it, but not for this caller.
    NotAllowed,
}

impl Snapshot {
    /// The view of `settings` with these pools: one for each of its pools, in the same order.
    pub(crate) fn new(
        settings: Settings,
        pools: Vec<Arc<Pool>>,
        stored_virtual_keys: StoredVirtualKeys,
    ) -> Self {
        let virtual_keys = settings
            .virtual_keys
            .iter()
            .map(|key| (key.digest, Arc::new(key.clone())))
            .collect();
        let pools = settings.pools.iter().zip(&pools);
        let pools = pools.filter_map(|(settings, pool)| PoolEntry::of(pool, settings));
        let pools = pools.map(Arc::new).collect();
        Self {
            settings,
            pools,
            virtual_keys,
            stored_virtual_keys,
        }
    }

    /// The virtual key with this secret, which may be accepted until a certain date only.
    pub(crate) fn virtual_key(
        &self,
        secret: &str,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<&Arc<VirtualKeySettings>> {
        let digest = Digest256::of(secret.as_bytes());
        let declared = self.virtual_keys.get(&digest);
        declared.or_else(|| self.stored_virtual_keys.find(&digest, now))
    }

    pub(crate) fn stored_virtual_keys(&self) -> &StoredVirtualKeys {
        &self.stored_virtual_keys
    }

    /// The virtual key of that name.
    pub(crate) fn virtual_key_named(&self, name: &str) -> Option<&Arc<VirtualKeySettings>> {
        let declared = self.virtual_keys.values().find(|key| &*key.name == name);
        declared.or_else(|| self.stored_virtual_keys.named(name))
    }

    /// Whether a caller must present a virtual key.
    pub fn needs_virtual_key(&self) -> bool {
        match self.settings.server.auth {
            AuthMode::Required => true,
            AuthMode::None => false,
            AuthMode::Auto => {
                !self.virtual_keys.is_empty()
                    || self.stored_virtual_keys.has_held()
                    || !self.settings.server.listen.ip().is_loopback()
            }
        }
    }

    /// The pool of that name.
    pub(crate) fn pool(&self, name: &str) -> Option<&Arc<PoolEntry>> {
        self.pools.iter().find(|entry| &**entry.pool.name() == name)
    }

    /// The route of that name.
    pub(crate) fn route(&self, model: &str) -> Option<&RouteSettings> {
        self.settings
            .routes
            .iter()
            .find(|route| &*route.model == model)
    }

    /// Whether a target of the route can be called by `protocol`.
    pub(crate) fn route_speaks(&self, route: &RouteSettings, protocol: Protocol) -> bool {
        let mut pools = route
            .targets
            .iter()
            .filter_map(|target| self.pool(&target.pool));
        pools.any(|entry| entry.speaks(protocol))
    }

    /// The pool that serves `model`, and the model's name there. `may_use` says whether the caller may use a pool.
    pub(crate) fn resolve<'a>(
        &'a self,
        protocol: Protocol,
        model: &'a str,
        may_use: impl Fn(&PoolEntry) -> bool,
    ) -> Result<(&'a Arc<PoolEntry>, &'a str), NoRoute> {
        let speaking = || self.pools.iter().filter(|entry| entry.speaks(protocol));
        if let Some(found) = find(|| speaking().filter(|entry| may_use(entry)), model) {
            return Ok(found);
        }
        // "The only pool" means the only one configured, not the only one that this caller may use.
        let mut all = speaking();
        let only = all.next().filter(|_| all.next().is_none());
        match only {
            Some(only) if may_use(only) => Ok((only, model)),
            Some(_) => Err(NoRoute::NotAllowed),
            None if find(speaking, model).is_some() => Err(NoRoute::NotAllowed),
            None => Err(NoRoute::Unknown),
        }
    }

    /// The pool for calls by `protocol` that name neither a model nor an object: the first one of the provider that
    /// defined the protocol, or else of one that keeps objects created by it, or else that speaks it.
    pub(crate) fn first_for(
        &self,
        protocol: Protocol,
        may_use: impl Fn(&PoolEntry) -> bool,
    ) -> Option<&Arc<PoolEntry>> {
        let pools = self.pools.iter();
        let usable = pools.filter(|entry| entry.speaks(protocol) && may_use(entry));
        // Of several with the lowest rank, this yields the first.
        usable.min_by_key(|entry| match entry.dialect.defines(protocol) {
            true => 0,
            false if entry.holds_objects_of(protocol) => 1,
            false => 2,
        })
    }
}

impl PoolEntry {
    /// The pool with its dialect; `None` for a provider that has none.
    fn of(pool: &Arc<Pool>, settings: &PoolSettings) -> Option<Self> {
        let dialect = catalogue::find(pool.provider())?;
        Some(Self {
            models: settings.models.clone(),
            counts_tokens: settings.keys.iter().any(|key| key.limits.count_tokens()),
            name_header: name_value(pool.name()),
            dialect,
            pool: Arc::clone(pool),
        })
    }

    /// Path and query for a call of the key. `path`: as a client of the protocol sends it.
    pub(crate) fn upstream_path_and_query(
        &self,
        member: &Member,
        protocol: Protocol,
        path: &str,
        query: Option<&str>,
    ) -> String {
        let base_path = member.base_url.path();
        let mut target = (self.dialect.upstream_path)(protocol, base_path, path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target
    }

    /// Whether its provider keeps objects that are created by `protocol`. Providers that speak OpenAI's protocol beside
    /// their own offer only calls of a model in it.
    pub(crate) fn holds_objects_of(&self, protocol: Protocol) -> bool {
        self.speaks(protocol)
            && (protocol != Protocol::OpenAi || self.dialect.protocols[0] == protocol)
    }

    /// Whether its provider has the endpoint.
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        match endpoint.objects {
            true => self.holds_objects_of(endpoint.protocol),
            false => self.speaks(endpoint.protocol),
        }
    }

    /// Whether its provider can be called by `protocol`.
    pub(crate) fn speaks(&self, protocol: Protocol) -> bool {
        self.dialect.protocols.contains(&protocol)
    }
}

/// Resolves in this order: an exact name, `pool/model`, a pattern.
fn find<'a, I>(pools: impl Fn() -> I, model: &'a str) -> Option<(&'a Arc<PoolEntry>, &'a str)>
where
    I: Iterator<Item = &'a Arc<PoolEntry>>,
{
    let serves =
        |entry: &&Arc<PoolEntry>, test: &dyn Fn(&str) -> bool| entry.models.iter().any(|m| test(m));
    if let Some(entry) =
        pools().find(|entry| serves(entry, &|m| !pattern::is_pattern(m) && m == model))
    {
        return Some((entry, model));
    }
    if let Some((prefix, rest)) = model.split_once('/')
        && let Some(entry) = pools().find(|entry| &**entry.pool.name() == prefix)
    {
        return Some((entry, rest));
    }
    let by_pattern = pools().find(|entry| serves(entry, &|m| pattern::matches(m, model)));
    by_pattern.map(|entry| (entry, model))
}
