//! Outbound proxies: the `proxy` of a key or pool, else the environment's, read as curl reads it.
//!
//! This module must never show what was written: it may contain a password.

use keypool_core::proxy_url::{ProxySetting, ProxyUrl, ProxyUrlError};
use keypool_gateway::proxy_environment::ProxyEnvironment;

use super::report::Report;
use super::text::Text;
use super::walk::Table;

/// Reads the field `proxy` of a pool or key.
pub(super) fn setting(table: &mut Table<'_>) -> ProxySetting {
    let Some(text) = table.text("proxy") else {
        return ProxySetting::Unset;
    };
    if text.value.trim() == "none" {
        return ProxySetting::Direct;
    }
    read(&text, text.value.trim()).map_or(ProxySetting::Unset, ProxySetting::Proxy)
}

fn read(text: &Text<'_>, url: &str) -> Option<ProxyUrl> {
    let read = url.parse();
    read.inspect_err(|error: &ProxyUrlError| text.invalid(&error.to_string()))
        .ok()
}

/// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in lower case.
pub(super) fn environment(report: &Report<'_>) -> ProxyEnvironment {
    let variable = |upper: &str| {
        Text::variable(report, upper)
            .or_else(|| Text::variable(report, &upper.to_ascii_lowercase()))
    };
    let proxy = |name: &str| {
        let text = variable(name)?;
        // As in curl, a proxy without a scheme is an HTTP proxy.
        let value = text.value.trim();
        if value.contains("://") {
            read(&text, value)
        } else {
            read(&text, &format!("http://{value}"))
        }
    };
    let all = proxy("ALL_PROXY");
    let no_proxy = variable("NO_PROXY").map_or_else(String::new, |text| text.value);
    ProxyEnvironment {
        for_http: proxy("HTTP_PROXY").or_else(|| all.clone()),
        for_https: proxy("HTTPS_PROXY").or(all),
        no_proxy: no_proxy
            .split([',', ' ', '\t'])
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}
