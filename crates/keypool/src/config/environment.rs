//! Pools made from provider keys in the environment: `OPENAI_API_KEY=key1, key2` is a pool named `openai`.
//!
//! This module must never know a provider by name: variables and defaults come from the dialects.

use std::collections::HashSet;
use std::net::SocketAddr;

use keypool_core::proxy_url::ProxySetting;
use keypool_core::settings::{KeyDefaults, KeySettings, PoolSettings};
use keypool_gateway::proxy_environment::ProxyEnvironment;
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;

use super::base::{self, Base};
use super::keys::default_name;
use super::pools::{FilePools, default_models};
use super::problem::Problem;
use super::report::Report;
use super::secrets;
use super::text::Text;

/// A pool for each provider that has keys in the environment and no pool in the file, in the order of the dialects.
pub(super) fn pools(
    report: &Report<'_>,
    file: &FilePools,
    listen: SocketAddr,
    proxies: &ProxyEnvironment,
) -> Vec<PoolSettings> {
    let mut out = Vec::new();
    for dialect in catalogue::ALL.iter().copied() {
        let texts: Vec<Text<'_>> = dialect
            .env_keys
            .iter()
            .filter_map(|name| Text::variable(report, name))
            .filter(|text| !secrets::unquoted(&text.value).is_empty())
            .collect();
        let (Some(first), false) = (texts.first(), file.providers.contains(&dialect.name)) else {
            continue;
        };
        if file.names.iter().any(|name| name == dialect.name) {
            let (variable, file, name) = (&first.name, report.file_name(), dialect.name);
            report.warn(format!(
                "`{variable}` is not used: {file} has a pool named \"{name}\" with another provider"
            ));
            continue;
        }
        out.extend(pool(report, dialect, &texts, listen, proxies));
    }
    out
}

fn pool(
    report: &Report<'_>,
    dialect: &'static Dialect,
    texts: &[Text<'_>],
    listen: SocketAddr,
    proxies: &ProxyEnvironment,
) -> Option<PoolSettings> {
    let base = base::of_pool(None, Some(dialect), report, listen);
    let mut seen = HashSet::new();
    let keys = texts.iter().flat_map(secrets::several);
    let secrets: Vec<_> = keys
        .filter_map(|text| secrets::read(&text))
        .filter(|secret| seen.insert(secret.digest()))
        .collect();
    let base_url = match base {
        Base::Known(url) => url,
        Base::Invalid => return None,
        Base::Missing => {
            let variable = dialect.env_base_url.unwrap_or("a base URL");
            let message = format!(
                "`{variable}` is missing: the provider \"{}\" has no default base URL",
                dialect.name
            );
            report.add(Problem::absent(&texts.first()?.at, message));
            return None;
        }
    };
    let proxy = proxies.resolve(&ProxySetting::Unset, &ProxySetting::Unset, &base_url);
    let key = |(index, secret)| KeySettings {
        proxy: proxy.clone(),
        max_concurrent: dialect.default_max_concurrent,
        ..KeySettings::new(default_name(dialect.name, index), secret, base_url.clone())
    };
    Some(PoolSettings {
        name: dialect.name.into(),
        provider: dialect.name,
        models: default_models(dialect),
        keys: secrets.into_iter().enumerate().map(key).collect(),
        key_defaults: KeyDefaults {
            base_url: Some(base_url.clone()),
            proxy: ProxySetting::Unset,
            max_concurrent: dialect.default_max_concurrent,
        },
        source: "environment".into(),
        ..PoolSettings::default()
    })
}
