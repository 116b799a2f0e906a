//! `keypool check`: reports all mistakes of the configuration in one run.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::table::count;
use super::{Common, Failure, print, print_error};
use crate::config::{self, Errors, Loaded};

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let sources = args.common.sources()?;
    let loaded = config::load(&sources);
    if args.json {
        print(&as_json(&loaded))?;
        return Ok(if loaded.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let Loaded {
        settings, warnings, ..
    } = loaded?;
    for warning in &warnings {
        print_error(&format!("warning: {warning}"));
    }
    let keys: usize = settings.pools.iter().map(|pool| pool.keys.len()).sum();
    print(&format!(
        "The configuration is good: {}, {}, {}.",
        count(settings.pools.len(), "pool"),
        count(keys, "key"),
        count(settings.virtual_keys.len(), "virtual key"),
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn as_json(loaded: &Result<Loaded, Errors>) -> String {
    let document = match loaded {
        Ok(loaded) => json!({
            "ok": true,
            "warnings": loaded.warnings,
            "pools": loaded.settings.pools.iter().map(|pool| json!({ "name": &*pool.name, "provider": pool.provider, "keys": pool.keys.len() })).collect::<Vec<_>>(),
        }),
        Err(errors) => json!({
            "ok": false,
            "errors": errors.0.iter().map(|error| json!({ "place": error.location, "message": error.message, "hint": error.hint })).collect::<Vec<_>>(),
        }),
    };
    format!("{document:#}")
}
