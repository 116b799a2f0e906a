//! `[server]` and `[log]`.
//!
//! This module must never bind an address: only `serve` finds out whether a port is free.

use keypool_gateway::settings::{
    AuthMode, LogFormat, LogLevel, LogSettings, ServerSettings, VirtualKeySettings,
};

use super::location::Location;
use super::report::Report;
use super::sources::Overrides;
use super::text::{Text, last_valid};
use super::values;
use super::walk::Table;

const ADDRESS: &str = "an address and port such as \"127.0.0.1:8080\"";

/// Reads `[server]`, `KEYPOOL_LISTEN` and `--listen`. Also returns the location of `auth`.
pub(super) fn server(
    table: Option<Table<'_>>,
    report: &Report<'_>,
    flags: &Overrides,
) -> (ServerSettings, Option<Location>) {
    let mut out = ServerSettings::default();
    let overrides = [
        Text::variable(report, "KEYPOOL_LISTEN"),
        Text::flag(report, "--listen", flags.listen.as_deref()),
    ];
    let Some(mut table) = table else {
        out.listen = last_valid(None, overrides, listen).unwrap_or(out.listen);
        return (out, None);
    };
    out.listen = last_valid(table.text("listen"), overrides, listen).unwrap_or(out.listen);
    let words = [
        ("auto", AuthMode::Auto),
        ("required", AuthMode::Required),
        ("none", AuthMode::None),
    ];
    let auth_at = table.location_of("auth");
    out.auth = table.one_of("auth", &words).unwrap_or(out.auth);
    out.max_request_body = table
        .size("max_request_body")
        .unwrap_or(out.max_request_body);
    out.shutdown_timeout = table
        .duration("shutdown_timeout")
        .unwrap_or(out.shutdown_timeout);
    out.shutdown_delay = table
        .duration("shutdown_delay")
        .unwrap_or(out.shutdown_delay);
    out.public_url = table.text("public_url").and_then(|text| {
        let expected = "an https address without a query, such as \"https://llm.example.com\" (http only for a loopback host)";
        text.read(expected, values::public_url)
    });
    out.allowed_hosts = list(
        &mut table,
        "allowed_hosts",
        "a host without scheme and port, such as \"llm.example.com\"",
        values::host,
    );
    out.allowed_origins = origins(&mut table);
    not_implemented(&mut table);
    table.finish();
    (out, auth_at)
}

/// Reads `[log]`, `KEYPOOL_LOG_LEVEL`, `KEYPOOL_LOG_FORMAT` and their flags.
pub(super) fn log(table: Option<Table<'_>>, report: &Report<'_>, flags: &Overrides) -> LogSettings {
    let (level, format) = match table {
        Some(mut table) => {
            let texts = (table.text("level"), table.text("format"));
            table.finish();
            texts
        }
        None => (None, None),
    };
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let level_overrides = [
        Text::variable(report, "KEYPOOL_LOG_LEVEL"),
        Text::flag(report, "--log-level", flags.log_level.as_deref()),
    ];
    let format_overrides = [
        Text::variable(report, "KEYPOOL_LOG_FORMAT"),
        Text::flag(report, "--log-format", flags.log_format.as_deref()),
    ];
    LogSettings {
        level: last_valid(level, level_overrides, |text| text.one_of(&levels)).unwrap_or_default(),
        format: last_valid(format, format_overrides, |text| text.one_of(&formats))
            .unwrap_or_default(),
    }
}

/// Warns if anyone on the network may spend the keys, if no caller can be served, and if virtual keys have no effect.
/// `auth_at` is the location of `server.auth`.
pub(super) fn warn_exposure(
    report: &Report<'_>,
    server: &ServerSettings,
    auth_at: Option<&Location>,
    keys: &[VirtualKeySettings],
) {
    if let (AuthMode::None, Some(at), false) = (server.auth, auth_at, keys.is_empty()) {
        let warning = "`server.auth` is \"none\", so no caller needs a virtual key: the permissions and limits of `[[virtual_keys]]` have no effect";
        report.warn_at(at, warning);
    }
    let listen = server.listen;
    let is_local = listen.ip().is_loopback();
    match server.auth {
        AuthMode::None if is_local => {}
        AuthMode::None => report.warn(format!(
            "`server.auth` is \"none\": anyone who reaches {listen} may spend the keys"
        )),
        // On loopback, a virtual key is required once one is configured, even a disabled one.
        AuthMode::Auto if is_local && keys.is_empty() => {}
        AuthMode::Auto | AuthMode::Required if keys.iter().any(|key| !key.disabled) => {}
        AuthMode::Auto | AuthMode::Required if is_local => report.warn(
            "a virtual key is required, but all are disabled or missing: every call gets 401 until one is configured"
                .to_owned(),
        ),
        AuthMode::Auto | AuthMode::Required => {
            report.warn(format!(
                "{listen} can be reached from outside, but there is no enabled virtual key: every call gets 401 until one is configured"
            ));
        }
    }
}

fn listen(text: &Text<'_>) -> Option<std::net::SocketAddr> {
    text.read(ADDRESS, values::listen)
}

/// A list whose items are read one by one.
pub(super) fn list<T>(
    table: &mut Table<'_>,
    name: &'static str,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let texts = table.texts(name).unwrap_or_default();
    texts
        .iter()
        .filter_map(|text| text.read(expected, &read))
        .collect()
}

fn origins(table: &mut Table<'_>) -> Vec<String> {
    let read = |text: Text<'_>| match &*text.value {
        "*" => {
            text.invalid("must not contain \"*\", which would let any web page spend the keys; list the origins");
            None
        }
        "null" => {
            text.invalid("must not contain \"null\", which any web page can make its origin; list the origins");
            None
        }
        _ => text.read(
            "an origin such as \"https://app.example.com\", without a path",
            values::origin,
        ),
    };
    table
        .texts("allowed_origins")
        .unwrap_or_default()
        .into_iter()
        .filter_map(read)
        .collect()
}

/// Reads the settings that are checked but not implemented yet.
fn not_implemented(table: &mut Table<'_>) {
    let report = table.report();
    if table
        .text("admin_listen")
        .and_then(|text| listen(&text))
        .is_some()
    {
        report.not_implemented(
            "server.admin_listen",
            "the admin API and dashboard stay at `server.listen`",
        );
    }
    let network = "an address or network such as \"10.0.0.0/8\"";
    let proxies = list(table, "trusted_proxies", network, |text| {
        values::is_network(text).then_some(())
    });
    if !proxies.is_empty() {
        report.not_implemented(
            "server.trusted_proxies",
            "the peer of a connection counts as the client",
        );
    }
    if let Some(mut tls) = table.table("tls") {
        for name in ["cert", "key"] {
            tls.required(name).and_then(Text::label);
        }
        tls.finish();
        report.not_implemented("server.tls", "connections are not encrypted");
    }
}
