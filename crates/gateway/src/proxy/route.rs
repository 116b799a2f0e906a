//! Where a call goes: the pools that may serve it, in turn, and the model's name in each.

use std::sync::Arc;

use crate::settings::RouteSettings;
use keypool_core::pool::{Demand, OnlyGroup};
use keypool_providers::protocol::Protocol;

use super::access::{NOT_THIS_MODEL, denial, evaluate};
use super::auth::Caller;
use super::call::Call;
use super::endpoint::MatchedEndpoint;
use super::not_found;
use super::request_log::RequestLog;
use crate::error::{GatewayError, Kind};
use crate::snapshot::{NoRoute, PoolEntry, Snapshot};

/// One pool that may serve a call.
pub(super) struct PoolTarget {
    pub(super) entry: PoolEntry,
    /// The model as the pool's provider names it; empty where the call names none.
    pub(super) model: Arc<str>,
    /// The group of the objects that the call names.
    pub(super) only_group: Option<OnlyGroup>,
}

impl PoolTarget {
    fn to(entry: &PoolEntry, model: impl Into<Arc<str>>) -> Self {
        Self {
            entry: entry.clone(),
            model: model.into(),
            only_group: None,
        }
    }

    /// What the call needs of this pool.
    pub(super) fn demand(&self) -> Demand {
        Demand {
            only_group: self.only_group.clone(),
            ..Demand::of(Arc::clone(&self.model))
        }
    }
}

/// The pools that may serve the call, at least one.
pub(super) fn find(
    snapshot: &Snapshot,
    target: &MatchedEndpoint<'_>,
    call: &Call<'_>,
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Vec<PoolTarget>, GatewayError> {
    Ok(match (target.pool, call.model_name()) {
        (Some(entry), named) => vec![in_pool(entry, named, caller)?],
        (None, None) if target.is_by_object() => holding(snapshot, target, caller)?,
        (None, None) => vec![PoolTarget::to(first_pool(snapshot, target, caller)?, "")],
        (None, Some(named)) => by_model(snapshot, target.protocol, named, caller, log)?,
    })
}

fn in_pool(
    entry: &PoolEntry,
    named: Option<&str>,
    caller: &Caller,
) -> Result<PoolTarget, GatewayError> {
    if !caller.may_use_pool(entry) {
        return Err(pool_not_allowed(entry.pool.name()));
    }
    let Some(named) = named else {
        return Ok(PoolTarget::to(entry, ""));
    };
    let prefix = format!("{}/", entry.pool.name());
    let model = named.strip_prefix(&prefix).unwrap_or(named);
    if !caller.may_use_model(model) && !caller.may_use_model(named) {
        return Err(model_not_allowed(named));
    }
    Ok(PoolTarget::to(entry, model))
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
        pass_over_all(snapshot, protocol, named, caller, log);
        match error {
            NoRoute::NotAllowed => model_not_allowed(named),
            NoRoute::Unknown => not_found::not_found(snapshot, protocol, named, caller),
        }
    })?;
    if !caller.may_use_model(model) && !caller.may_use_model(named) {
        log.passed_over(entry, &model.into(), NOT_THIS_MODEL);
        return Err(model_not_allowed(named));
    }
    Ok(vec![PoolTarget::to(entry, model)])
}

/// Notes of every pool why it does not serve `model`.
fn pass_over_all(
    snapshot: &Snapshot,
    protocol: Protocol,
    model: &str,
    caller: &Caller,
    log: &mut RequestLog,
) {
    let model: Arc<str> = model.into();
    for entry in &snapshot.pools {
        let why = denial(entry, protocol, caller).unwrap_or("it does not serve this model");
        log.passed_over(entry, &model, why);
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
    let mut routes = Vec::with_capacity(route.targets.len());
    for (entry, model, denial) in evaluate(snapshot, protocol, route, caller) {
        match denial {
            Some(why) => log.passed_over(entry, model, why),
            None => routes.push(PoolTarget::to(entry, Arc::clone(model))),
        }
    }
    if !routes.is_empty() {
        return Ok(routes);
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
fn holding(
    snapshot: &Snapshot,
    target: &MatchedEndpoint<'_>,
    caller: &Caller,
) -> Result<Vec<PoolTarget>, GatewayError> {
    let holds = |entry: &&PoolEntry| entry.holds_objects_of(target.protocol);
    let pools = snapshot.pools.iter().filter(holds);
    let routes: Vec<PoolTarget> = pools
        .filter(|entry| caller.may_use_pool(entry))
        .map(|entry| PoolTarget::to(entry, ""))
        .collect();
    if routes.is_empty() {
        first_pool(snapshot, target, caller)?;
        return Err(no_such_object());
    }
    Ok(routes)
}

fn first_pool<'a>(
    snapshot: &'a Snapshot,
    target: &MatchedEndpoint<'_>,
    caller: &Caller,
) -> Result<&'a PoolEntry, GatewayError> {
    let first =
        |may_use: &dyn Fn(&PoolEntry) -> bool| snapshot.first_speaking(target.protocol, may_use);
    if let Some(entry) = first(&|entry| caller.may_use_pool(entry)) {
        return Ok(entry);
    }
    Err(match first(&|_| true) {
        Some(_) => GatewayError::new(
            Kind::ModelNotAllowed,
            format!(
                "this virtual key may use no pool that serves {}: ask for one that may",
                target.path
            ),
        ),
        None => GatewayError::new(
            Kind::ModelNotFound,
            format!(
                "no pool serves {}: configure a pool of that provider",
                target.path
            ),
        ),
    })
}

/// The same for an id that nobody knows and for one that another caller made, so that neither can be told.
pub(super) fn no_such_object() -> GatewayError {
    let message = "there is no such object here for this caller: only who made it through this gateway can use it, \
                   and only while it is remembered";
    GatewayError::new(Kind::NotFound, message)
}

/// Two objects of the caller's own.
pub(super) fn not_together(one: &str, other: &str) -> GatewayError {
    let message = format!(
        "\"{one}\" and \"{other}\" were made by keys of different accounts, and no key can use both: \
         make one of them again by a key of the other's account, or send each in a call of its own"
    );
    GatewayError::new(Kind::NotFound, message)
}

/// An object of the caller's own, and the pools that it may use where the object is.
pub(super) fn not_where_it_goes<'a>(
    id: &str,
    routes: &[PoolTarget],
    there: impl Iterator<Item = &'a PoolEntry>,
) -> GatewayError {
    let named = |entry: &PoolEntry| format!("\"{}\"", entry.pool.name());
    let here: Vec<String> = routes.iter().map(|route| named(&route.entry)).collect();
    let there: Vec<String> = there.map(named).collect();
    let what_to_do = if there.is_empty() {
        "the key that made it is in no pool that this caller may use: make it again".to_owned()
    } else {
        let there = there.join(", ");
        format!("it is in pool {there}: name a model of that pool, or make it again here")
    };
    let here = here.join(", ");
    let message = format!("\"{id}\" is not in pool {here}, where this call goes; {what_to_do}");
    GatewayError::new(Kind::NotFound, message)
}

fn pool_not_allowed(name: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use pool \"{name}\": ask for one that may"),
    )
}

fn model_not_allowed(model: &str) -> GatewayError {
    GatewayError::new(
        Kind::ModelNotAllowed,
        format!("this virtual key may not use model \"{model}\": ask for one that may"),
    )
}
