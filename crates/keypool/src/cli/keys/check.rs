//! `keypool keys check`.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{Client, path};
use super::super::table::{count, or_dash, table};
use super::super::{Failure, print, progress};
use super::{exit_code, for_each};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Only the keys of this pool.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Names of the keys [default: all].
    #[arg(value_name = "NAME", requires = "pool")]
    names: Vec<String>,
}

/// A key to be checked.
#[derive(Deserialize)]
struct Key {
    pool: String,
    name: String,
    inactive: Option<String>,
}

/// What a check has found.
#[derive(Deserialize)]
struct Checked {
    pool: String,
    name: String,
    works: Option<bool>,
    error: Option<String>,
    state: Option<String>,
    duration_ms: Option<u64>,
}

const COLUMNS: [&str; 6] = ["POOL", "NAME", "WORKS", "ERROR", "STATE", "TIME"];

pub(super) fn run(args: &CheckArgs, client: &Client) -> Result<ExitCode, Failure> {
    let keys = keys(args, client)?;
    let what = format!("checking {}", count(keys.len(), "key"));
    let bar = progress::calls(&what, keys.len(), client.json);
    let answers = for_each(&keys, |key| {
        let checked = client.act(&path(&["pools", &key.pool, "keys", &key.name, "check"]));
        bar.inc(1);
        checked
    });
    bar.finish_and_clear();
    let answers = kept(&keys, answers)?;
    let checked: Vec<Checked> = client.read_all(&answers)?;
    let working = checked.iter().filter(|key| key.works == Some(true)).count();
    let failed = checked.len() - working;
    if client.json {
        let result = json!({ "total": checked.len(), "working": working, "failed": failed, "keys": answers });
        print(&format!("{result:#}"))?;
    } else {
        if !checked.is_empty() {
            print(&table(&COLUMNS, checked.into_iter().map(row)))?;
        }
        print(&format!(
            "{} of {} work.",
            working,
            count(working + failed, "key")
        ))?;
    }
    Ok(exit_code(failed == 0))
}

fn keys(args: &CheckArgs, client: &Client) -> Result<Vec<Key>, Failure> {
    if let (Some(pool), false) = (&args.pool, args.names.is_empty()) {
        let key = |name: &String| Key {
            pool: pool.clone(),
            name: name.clone(),
            inactive: None,
        };
        return Ok(args.names.iter().map(key).collect());
    }
    let keys: Vec<Key> = client.read_all(&super::keys(client, args.pool.as_deref())?)?;
    Ok(keys
        .into_iter()
        .filter(|key| key.inactive.is_none())
        .collect())
}

/// The results. What the server refuses for some keys does not hide what it has found for the others.
fn kept(keys: &[Key], answers: Vec<Result<Value, Failure>>) -> Result<Vec<Value>, Failure> {
    let is_any_checked = answers.iter().any(Result::is_ok);
    let result = |(key, answer): (&Key, Result<Value, Failure>)| match answer {
        Err(Failure::Problem { sentence, .. }) if is_any_checked => {
            Ok(json!({ "pool": key.pool, "name": key.name, "works": null, "error": sentence }))
        }
        answer => answer,
    };
    keys.iter().zip(answers).map(result).collect()
}

fn row(key: Checked) -> Vec<String> {
    let works = match key.works {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    vec![
        key.pool,
        key.name,
        works.to_owned(),
        or_dash(key.error),
        or_dash(key.state),
        or_dash(key.duration_ms.map(|ms| format!("{ms} ms"))),
    ]
}
