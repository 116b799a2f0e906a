//! Base URLs: where a pool's or key's calls go, and that they do not go to keypool itself.
//!
//! This module must never connect, and never show what was written: a password may stand in it.

use std::net::SocketAddr;

use keypool_core::base_url::{BaseUrl, BaseUrlError};
use keypool_providers::dialect::Dialect;

use super::problem::Problem;
use super::report::Report;
use super::text::Text;
use super::values;
use super::walk::Node;

/// Where the calls of keys without a base URL of their own go.
#[derive(Clone)]
pub(super) enum Base {
    /// There.
    Known(BaseUrl),
    /// Nowhere: neither the user nor the provider says.
    Missing,
    /// What was written is wrong, and was reported.
    Invalid,
}

/// A pool's base URL: its own, else the environment's, else the provider's.
pub(super) fn of_pool(
    own: Option<Node<'_>>,
    dialect: Option<&dyn Dialect>,
    report: &Report<'_>,
    listen: SocketAddr,
) -> Base {
    let known = |text: Option<Text<'_>>| {
        text.and_then(|text| read(&text, listen))
            .map_or(Base::Invalid, Base::Known)
    };
    let Some(dialect) = dialect else {
        own.map(|node| known(node.text("a string")));
        return Base::Invalid;
    };
    let variable = || {
        dialect
            .env_base_url()
            .and_then(|name| Text::variable(report, name))
    };
    match own
        .map(|node| node.text("a string"))
        .or_else(|| variable().map(Some))
    {
        Some(text) => known(text),
        None => dialect
            .default_base_url()
            .and_then(|url| url.parse().ok())
            .map_or(Base::Missing, Base::Known),
    }
}

/// Reads a base URL, which is not shown: what stands in it by mistake may be a password.
pub(super) fn read(text: &Text<'_>, listen: SocketAddr) -> Option<BaseUrl> {
    let hint = "a base URL looks like \"https://api.example.com/v1\"";
    let wrong = |why: &str| {
        text.report().add(
            Problem::new(&text.at, format!("`{}` is no base URL: {why}", text.name)).hint(hint),
        )
    };
    let written = text
        .value
        .trim()
        .split_once("://")
        .map_or("", |(_, rest)| rest);
    let written =
        values::host_port(&written[..written.find(['/', '?', '#']).unwrap_or(written.len())]);
    let url: BaseUrl = match (text.value.parse(), written) {
        (Ok(url), _) => url,
        (Err(BaseUrlError::Syntax), None) if text.value.contains("://") => {
            wrong("host or port are not valid");
            return None;
        }
        (Err(error), _) => {
            wrong(&format!("{error}"));
            return None;
        }
    };
    let default_port = if url.is_https() { 443 } else { 80 };
    let Some((host, port)) = written else {
        wrong("host or port are not valid");
        return None;
    };
    if values::is_listened_at(listen, host, port.unwrap_or(default_port)) {
        let message = format!(
            "`{}` is keypool's own address, {listen}: calls would go in a circle",
            text.name
        );
        text.report().add(
            Problem::new(&text.at, message)
                .hint("give the provider's address, or another `server.listen`"),
        );
        return None;
    }
    Some(url)
}
