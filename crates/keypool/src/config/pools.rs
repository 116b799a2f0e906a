//! `[pools.*]`: the provider, base URL and rules of each pool.
//!
//! This module must never know a provider by name: what differs between them comes from their dialects.

use std::net::SocketAddr;

use keypool_core::settings::{
    BreakerSettings, KeyDefaults, PoolSettings, QueueSettings, RetrySettings, Strategy,
    TimeoutSettings,
};
use keypool_gateway::proxy_environment::ProxyEnvironment;
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;

use super::base;
use super::display;
use super::keys;
use super::problem::Problem;
use super::proxy;
use super::values;
use super::walk::Table;

/// The pools of the file.
#[derive(Default)]
pub(super) struct FilePools {
    /// The pools that could be read.
    pub(super) pools: Vec<PoolSettings>,
    /// The names of all pools, also of those with mistakes.
    pub(super) names: Vec<String>,
    /// The providers that have a pool.
    pub(super) providers: Vec<&'static str>,
}

/// Reads all pools, in the order of the file.
pub(super) fn read(
    table: Option<Table<'_>>,
    listen: SocketAddr,
    proxies: &ProxyEnvironment,
) -> FilePools {
    let mut out = FilePools::default();
    let Some(table) = table else { return out };
    for (name, at, node) in table.entries() {
        if let Some(mistake) = values::pool_name_mistake(&name) {
            let message = format!("the pool name {} {mistake}", display::name(&name));
            table.report().add(Problem::new(&at, message));
        }
        if values::begins_endpoint(&name) {
            let warning = format!(
                "the pool {} gets every call whose path begins with `/{name}`, also from clients that leave out the version of an endpoint: choose another name",
                display::name(&name)
            );
            table.report().warn_at(&at, &warning);
        }
        if let Some(mut table) = node.table() {
            let dialect = provider(&mut table);
            out.providers.extend(dialect.map(|dialect| dialect.name));
            out.pools
                .extend(pool(&name, dialect, table, listen, proxies));
        }
        out.names.push(name);
    }
    out
}

fn pool(
    name: &str,
    dialect: Option<&'static Dialect>,
    mut table: Table<'_>,
    listen: SocketAddr,
    proxies: &ProxyEnvironment,
) -> Option<PoolSettings> {
    let report = table.report();
    let base_node = table.take("base_url");
    let base = base::of_pool(base_node, dialect, report, listen);
    let max_concurrent = table
        .whole("max_concurrent_per_key", 1..=u32::MAX)
        .or_else(|| dialect.and_then(|dialect| dialect.default_max_concurrent));
    let proxy = proxy::setting(&mut table);
    let defaults = keys::Defaults {
        pool: name,
        dialect,
        base: &base,
        max_concurrent,
        listen,
        proxy: &proxy,
        proxies,
    };
    let keys = keys::read(&mut table, &defaults);
    if keys.base_missing {
        let provider = dialect.map_or("", |dialect| dialect.name);
        let message = format!(
            "`pools.{}.base_url` is missing: the provider \"{provider}\" has no default",
            display::bare_name(name)
        );
        report.add(Problem::absent(table.at(), message).hint("base_url = \"https://host/v1\""));
    }
    let strategy = strategy(&mut table);
    let models = table.labels("models");
    let second_opinion = table.switch("second_opinion");
    let (retry, breaker) = (retry(table.table("retry")), breaker(table.table("breaker")));
    let (queue, timeouts) = (
        queue(table.table("queue")),
        timeouts(table.table("timeouts")),
    );
    table.finish();
    let dialect = dialect?;
    let key_defaults = KeyDefaults {
        base_url: match &base {
            base::Base::Known(url) => Some(url.clone()),
            base::Base::Missing | base::Base::Invalid => None,
        },
        proxy,
        max_concurrent,
    };
    let defaults = PoolSettings::default();
    Some(PoolSettings {
        name: name.into(),
        provider: dialect.name,
        strategy,
        models: models.unwrap_or_else(|| default_models(dialect)),
        second_opinion: second_opinion.unwrap_or(defaults.second_opinion),
        keys: keys.keys,
        key_defaults,
        retry,
        breaker,
        queue,
        timeouts,
        source: report.file_name().into(),
    })
}

fn provider(table: &mut Table<'_>) -> Option<&'static Dialect> {
    let names: Vec<&'static str> = catalogue::ALL.iter().map(|dialect| dialect.name).collect();
    let Some(node) = table.take("provider") else {
        let message = format!(
            "the pool has no `provider`: it must be one of {}",
            display::alternatives(&names)
        );
        table
            .report()
            .add(Problem::absent(table.at(), message).hint("provider = \"openai\""));
        return None;
    };
    let words: Vec<(&'static str, &'static str)> =
        names.into_iter().map(|name| (name, name)).collect();
    catalogue::find(node.text("the name of a provider")?.one_of(&words)?)
}

/// The model patterns of a pool that does not list any.
pub(super) fn default_models(dialect: &Dialect) -> Vec<String> {
    dialect
        .default_models
        .iter()
        .map(|model| (*model).to_owned())
        .collect()
}

fn strategy(table: &mut Table<'_>) -> Strategy {
    let words = [
        ("round_robin", (Strategy::RoundRobin, None)),
        ("least_loaded", (Strategy::LeastLoaded, None)),
        ("random", (Strategy::Random, None)),
        ("headroom", (Strategy::RoundRobin, Some("headroom"))),
        ("affinity", (Strategy::Affinity, None)),
    ];
    let (strategy, later) = table.one_of("strategy", &words).unwrap_or_default();
    if let Some(name) = later {
        table.report().not_implemented(
            &format!("strategy = \"{name}\""),
            "round_robin is used instead",
        );
    }
    strategy
}

fn retry(table: Option<Table<'_>>) -> RetrySettings {
    let mut out = RetrySettings::default();
    let Some(mut table) = table else { return out };
    out.retries = table.whole("retries", 0..=100).unwrap_or(out.retries);
    out.backoff = table.duration("backoff").unwrap_or(out.backoff);
    table.finish();
    out
}

fn breaker(table: Option<Table<'_>>) -> BreakerSettings {
    let mut out = BreakerSettings::default();
    let Some(mut table) = table else { return out };
    out.failure_rate = table
        .share("failure_rate", false)
        .unwrap_or(out.failure_rate);
    out.min_requests = table
        .whole("min_requests", 1..=u32::MAX)
        .unwrap_or(out.min_requests);
    out.window = table.time("window").unwrap_or(out.window);
    out.cooldown = table.duration("cooldown").unwrap_or(out.cooldown);
    out.max_ejected = table.share("max_ejected", true).unwrap_or(out.max_ejected);
    table.finish();
    out
}

fn queue(table: Option<Table<'_>>) -> QueueSettings {
    let mut out = QueueSettings::default();
    let Some(mut table) = table else { return out };
    let waiting = table
        .whole("max_waiting", 0..=1_000_000u32)
        .and_then(|number| usize::try_from(number).ok());
    out.max_waiting = waiting.unwrap_or(out.max_waiting);
    out.timeout = table.duration("timeout").unwrap_or(out.timeout);
    table.finish();
    out
}

fn timeouts(table: Option<Table<'_>>) -> TimeoutSettings {
    let mut out = TimeoutSettings::default();
    let Some(mut table) = table else { return out };
    out.connect = table.time("connect").unwrap_or(out.connect);
    out.first_byte = table.time("first_byte").unwrap_or(out.first_byte);
    out.idle = table.time("idle").unwrap_or(out.idle);
    out.total = table.time("total").unwrap_or(out.total);
    table.finish();
    out
}
