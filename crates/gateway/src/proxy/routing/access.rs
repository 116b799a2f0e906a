//! Whether a caller may call a pool, or a route's target, by a protocol; and if not, why.

use std::sync::Arc;

use keypool_providers::protocol::Protocol;

use crate::proxy::inbound::Caller;
use crate::settings::RouteSettings;
use crate::snapshot::{PoolEntry, Snapshot};
use crate::traces::SkipReason;

/// A target of a route, as one caller sees it.
pub(super) struct EvaluatedTarget<'a> {
    pub(super) entry: &'a Arc<PoolEntry>,
    /// The model's name there.
    pub(super) model: &'a Arc<str>,
    /// Why the caller cannot call it; `None` if it can.
    pub(super) denial: Option<SkipReason>,
}

/// Why a pool cannot be called at all; `None` if it can.
pub(super) fn denial(entry: &PoolEntry, protocol: Protocol, caller: &Caller) -> Option<SkipReason> {
    if !caller.may_use_pool(entry) {
        Some(SkipReason::PoolNotAllowed)
    } else if !entry.speaks(protocol) {
        Some(SkipReason::OtherProtocol)
    } else {
        None
    }
}

/// Whether the caller can call any target of the route by the protocol.
pub(crate) fn is_callable(
    snapshot: &Snapshot,
    protocol: Protocol,
    route: &RouteSettings,
    caller: &Caller,
) -> bool {
    evaluate(snapshot, protocol, route, caller).any(|target| target.denial.is_none())
}

/// The route's targets, in order.
pub(super) fn evaluate<'a>(
    snapshot: &'a Snapshot,
    protocol: Protocol,
    route: &'a RouteSettings,
    caller: &Caller,
) -> impl Iterator<Item = EvaluatedTarget<'a>> {
    let by_its_name = caller.may_use_model(&route.model);
    route.targets.iter().filter_map(move |target| {
        let model = target.model.as_ref().unwrap_or(&route.model);
        let entry = snapshot.pool(&target.pool)?;
        let model_denied = || {
            (!by_its_name && !caller.may_use_model(model)).then_some(SkipReason::ModelNotAllowed)
        };
        Some(EvaluatedTarget {
            denial: denial(entry, protocol, caller).or_else(model_denied),
            entry,
            model,
        })
    })
}
