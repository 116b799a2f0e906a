//! The text printed at start: addresses, pools, and a `curl` line that works when pasted.

use std::fmt::Write;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};

use keypool_core::settings::PoolSettings;
use keypool_gateway::snapshot::Snapshot;
use keypool_providers::catalogue;

use crate::admin_token::AdminToken;
use crate::open_files::OpenFiles;

/// The subcommand that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Serve,
    Demo,
}

/// The text printed to standard output.
pub(crate) fn text(
    kind: Kind,
    addr: SocketAddr,
    open_files: OpenFiles,
    snapshot: &Snapshot,
    token: &AdminToken,
) -> String {
    let base = format!("http://{}", reachable(addr));
    let mut text = format!("\nkeypool {}\n\n", env!("CARGO_PKG_VERSION"));
    if kind == Kind::Demo {
        text.push_str(
            "  DEMO: a built-in mock provider behind made-up keys. Every answer is made up.\n\n",
        );
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  Gateway      {base}");
    let _ = writeln!(text, "  Key states   {base}/api/keys/stats");
    let _ = writeln!(text, "  Dashboard    {base}/ui/");
    let _ = writeln!(text, "  Admin token  {}", admin_token(token));
    let OpenFiles { limit, streams } = open_files;
    let _ = writeln!(
        text,
        "  Capacity     {streams} streams at once ({limit} open files)"
    );
    let pools = &snapshot.settings.pools;
    for pool in pools {
        let keys = match pool.keys.len() {
            1 => "1 key".to_owned(),
            n => format!("{n} keys"),
        };
        let _ = writeln!(
            text,
            "  Pool         {}: {keys} ({}, from {})",
            pool.name, pool.provider, pool.source
        );
    }
    if pools.iter().all(|pool| pool.keys.is_empty()) {
        text.push_str("\n  No provider key is configured: set one in the environment (OPENAI_API_KEY=key1,key2), in .env or in\n");
        text.push_str("  keypool.toml; changes to .env and keypool.toml take effect at once. `keypool demo` needs no key.\n");
    }
    let _ = write!(text, "\n  Try it:\n\n{}\n", curl(&base, snapshot));
    text
}

/// An address that clients can use: an unspecified address such as 0.0.0.0 becomes 127.0.0.1.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip().is_unspecified() {
        true => SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())),
        false => addr,
    }
}

/// A generated token is shown once, and only on a terminal.
fn admin_token(token: &AdminToken) -> String {
    match &token.file {
        None => "as configured".to_owned(),
        Some(_) if token.is_new && std::io::stdout().is_terminal() => {
            token.secret.expose().to_owned()
        }
        Some(file) => format!("in {}", file.display()),
    }
}

fn curl(base: &str, snapshot: &Snapshot) -> String {
    let key = if snapshot.needs_virtual_key() {
        " -H 'Authorization: Bearer YOUR_VIRTUAL_KEY'"
    } else {
        ""
    };
    let json = " -H 'Content-Type: application/json'";
    let pool = snapshot
        .settings
        .pools
        .iter()
        .find(|pool| !pool.keys.is_empty());
    match pool {
        Some(pool) if pool.provider == "tavily" => {
            format!("  curl {base}/search{key}{json} -d '{{\"query\":\"What is a key pool?\"}}'")
        }
        Some(pool) => match exact_model(pool) {
            Some(model) => format!(
                "  curl {base}/v1/chat/completions{key}{json} -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
            ),
            None => format!("  curl {base}/v1/models{key}"),
        },
        None => format!("  curl {base}/healthz"),
    }
}

/// A model that the operator named. The provider's default models do not tell whether one does chat.
fn exact_model(pool: &PoolSettings) -> Option<&str> {
    let default_models =
        catalogue::find(pool.provider).map_or(&[][..], |dialect| dialect.default_models);
    pool.models
        .iter()
        .map(String::as_str)
        .find(|model| !model.contains(['*', '\'', '"']) && !default_models.contains(model))
}
