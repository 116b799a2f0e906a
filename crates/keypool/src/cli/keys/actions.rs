//! `keypool keys enable`, `disable`, `reset` and `remove`.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{Client, path};
use super::super::table::count;
use super::super::{Failure, print, print_error, prompt};
use super::exit_code;

#[derive(Args)]
pub(super) struct NamesArgs {
    /// The pool of the keys.
    #[arg(long, value_name = "POOL")]
    pool: String,
    /// Names of the keys.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    keys: NamesArgs,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What is done to keys wherever they were configured.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Enable,
    Disable,
    Reset,
}

/// What the text shows of a key.
#[derive(Deserialize)]
struct Key {
    state: String,
}

impl Action {
    fn segment(self) -> &'static str {
        match self {
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Reset => "reset",
        }
    }
}

pub(super) fn run(args: &NamesArgs, action: Action, client: &Client) -> Result<ExitCode, Failure> {
    let call = |name: &str| {
        let key = client.act(&path(&[
            "pools",
            &args.pool,
            "keys",
            name,
            action.segment(),
        ]))?;
        let state = client.read::<Key>(&key)?.state;
        Ok((key, format!("{name}: {state}")))
    };
    each(args, client, call)
}

pub(super) fn remove(args: &RemoveArgs, client: &Client) -> Result<ExitCode, Failure> {
    let NamesArgs { pool, names } = &args.keys;
    let question = format!(
        "Remove {} of pool {pool} ({})?",
        count(names.len(), "key"),
        names.join(", ")
    );
    prompt::confirm(&question, args.yes)?;
    let call = |name: &str| {
        client.delete(&path(&["pools", pool, "keys", name]))?;
        Ok((
            json!({ "pool": pool, "name": name }),
            format!("{name}: removed"),
        ))
    };
    each(&args.keys, client, call)
}

/// Calls the server for each key. What it refuses for one key does not stop the others.
fn each(
    args: &NamesArgs,
    client: &Client,
    call: impl Fn(&str) -> Result<(Value, String), Failure>,
) -> Result<ExitCode, Failure> {
    let (mut items, mut refused) = (Vec::new(), Vec::new());
    for name in &args.names {
        match call(name) {
            Ok((item, line)) => {
                if !client.json {
                    print(&line)?;
                }
                items.push(item);
            }
            Err(Failure::Problem { sentence, .. }) => {
                print_error(&format!("{name}: {sentence}"));
                refused.push(json!({ "name": name, "error": sentence }));
            }
            Err(failure) => return Err(failure),
        }
    }
    let is_good = refused.is_empty();
    if client.json {
        print(&format!(
            "{:#}",
            json!({ "items": items, "errors": refused })
        ))?;
    }
    Ok(exit_code(is_good))
}
