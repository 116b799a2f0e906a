//! `[limiter]` and `KEYPOOL_LIMITER_URL`: where limits are counted.
//!
//! This module must never open a connection, and never show a part of the URL, which may contain a password.

use keypool_gateway::settings::{
    LimiterMode, LimiterSettings, LimiterStore, OnStoreFailure, RedisSettings,
};

use super::location::Location;
use super::redis_url;
use super::report::Report;
use super::text::{Text, last_valid};
use super::walk::Table;

/// Reads the section and its variable.
pub(super) fn read(table: Option<Table<'_>>, report: &Report<'_>) -> LimiterSettings {
    let mut out = LimiterSettings::default();
    let mut url = None;
    let mut redis_only = Vec::new();
    if let Some(mut table) = table {
        url = table.text("url");
        let modes = [
            ("leased", LimiterMode::Leased),
            ("strict", LimiterMode::Strict),
        ];
        let failures = [
            ("degrade", OnStoreFailure::Degrade),
            ("reject", OnStoreFailure::Reject),
            ("allow", OnStoreFailure::Allow),
        ];
        out.mode = table.one_of("mode", &modes).unwrap_or_default();
        out.on_store_failure = table
            .one_of("on_store_failure", &failures)
            .unwrap_or_default();
        let changed = [
            ("mode", out.mode != LimiterMode::default()),
            (
                "on_store_failure",
                out.on_store_failure != OnStoreFailure::default(),
            ),
        ];
        let changed = changed.into_iter().filter(|(_, differs)| *differs);
        redis_only.extend(changed.filter_map(|(name, _)| Some((name, table.location_of(name)?))));
        table.finish();
    }
    let chosen = last_valid(url, [Text::variable(report, "KEYPOOL_LIMITER_URL")], store);
    match chosen {
        Some(LimiterStore::Redis(redis)) => {
            out.store = LimiterStore::Redis(redis);
        }
        _ => warn_without_redis(report, &redis_only),
    }
    out
}

fn store(text: &Text<'_>) -> Option<LimiterStore> {
    let url = text.value.trim();
    if url == "memory" {
        return Some(LimiterStore::Memory);
    }
    match redis_url::parse(url) {
        Ok(redis) => {
            warn_without_password(text, &redis);
            Some(LimiterStore::Redis(redis))
        }
        Err(mistake) => {
            text.invalid(&mistake);
            None
        }
    }
}

/// A user alone is probably a password in the wrong place.
fn warn_without_password(text: &Text<'_>, redis: &RedisSettings) {
    if redis.user.is_some() && redis.password.is_none() {
        let warning = format!(
            "`{}` has a user and no password: write user:password@, or :password@ for the default user",
            text.name
        );
        text.report().warn_at(&text.at, &warning);
    }
}

fn warn_without_redis(report: &Report<'_>, settings: &[(&str, Location)]) {
    for (name, at) in settings {
        let warning = format!(
            "`limiter.{name}` has no effect without Redis: set `limiter.url` to a URL such as \"redis://host:6379\""
        );
        report.warn_at(at, &warning);
    }
}
