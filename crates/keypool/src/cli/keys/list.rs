//! `keypool keys list`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::super::client::Client;
use super::super::table::{ago, now, or_dash, quota, table, yes};
use super::super::{Failure, print};

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only the keys of this pool.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
}

/// What the table shows of a key.
#[derive(Deserialize)]
struct Key {
    pool: String,
    name: String,
    key: String,
    state: String,
    inactive: Option<String>,
    is_available: bool,
    total_requests: u64,
    success_rate: f64,
    last_used: Option<Timestamp>,
    remaining_quota: Option<f64>,
    plan_limit: Option<f64>,
    quota_unit: Option<String>,
    age_days: Option<u64>,
    rotation_due: bool,
    source: String,
}

const COLUMNS: [&str; 11] = [
    "POOL",
    "NAME",
    "KEY",
    "STATE",
    "AVAILABLE",
    "REQUESTS",
    "SUCCESS",
    "LAST USED",
    "QUOTA",
    "AGE",
    "SOURCE",
];

pub(super) fn run(args: &ListArgs, client: &Client) -> Result<ExitCode, Failure> {
    let items = super::keys(client, args.pool.as_deref())?;
    if client.json {
        print(&format!("{:#}", json!({ "items": items, "next": null })))?;
        return Ok(ExitCode::SUCCESS);
    }
    let keys: Vec<Key> = client.read_all(&items)?;
    if keys.is_empty() {
        print("There are no keys: `keypool keys add` and `keypool keys import` add some.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = now();
    print(&table(&COLUMNS, keys.into_iter().map(|key| row(key, now))))?;
    Ok(ExitCode::SUCCESS)
}

fn row(key: Key, now: Timestamp) -> Vec<String> {
    let state = match &key.inactive {
        Some(reason) => format!("{} ({reason})", key.state),
        None => key.state,
    };
    let age = key.age_days.map(|days| match key.rotation_due {
        true => format!("{days} days, rotate it"),
        false => format!("{days} days"),
    });
    vec![
        key.pool,
        key.name,
        key.key,
        state,
        yes(key.is_available),
        key.total_requests.to_string(),
        match key.total_requests {
            0 => "-".to_owned(),
            _ => format!("{:.1} %", key.success_rate),
        },
        ago(key.last_used, now),
        quota(
            key.remaining_quota,
            key.plan_limit,
            key.quota_unit.as_deref(),
        ),
        or_dash(age),
        key.source,
    ]
}
