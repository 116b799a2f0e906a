//! Base URLs: where the calls of a pool or key go. A base URL must not lead to keypool itself.
//!
//! This module must never connect, and never show what was written before it is parsed: it may contain a password.

use std::net::SocketAddr;

use keypool_core::base_url::{BaseUrl, BaseUrlError};
use keypool_providers::base_path::{self, Mistake};
use keypool_providers::dialect::Dialect;

use super::problem::Problem;
use super::report::Report;
use super::text::Text;
use super::values;
use super::walk::Node;

/// The base URL of keys that have none of their own.
#[derive(Clone)]
pub(super) enum Base {
    /// A valid base URL.
    Known(BaseUrl),
    /// Neither the user nor the provider gives one.
    Missing,
    /// What was written is invalid, and was reported.
    Invalid,
}

/// A pool's base URL: its own, else the one in the environment, else the provider's.
pub(super) fn of_pool(
    own: Option<Node<'_>>,
    dialect: Option<&Dialect>,
    report: &Report<'_>,
    listen: SocketAddr,
) -> Base {
    let known = |text: Option<Text<'_>>| {
        text.and_then(|text| read(&text, dialect, listen))
            .map_or(Base::Invalid, Base::Known)
    };
    let Some(dialect) = dialect else {
        own.map(|node| known(node.text("a string")));
        return Base::Invalid;
    };
    let variable = || {
        dialect
            .env_base_url
            .and_then(|name| Text::variable(report, name))
    };
    match own
        .map(|node| node.text("a string"))
        .or_else(|| variable().map(Some))
    {
        Some(text) => known(text),
        None => dialect
            .default_base_url
            .and_then(|url| url.parse().ok())
            .map_or(Base::Missing, Base::Known),
    }
}

/// Reads a base URL of a pool with this dialect; `None`: the pool's provider is not known.
pub(super) fn read(
    text: &Text<'_>,
    dialect: Option<&Dialect>,
    listen: SocketAddr,
) -> Option<BaseUrl> {
    let url = address(text, listen)?;
    match dialect.and_then(|dialect| base_path::mistake(dialect, &url)) {
        Some(Mistake::Endpoint { correct }) => {
            let message = format!(
                "`{}` ends with an endpoint, which keypool adds itself",
                text.name
            );
            text.report()
                .add(Problem::new(&text.at, message).hint(format!("write \"{correct}\"")));
            None
        }
        Some(Mistake::NoVersion { correct }) => {
            let warning = format!(
                "`{}` lacks the version or path that this host needs: write \"{correct}\"",
                text.name
            );
            text.report().warn_at(&text.at, &warning);
            Some(url)
        }
        None => Some(url),
    }
}

/// Reads a URL that does not lead to keypool itself. Messages do not show it: it may contain a password by mistake.
fn address(text: &Text<'_>, listen: SocketAddr) -> Option<BaseUrl> {
    let hint = "a base URL looks like \"https://api.example.com/v1\"";
    let wrong = |why: &str| {
        text.report().add(
            Problem::new(
                &text.at,
                format!("`{}` is not a base URL: {why}", text.name),
            )
            .hint(hint),
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
            wrong("the host or port is not valid");
            return None;
        }
        (Err(error), _) => {
            wrong(&format!("{error}"));
            return None;
        }
    };
    let default_port = if url.is_https() { 443 } else { 80 };
    let Some((host, port)) = written else {
        wrong("the host or port is not valid");
        return None;
    };
    if values::is_listened_at(listen, host, port.unwrap_or(default_port)) {
        let message = format!(
            "`{}` is keypool's own address, {listen}: calls would loop",
            text.name
        );
        text.report().add(
            Problem::new(&text.at, message)
                .hint("set the provider's address, or change `server.listen`"),
        );
        return None;
    }
    Some(url)
}
