//! Where a call goes: the pools that may serve it, in order, and the model's name in each.

mod access;
mod conversation;
mod not_found;

use std::sync::Arc;

use keypool_core::key::QuotaGroup;
use keypool_core::limit::{Cost, Estimates, Limits, OutputReservation};
use keypool_core::pool::Demand;
use keypool_providers::protocol::Protocol;

pub(super) use access::is_callable;
pub(super) use conversation::conversation;

use super::inbound::{Call, Caller, MatchedEndpoint};
use super::log::RequestLog;
use crate::error::{GatewayError, Kind};
use crate::settings::RouteSettings;
use crate::snapshot::{NoRoute, PoolEntry, Snapshot};
use crate::traces::SkipReason;
use access::{denial, evaluate};

/// One pool that may serve a call.
pub(super) struct PoolTarget {
    pub(super) entry: Arc<PoolEntry>,
    /// The model as the pool's provider names it; empty if the call names none.
    pub(super) model: Arc<str>,
    /// The quota group that holds the objects that the call names; only its keys may serve.
    pub(super) bound_group: Option<Arc<QuotaGroup>>,
}

impl PoolTarget {
    fn new(entry: &Arc<PoolEntry>, model: impl Into<Arc<str>>) -> Self {
        Self {
            entry: Arc::clone(entry),
            model: model.into(),
            bound_group: None,
        }
    }

    /// What the call needs of this pool.
    pub(super) fn demand(&self, call: &Call<'_>) -> Demand {
        Demand {
            endpoint: call.endpoint_name().into(),
            bound_group: self.bound_group.clone(),
            ..Demand::of(Arc::clone(&self.model))
        }
    }

    /// What the call uses of the limits of this pool's keys.
    pub(super) fn cost(&self, call: &Call<'_>, estimates: &Estimates) -> Cost {
        let tokens = call.tokens.as_ref().filter(|_| self.entry.counts_tokens);
        tokens.map_or(Cost::REQUEST, |tokens| {
            tokens.cost(estimates, &Limits::default(), OutputReservation::Learned)
        })
    }
}

/// The pools that may serve the call, at least one.
pub(super) fn targets(
    snapshot: &Snapshot,
    call: &Call<'_>,
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Vec<PoolTarget>, GatewayError> {
    let endpoint = &call.endpoint;
    if call.may_run_unnamed_model() && !caller.may_use_unnamed_models() {
        return Err(unnamed_model(&endpoint.path));
    }
    Ok(match (endpoint.pool, call.model_name()) {
        (Some(entry), model) => vec![in_pool(entry, model, caller)?],
        (None, None) if endpoint.is_by_object() => with_objects(snapshot, endpoint, caller)?,
        (None, None) if call.is_about_known_objects() => {
            let first = first_pool(snapshot, endpoint, caller)?;
            let mut targets = vec![PoolTarget::new(first, "")];
            let others = with_objects(snapshot, endpoint, caller).unwrap_or_default();
            targets.extend(
                others
                    .into_iter()
                    .filter(|other| !Arc::ptr_eq(&other.entry, first)),
            );
            targets
        }
        (None, None) => vec![PoolTarget::new(first_pool(snapshot, endpoint, caller)?, "")],
        (None, Some(model)) => by_model(snapshot, endpoint.protocol, model, caller, log)?,
    })
}

/// The path names the pool.
fn in_pool(
    entry: &Arc<PoolEntry>,
    named: Option<&str>,
    caller: &Caller,
) -> Result<PoolTarget, GatewayError> {
    if !caller.may_use_pool(entry) {
        return Err(pool_not_allowed(entry.pool.name()));
    }
    let Some(named) = named else {
        return Ok(PoolTarget::new(entry, ""));
    };
    let prefix = format!("{}/", entry.pool.name());
    let model = without_models(named.strip_prefix(&prefix).unwrap_or(named));
    if !caller.may_use_model(model) && !caller.may_use_model(named) {
        return Err(model_not_allowed(named));
    }
    Ok(PoolTarget::new(entry, model))
}

fn by_model(
    snapshot: &Snapshot,
    protocol: Protocol,
    named: &str,
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Vec<PoolTarget>, GatewayError> {
    if let Some(route) = snapshot.route(named) {
        return by_route(snapshot, protocol, route, caller, log);
    }
    let may_use = |entry: &PoolEntry| caller.may_use_pool(entry);
    let resolved = snapshot.resolve(protocol, named, may_use);
    let (entry, model) = resolved.map_err(|error| {
        record_all_skipped(snapshot, protocol, named, caller, log);
        match error {
            NoRoute::NotAllowed => model_not_allowed(named),
            NoRoute::Unknown => not_found::not_found(snapshot, protocol, named, caller),
        }
    })?;
    let model = without_models(model);
    if !caller.may_use_model(model) && !caller.may_use_model(named) {
        log.record_skipped(entry, &model.into(), SkipReason::ModelNotAllowed);
        return Err(model_not_allowed(named));
    }
    Ok(vec![PoolTarget::new(entry, model)])
}

/// Google writes `models/x` for the model `x`, in OpenAI's protocol too.
fn without_models(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}

/// Records for every pool why it does not serve `model`.
fn record_all_skipped(
    snapshot: &Snapshot,
    protocol: Protocol,
    model: &str,
    caller: &Caller,
    log: &mut RequestLog,
) {
    let model: Arc<str> = model.into();
    for entry in &snapshot.pools {
        let reason = denial(entry, protocol, caller).unwrap_or(SkipReason::ModelNotServed);
        log.record_skipped(entry, &model, reason);
    }
}

/// The targets that speak the protocol and that the caller may use, in the route's order.
fn by_route(
    snapshot: &Snapshot,
    protocol: Protocol,
    route: &RouteSettings,
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Vec<PoolTarget>, GatewayError> {
    let mut targets = Vec::with_capacity(route.targets.len());
    for target in evaluate(snapshot, protocol, route, caller) {
        match target.denial {
            Some(reason) => log.record_skipped(target.entry, target.model, reason),
            None => targets.push(PoolTarget::new(target.entry, Arc::clone(target.model))),
        }
    }
    if !targets.is_empty() {
        return Ok(targets);
    }
    if !snapshot.route_speaks(route, protocol) {
        let message = format!(
            "no target of the route \"{}\" is a pool that can be called by this protocol: use the SDK of another provider, or add a target",
            route.model
        );
        return Err(GatewayError::new(Kind::ModelNotFound, message));
    }
    Err(model_not_allowed(&route.model))
}

/// All pools that may hold objects of the protocol and that the caller may use.
fn with_objects(
    snapshot: &Snapshot,
    endpoint: &MatchedEndpoint<'_>,
    caller: &Caller,
) -> Result<Vec<PoolTarget>, GatewayError> {
    let holds = |entry: &&Arc<PoolEntry>| entry.holds_objects_of(endpoint.protocol);
    let pools = snapshot.pools.iter().filter(holds);
    let targets: Vec<PoolTarget> = pools
        .filter(|entry| caller.may_use_pool(entry))
        .map(|entry| PoolTarget::new(entry, ""))
        .collect();
    if targets.is_empty() {
        first_pool(snapshot, endpoint, caller)?;
        return Err(no_such_object());
    }
    Ok(targets)
}

fn first_pool<'a>(
    snapshot: &'a Snapshot,
    endpoint: &MatchedEndpoint<'_>,
    caller: &Caller,
) -> Result<&'a Arc<PoolEntry>, GatewayError> {
    let first =
        |may_use: &dyn Fn(&PoolEntry) -> bool| snapshot.first_for(endpoint.protocol, may_use);
    if let Some(entry) = first(&|entry| caller.may_use_pool(entry)) {
        return Ok(entry);
    }
    let path = &endpoint.path;
    Err(match first(&|_| true) {
        Some(_) => GatewayError::new(
            Kind::ModelNotAllowed,
            format!("this virtual key may use no pool that serves {path}: ask for one that may"),
        ),
        None => GatewayError::new(
            Kind::ModelNotFound,
            format!("no pool serves {path}: configure a pool of that provider"),
        ),
    })
}

/// The same error for an unknown id and for another caller's object, so that a caller cannot tell the two apart.
pub(super) fn no_such_object() -> GatewayError {
    let message = "there is no such object here for this caller: only who made it through this gateway can use it, \
                   and only while it is remembered";
    GatewayError::new(Kind::NotFound, message)
}

fn pool_not_allowed(name: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use pool \"{name}\": ask for one that may"),
    )
}

/// The models of the call are in a file, in a stored object or left to the provider, so they cannot be checked.
fn unnamed_model(path: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!(
            "{path} may run models that the request does not name: name the model, or ask for a virtual key with `models = [\"*\"]`"
        ),
    )
}

fn model_not_allowed(model: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use model \"{model}\": ask for one that may"),
    )
}
