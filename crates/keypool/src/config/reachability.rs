//! Warns about routes and targets that no call can reach. They are allowed, but probably not meant.
//!
//! This module must never know a provider by name: what differs between them comes from their dialects.

use keypool_core::pattern::any_matches;
use keypool_core::settings::PoolSettings;
use keypool_gateway::settings::{AuthMode, RouteSettings, RouteTarget, VirtualKeySettings};
use keypool_providers::catalogue;

use super::display;
use super::location::Location;
use super::report::Report;

/// What decides which targets callers can reach.
pub(super) struct Reachability<'a> {
    /// All pools.
    pub(super) pools: Vec<&'a PoolSettings>,
    /// `server.auth`
    pub(super) auth: AuthMode,
    /// All virtual keys.
    pub(super) virtual_keys: &'a [VirtualKeySettings],
}

impl Reachability<'_> {
    /// Warns about `route`, whose name is at `at` and whose targets are at `locations`.
    pub(super) fn warn(
        &self,
        route: &RouteSettings,
        at: &Location,
        locations: &[Location],
        report: &Report<'_>,
    ) {
        let targets = || route.targets.iter();
        for ((n, target), location) in targets().enumerate().zip(locations) {
            let (pool, model) = (&target.pool, model_of(route, target));
            let is_same =
                |other: &RouteTarget| other.pool == *pool && model_of(route, other) == model;
            if targets().take(n).any(is_same) {
                let message = "this target is in the route twice: the same pool is tried again for the same model";
                report.warn_at(location, message);
            } else if self.names_no_model(target) {
                let message = format!(
                    "no call reaches this target: calls to the provider of the pool {} do not name a model",
                    display::name(pool)
                );
                report.warn_at(location, &message);
            }
        }
        if !targets().any(|target| !self.names_no_model(target)) {
            // Each target has its own warning.
            return;
        }
        if self.asks_for_keys() && !targets().any(|target| self.some_key_may(route, target)) {
            let message = format!(
                "no virtual key may use the route {}: none allows its name, or the model of a target, together with that target's pool",
                display::name(&route.model)
            );
            report.warn_at(at, &message);
        }
    }

    /// False for a pool that does not exist or has mistakes, which are reported elsewhere.
    fn names_no_model(&self, target: &RouteTarget) -> bool {
        let pool = self.pools.iter().find(|pool| pool.name == target.pool);
        let dialect = pool.and_then(|pool| catalogue::find(pool.provider));
        dialect.is_some_and(|dialect| dialect.default_models.is_empty())
    }

    /// False if no key is enabled: then no call gets through, which is reported elsewhere.
    fn asks_for_keys(&self) -> bool {
        self.auth != AuthMode::None && self.virtual_keys.iter().any(|key| !key.disabled)
    }

    fn some_key_may(&self, route: &RouteSettings, target: &RouteTarget) -> bool {
        let mut keys = self.virtual_keys.iter().filter(|key| !key.disabled);
        keys.any(|key| {
            any_matches(&key.pools, &target.pool)
                && (any_matches(&key.models, &route.model)
                    || any_matches(&key.models, model_of(route, target)))
        })
    }
}

/// The model requested from a target.
fn model_of<'a>(route: &'a RouteSettings, target: &'a RouteTarget) -> &'a str {
    target.model.as_ref().unwrap_or(&route.model)
}
