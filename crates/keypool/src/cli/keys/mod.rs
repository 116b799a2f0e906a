//! `keypool keys`: the provider keys of a running server.

mod actions;
mod add;
mod check;
mod export;
mod import;
mod list;
mod refresh;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, Subcommand};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::client::{Client, path};
use super::server::ServerArgs;

/// Maximum number of calls to the server at the same time.
const MAX_CALLS: usize = 8;

#[derive(Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    verb: KeyVerb,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum KeyVerb {
    /// List keys with their state, use and quota.
    #[command(after_help = "Example:\n  keypool keys list --pool tavily")]
    List(list::ListArgs),
    /// Add one key. Its secret is asked for, or read from standard input.
    #[command(
        after_help = "Examples:\n  keypool keys add --pool openai --name main\n  keypool keys add --pool openai < key.txt"
    )]
    Add(add::AddArgs),
    /// Add many keys from a file, at most 100,000 at once.
    ///
    /// Lines that are no keys are reported and left out. Exits with 1 if no line is a key, new or known.
    #[command(
        after_help = "Examples:\n  keypool keys import --pool tavily keys.txt\n  keypool keys import --pool tavily --format csv - < keys.csv\n\nA CSV file may begin with the names of its columns: key, name, group, weight, max_concurrent, rpm and others."
    )]
    Import(import::ImportArgs),
    /// Print the keys as a list that other programs read.
    ///
    /// Without --secrets, the server is asked, and no secret is printed. With it, the store is read directly, with the master
    /// key of the configuration or of the file beside the database; `keypool keys import` reads the result.
    #[command(
        after_help = "Examples:\n  keypool keys export > keys.csv\n  (umask 077; keypool keys export --pool tavily --secrets --format json > tavily.json)"
    )]
    Export(export::ExportArgs),
    /// Make one free call with each key to find out whether it works.
    ///
    /// Exits with 1 if one does not work or could not be checked.
    #[command(
        after_help = "Examples:\n  keypool keys check\n  keypool keys check --pool openai main spare"
    )]
    Check(check::CheckArgs),
    /// Ask providers what is left of the quota of their keys.
    ///
    /// Without --pool, all pools whose provider tells that. Exits with 1 if the quota of a key could not be refreshed.
    #[command(after_help = "Example:\n  keypool keys refresh --pool tavily")]
    Refresh(refresh::RefreshArgs),
    /// Switch keys on.
    #[command(after_help = "Example:\n  keypool keys enable --pool openai main spare")]
    Enable(actions::NamesArgs),
    /// Switch keys off: they take no further calls. Calls in flight go on.
    #[command(after_help = "Example:\n  keypool keys disable --pool openai main")]
    Disable(actions::NamesArgs),
    /// Clear the cooldowns of keys, and the marks `exhausted` and `invalid`.
    #[command(after_help = "Example:\n  keypool keys reset --pool openai main")]
    Reset(actions::NamesArgs),
    /// Delete stored keys. Calls in flight go on.
    #[command(after_help = "Example:\n  keypool keys remove --pool openai spare --yes")]
    Remove(actions::RemoveArgs),
}

/// Runs a verb.
pub(super) fn run(args: &KeysArgs) -> Result<ExitCode, Failure> {
    let server = &args.server;
    if let KeyVerb::Export(export) = &args.verb {
        return export::run(export, server);
    }
    let client = Client::new(server)?;
    match &args.verb {
        KeyVerb::List(args) => list::run(args, &client),
        KeyVerb::Add(args) => add::run(args, &client),
        KeyVerb::Import(args) => import::run(args, &client),
        KeyVerb::Export(args) => export::run(args, server),
        KeyVerb::Check(args) => check::run(args, &client),
        KeyVerb::Refresh(args) => refresh::run(args, &client),
        KeyVerb::Enable(args) => actions::run(args, actions::Action::Enable, &client),
        KeyVerb::Disable(args) => actions::run(args, actions::Action::Disable, &client),
        KeyVerb::Reset(args) => actions::run(args, actions::Action::Reset, &client),
        KeyVerb::Remove(args) => actions::remove(args, &client),
    }
}

/// A pool, as the server lists it.
#[derive(Deserialize)]
struct Pool {
    name: String,
    provider: String,
    /// Why it is not in use.
    inactive: Option<String>,
}

/// All pools in use.
fn pools(client: &Client) -> Result<Vec<Pool>, Failure> {
    let pools: Vec<Pool> = client.read_all(&client.list(&path(&["pools"]))?)?;
    Ok(pools
        .into_iter()
        .filter(|pool| pool.inactive.is_none())
        .collect())
}

/// The keys of one pool, or of all.
fn keys(client: &Client, pool: Option<&str>) -> Result<Vec<Value>, Failure> {
    let names = match pool {
        Some(name) => vec![name.to_owned()],
        None => pools(client)?.into_iter().map(|pool| pool.name).collect(),
    };
    let mut all = Vec::new();
    for name in names {
        all.extend(client.list(&path(&["pools", &name, "keys"]))?);
    }
    Ok(all)
}

/// Calls `work` with each item, a few at the same time. The results are in the order of the items.
fn for_each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        for _ in 0..items.len().min(MAX_CALLS) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else {
                        return;
                    };
                    let result = work(item);
                    results.lock().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// 0 if everything is as it should be, else 1.
fn exit_code(is_good: bool) -> ExitCode {
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..100).collect();
        let results = for_each(&items, |item| {
            thread::sleep(std::time::Duration::from_micros(item * 37 % 101));
            item * 2
        });
        assert!(results.into_iter().eq((0..100).map(|item| item * 2)));
        assert!(for_each(&[], |item: &u64| *item).is_empty());
    }
}
