//! Whether a caller may call a pool, or a route's target, by a protocol; and if not, why.

use std::sync::Arc;

use crate::settings::RouteSettings;
use keypool_providers::protocol::Protocol;

use super::auth::Caller;
use crate::snapshot::{PoolEntry, Snapshot};

/// Why a pool is passed over. The caller is not told of such a pool, not even its name.
pub(super) const NOT_THIS_POOL: &str = "this caller may not use it";
/// Why a pool is passed over.
pub(super) const NOT_THIS_MODEL: &str = "this caller may not use this model";

/// Why a pool may not be called at all.
pub(super) fn denial(
    entry: &PoolEntry,
    protocol: Protocol,
    caller: &Caller,
) -> Option<&'static str> {
    if !caller.may_use_pool(entry) {
        Some(NOT_THIS_POOL)
    } else if !entry.speaks(protocol) {
        Some("it is not called by this protocol")
    } else {
        None
    }
}

/// Whether the caller may call a target of the route by the protocol.
pub(super) fn is_callable(
    snapshot: &Snapshot,
    protocol: Protocol,
    route: &RouteSettings,
    caller: &Caller,
) -> bool {
    evaluate(snapshot, protocol, route, caller).any(|(_, _, denial)| denial.is_none())
}

/// The route's targets with the model there, and why the caller may not call it by the protocol, where it may not.
pub(super) fn evaluate<'a>(
    snapshot: &'a Snapshot,
    protocol: Protocol,
    route: &'a RouteSettings,
    caller: &Caller,
) -> impl Iterator<Item = (&'a PoolEntry, &'a Arc<str>, Option<&'static str>)> {
    let by_its_name = caller.may_use_model(&route.model);
    route.targets.iter().filter_map(move |target| {
        let model = target.model.as_ref().unwrap_or(&route.model);
        let entry = snapshot.pool(&target.pool)?;
        let may_not = || (!by_its_name && !caller.may_use_model(model)).then_some(NOT_THIS_MODEL);
        let denial = denial(entry, protocol, caller).or_else(may_not);
        Some((entry, model, denial))
    })
}
