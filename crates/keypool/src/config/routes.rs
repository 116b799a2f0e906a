//! `[[routes]]`: the operator's own model names, and references to pools.
//!
//! This module must never know what a route does with a request.

use std::collections::HashSet;
use std::sync::Arc;

use keypool_core::pattern;
use keypool_gateway::settings::{RouteSettings, RouteTarget};

use super::display;
use super::location::Location;
use super::problem::Problem;
use super::reachability::Reachability;
use super::text::Text;
use super::walk::Table;

/// Reads all routes. `pools` are the names that their targets may refer to.
pub(super) fn read(
    tables: Vec<Table<'_>>,
    pools: &[&str],
    reachability: &Reachability<'_>,
) -> Vec<RouteSettings> {
    let mut names = HashSet::new();
    let mut out = Vec::new();
    for mut table in tables {
        let report = table.report();
        let at = table.location_of("model");
        let name = table
            .required("model")
            .and_then(|text| route_name(text, &mut names));
        let targets = targets(&mut table, pools);
        table.finish();
        if let (Some(model), Some(at), Some((targets, locations))) = (name, at, targets) {
            let route = RouteSettings { model, targets };
            reachability.warn(&route, &at, &locations, report);
            out.push(route);
        }
    }
    out
}

fn route_name(text: Text<'_>, names: &mut HashSet<String>) -> Option<Arc<str>> {
    let (at, report) = (text.at.clone(), text.report());
    if pattern::is_pattern(&text.value) {
        text.invalid("must be a name without `*`: a route serves exactly this name");
        return None;
    }
    let model = text.label()?;
    if let Some(known) = names.replace(model.clone()) {
        let message = format!(
            "there is already a route for the model {}",
            display::name(&known)
        );
        report.add(Problem::new(&at, message));
    }
    Some(model.into())
}

/// The targets and their locations.
fn targets(route: &mut Table<'_>, pools: &[&str]) -> Option<(Vec<RouteTarget>, Vec<Location>)> {
    let report = route.report();
    let Some(node) = route.take("targets") else {
        report.add(
            Problem::absent(route.at(), "`routes.targets` is missing")
                .hint("targets = [{ pool = \"…\", model = \"…\" }]"),
        );
        return None;
    };
    let items = node.items("a list of tables such as { pool = \"…\", model = \"…\" }")?;
    if items.is_empty() {
        report.add(Problem::new(
            &node.at(),
            "`routes.targets` must name at least one target, found an empty list",
        ));
    }
    let (mut out, mut locations) = (Vec::new(), Vec::new());
    for mut target in items.into_iter().filter_map(|item| item.table()) {
        let pool = target.required("pool");
        if let Some(text) = &pool {
            known_pool(text, pools);
        }
        let model = target.text("model").and_then(Text::label);
        let target_at = target.at().clone();
        target.finish();
        if let Some(pool) = pool {
            out.push(RouteTarget {
                pool: pool.value.into(),
                model: model.map(Arc::from),
            });
            locations.push(target_at);
        }
    }
    Some((out, locations))
}

/// Reports the pool in `text` if it does not exist.
pub(super) fn known_pool(text: &Text<'_>, pools: &[&str]) {
    if pools.contains(&&*text.value) {
        return;
    }
    let hint = match display::nearest(&text.value, pools) {
        Some(near) => format!("did you mean {}?", display::name(near)),
        None if pools.is_empty() => "no pool is configured".to_owned(),
        None => format!(
            "pools: {}",
            pools
                .iter()
                .map(|pool| display::bare_name(pool))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let message = format!(
        "`{}` names a pool that does not exist: {}",
        text.name,
        text.shown()
    );
    text.report()
        .add(Problem::absent(&text.at, message).hint(hint));
}
