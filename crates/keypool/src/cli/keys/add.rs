//! `keypool keys add`.

use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::client::{Client, path};
use super::super::{Failure, print, prompt};

#[derive(Args)]
pub(super) struct AddArgs {
    /// The pool that gets the key.
    #[arg(long, value_name = "POOL")]
    pool: String,
    #[command(flatten)]
    settings: KeySettings,
}

/// The settings of a key, with the names that the admin API has for them.
#[derive(Args, Serialize)]
struct KeySettings {
    /// Name of the key, unique in its pool [default: <POOL>-1, <POOL>-2, …].
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where its calls go [default: as the pool's].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    /// Outbound proxy, or `none` [default: as the pool's].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    /// Model sent upstream instead of the one that the client names.
    #[arg(long, value_name = "MODEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Quota group: keys of one account share its limits.
    #[arg(long, value_name = "GROUP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Share of the traffic relative to other keys, from 1 to 100 [default: 1].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Maximum number of calls in flight [default: as the pool's].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent: Option<u32>,
    /// Maximum number of requests in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rpm: Option<u32>,
    /// Maximum number of input tokens in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tpm: Option<u32>,
    /// Maximum number of output tokens in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tpm: Option<u32>,
}

#[derive(Deserialize)]
struct Added {
    name: String,
    key: String,
}

pub(super) fn run(args: &AddArgs, client: &Client) -> Result<ExitCode, Failure> {
    let secret = prompt::secret(&format!("Key for pool {}", args.pool))?;
    let mut body = serde_json::to_value(&args.settings)
        .map_err(|error| Failure::because("cannot write the settings", error))?;
    body["key"] = Value::from(secret.expose());
    let answer = client.post(&path(&["pools", &args.pool, "keys"]), &body)?;
    let added: Added = client.read(&answer)?;
    print(&match client.json {
        true => format!("{answer:#}"),
        false => format!(
            "Added {} ({}) to pool {}.",
            added.name, added.key, args.pool
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}
