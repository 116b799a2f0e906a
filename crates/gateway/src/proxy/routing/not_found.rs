//! The error for a model that no pool serves. It lists what the caller may call instead, and nothing else.

use std::collections::BTreeSet;

use keypool_providers::protocol::Protocol;

use super::access::is_callable;
use crate::error::{GatewayError, Kind};
use crate::proxy::inbound::Caller;
use crate::snapshot::{PoolEntry, Snapshot};

/// Maximum number of names listed for one pool.
const MAX_PER_POOL: usize = 8;
/// Maximum number of names listed in all.
const MAX_LISTED: usize = 100;

/// No pool serves `model`.
pub(super) fn not_found(
    snapshot: &Snapshot,
    protocol: Protocol,
    model: &str,
    caller: &Caller,
) -> GatewayError {
    let known = known_models(snapshot, protocol, caller);
    let mut pools = snapshot.settings.pools.iter();
    let message = if pools.all(|pool| pool.keys.is_empty()) {
        "no provider key is configured yet: set one in the environment, in .env or in keypool.toml"
            .to_owned()
    } else if known.is_empty() {
        format!("no pool serves model \"{model}\" by this protocol")
    } else {
        format!(
            "no pool serves model \"{model}\"; known here: {}",
            known.join(", ")
        )
    };
    GatewayError::new(Kind::ModelNotFound, message)
}

/// Routes, and the names and patterns that pools serve, if the caller may call them by the protocol.
fn known_models(snapshot: &Snapshot, protocol: Protocol, caller: &Caller) -> Vec<String> {
    let routes = snapshot.settings.routes.iter();
    let routes = routes.filter(|route| is_callable(snapshot, protocol, route, caller));
    let routes = routes.map(|route| route.model.to_string());
    let pools = snapshot.pools.iter();
    let pools = pools.filter(|entry| entry.speaks(protocol) && caller.may_use_pool(entry));
    let mut listed = BTreeSet::new();
    routes
        .chain(pools.flat_map(|entry| models_of(entry, caller)))
        .filter(|model| listed.insert(model.clone()))
        .take(MAX_LISTED)
        .collect()
}

/// A few of the names that the pool serves. A pattern that is wider than what the caller may use is narrowed to that.
fn models_of(entry: &PoolEntry, caller: &Caller) -> Vec<String> {
    let mut models: Vec<String> = entry
        .models
        .iter()
        .flat_map(|model| match caller.allowed_of(model) {
            None if model == "*" => vec![format!("{}/*", entry.pool.name())],
            None => vec![model.clone()],
            Some(allowed) => allowed,
        })
        .take(MAX_PER_POOL + 1)
        .collect();
    if models.len() > MAX_PER_POOL {
        models.truncate(MAX_PER_POOL);
        models.push(format!("{}/…", entry.pool.name()));
    }
    models
}
