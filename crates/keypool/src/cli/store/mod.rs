//! `keypool store`: what is done with the store as a whole, beside a server or while it is stopped.

mod rotate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keypool_backends::store::SqliteStore;
use keypool_gateway::settings::{StoreLocation, StoreSettings};
use serde_json::json;

use super::{Failure, print, print_error, prompt, runtime};
use crate::config::{self, Overrides, Sources};
use crate::owner::Owner;
use crate::store;

#[derive(Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
    /// Configuration file that names the store [default: keypool.toml in the working directory, if it exists].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum StoreVerb {
    /// Copy the SQLite database into a new file, while a server may use it.
    ///
    /// The copy needs the same master key, which is not in it.
    #[command(after_help = "Example:\n  keypool store backup /backups/keypool-monday.db")]
    Backup(BackupArgs),
    /// Put a backup in the place of the SQLite database. The server must be stopped.
    ///
    /// The database before is kept beside it, as <name>.before-restore or with a number after that.
    #[command(after_help = "Example:\n  keypool store restore /backups/keypool-monday.db")]
    Restore(RestoreArgs),
    /// Encrypt everything again, so that only a new master key opens the store.
    ///
    /// If keypool keeps the master key in a file beside the database, the file is replaced: by the key in
    /// KEYPOOL_NEW_MASTER_KEY, or by a new random one. If the master key is configured, KEYPOOL_NEW_MASTER_KEY must hold the
    /// new one, and you change the configuration; until then, the new key is in <name>.master-key.new too. Restart every server after that: until then, it stores nothing.
    #[command(
        after_help = "Examples:\n  keypool store rotate-master-key\n  (umask 077; openssl rand -hex 32 > new-master-key)\n  KEYPOOL_NEW_MASTER_KEY=$(cat new-master-key) keypool store rotate-master-key"
    )]
    RotateMasterKey,
}

#[derive(Args)]
struct BackupArgs {
    /// The file to be created.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
struct RestoreArgs {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Restore it even if the master key does not open it, for a key that you put back afterwards.
    #[arg(long)]
    without_key_check: bool,
}

/// Runs a verb.
pub(super) fn run(args: &StoreArgs) -> Result<ExitCode, Failure> {
    let sources = Sources::from_process(args.config.clone(), Overrides::default())
        .map_err(|error| Failure::because("cannot read the working directory", error))?;
    let settings = config::load(&sources)?.settings.store;
    match &args.verb {
        StoreVerb::Backup(backup) => copy(&settings, &backup.file, args.json),
        StoreVerb::Restore(restore) => put_back(&settings, restore, args.json),
        StoreVerb::RotateMasterKey => {
            let new = config::master_key_variable(&sources, rotate::VARIABLE);
            rotate::run(&settings, new.map_err(Failure::Other)?, args.json)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn copy(settings: &StoreSettings, file: &Path, is_json: bool) -> Result<(), Failure> {
    let database = sqlite(settings, || {
        format!(
            "back it up with `pg_dump --format=custom --file={} --host=HOST --username=USER DATABASE`",
            file.display()
        )
    })?;
    let copied = runtime()?.block_on(SqliteStore::backup(database, file));
    copied.map_err(|error| Failure::because("cannot back up the store", error))?;
    let key = match &settings.master_key {
        Some(_) => "the configured master key".to_owned(),
        None => format!("the master key in {}", settings.master_key_file.display()),
    };
    print(&match is_json {
        true => format!("{:#}", json!({ "file": file })),
        false => format!(
            "Copied {} to {}.\nIt opens with {key} only: keep a copy of that key in another place.",
            database.display(),
            file.display()
        ),
    })
}

fn put_back(settings: &StoreSettings, args: &RestoreArgs, is_json: bool) -> Result<(), Failure> {
    let file = &args.file;
    let database = sqlite(settings, || {
        format!(
            "stop every server, and restore it with `pg_restore --clean --if-exists --host=HOST --username=USER --dbname=DATABASE {}`",
            file.display()
        )
    })?;
    let question = format!("Replace {} by {}?", database.display(), file.display());
    prompt::confirm(&question, args.yes)?;
    let (kept, opened) = runtime()?.block_on(async {
        if !args.without_key_check {
            check_master_key(settings, file).await?;
        }
        let failed =
            |error: &dyn std::fmt::Display| Failure::because("cannot restore the store", error);
        // It may be a symbolic link.
        let real = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
        let owner = Owner::of(&real).map_err(|error| failed(&error))?;
        let kept = SqliteStore::restore(file, database)
            .await
            .map_err(|error| failed(&error))?;
        owner.give(&real).map_err(|error| failed(&error))?;
        let opened = store::open_for_reading(settings).await.map(drop);
        Ok::<_, Failure>((kept, opened))
    })?;
    print(&match is_json {
        true => format!(
            "{:#}",
            json!({ "file": file, "database": database, "before": kept })
        ),
        false => {
            let kept =
                kept.map(|kept| format!("\nThe database before is kept as {}.", kept.display()));
            let kept = kept.unwrap_or_default();
            format!(
                "Restored {} from {}.{kept}",
                database.display(),
                file.display()
            )
        }
    })?;
    if let Err(error) = opened {
        print_error(&format!(
            "warning: the server will not start with it yet: {error}"
        ));
    }
    Ok(())
}

/// Refuses a backup that no server would start with.
async fn check_master_key(settings: &StoreSettings, backup: &Path) -> Result<(), Failure> {
    let checked = store::check_master_key(settings, backup).await;
    checked.map_err(|error| {
        Failure::Other(format!(
            "the master key does not open the backup, so nothing was changed: {error}; to put the right key back afterwards, add --without-key-check"
        ))
    })
}

/// The SQLite database; for PostgreSQL, an error with the sentence that says what to do.
fn sqlite(settings: &StoreSettings, what_to_do: impl Fn() -> String) -> Result<&Path, Failure> {
    match &settings.location {
        StoreLocation::Sqlite(path) => Ok(path),
        StoreLocation::Postgres(_) => Err(Failure::Other(format!(
            "the store is PostgreSQL: {}, as `store.url` says; put the password into ~/.pgpass or PGPASSWORD, since others can see arguments",
            what_to_do()
        ))),
    }
}
