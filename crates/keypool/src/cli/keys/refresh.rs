//! `keypool keys refresh`.

use std::process::ExitCode;

use clap::Args;
use keypool_providers::catalogue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::client::{Client, path};
use super::super::table::{count, or_dash, quota, table};
use super::super::{Failure, print, print_error, progress};
use super::{exit_code, for_each};

#[derive(Args)]
pub(super) struct RefreshArgs {
    /// Only the keys of this pool.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
}

/// What the refreshes of some pools have found.
#[derive(Default, Serialize, Deserialize)]
struct Refresh {
    total: usize,
    succeeded: usize,
    failed: usize,
    duration_ms: u64,
    keys: Vec<Value>,
}

/// What the table shows of a key.
#[derive(Deserialize)]
struct Key {
    pool: String,
    name: String,
    remaining_quota: Option<f64>,
    plan_limit: Option<f64>,
    unit: Option<String>,
    error: Option<String>,
}

const COLUMNS: [&str; 4] = ["POOL", "NAME", "QUOTA", "ERROR"];

pub(super) fn run(args: &RefreshArgs, client: &Client) -> Result<ExitCode, Failure> {
    let pools = pools(args, client)?;
    let bar = progress::waiting("asking providers for the quota of their keys", client.json);
    let answers = for_each(&pools, |pool| {
        client.act_long(&path(&["pools", pool, "refresh-quota"]))
    });
    bar.finish_and_clear();
    let is_any_refreshed = answers.iter().any(Result::is_ok);
    let (mut all, mut is_refused) = (Refresh::default(), false);
    for (pool, answer) in pools.iter().zip(answers) {
        let answer = match answer {
            // What the server refuses for one pool does not hide what it has found for the others.
            Err(Failure::Problem { sentence, .. }) if is_any_refreshed => {
                print_error(&format!("{pool}: {sentence}"));
                is_refused = true;
                continue;
            }
            answer => answer?,
        };
        let of_pool: Refresh = client.read(&answer)?;
        all.total += of_pool.total;
        all.succeeded += of_pool.succeeded;
        all.failed += of_pool.failed;
        // They ran at the same time.
        all.duration_ms = all.duration_ms.max(of_pool.duration_ms);
        all.keys.extend(of_pool.keys);
    }
    if client.json {
        print(&serde_json::to_string_pretty(&all).unwrap_or_default())?;
        return Ok(exit_code(all.failed == 0 && !is_refused));
    }
    let keys: Vec<Key> = client.read_all(&all.keys)?;
    if !keys.is_empty() {
        print(&table(&COLUMNS, keys.into_iter().map(row)))?;
    }
    print(&format!(
        "{} of {} refreshed in {} ms.",
        all.succeeded,
        count(all.total, "key"),
        all.duration_ms
    ))?;
    Ok(exit_code(all.failed == 0 && !is_refused))
}

/// The pools whose keys are refreshed.
fn pools(args: &RefreshArgs, client: &Client) -> Result<Vec<String>, Failure> {
    if let Some(pool) = &args.pool {
        return Ok(vec![pool.clone()]);
    }
    let tells =
        |provider: &str| catalogue::find(provider).is_some_and(|dialect| dialect.quota.is_some());
    let pools = super::pools(client)?.into_iter();
    let pools = pools
        .filter(|pool| tells(&pool.provider))
        .map(|pool| pool.name);
    let pools: Vec<String> = pools.collect();
    if pools.is_empty() {
        return Err(Failure::Other(
            "there is no pool whose provider tells the quota of a key".to_owned(),
        ));
    }
    Ok(pools)
}

fn row(key: Key) -> Vec<String> {
    vec![
        key.pool,
        key.name,
        quota(key.remaining_quota, key.plan_limit, key.unit.as_deref()),
        or_dash(key.error),
    ]
}
