//! `keypool store rotate-master-key`.
//!
//! The new key is on the disk before anything is encrypted with it, and the old one stays until everything is: whenever the
//! process ends, one of both opens the database. [`crate::store`] tries both.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keypool_backends::store::{PostgresStore, SqliteStore};
use keypool_core::secret::Secret;
use keypool_core::store::{StoreError, StoreErrorKind};
use keypool_gateway::settings::{StoreLocation, StoreSettings};
use serde_json::json;

use super::super::{Failure, print, runtime};
use crate::owner::{self, Owner};
use crate::secret_file;
use crate::store::{
    finish_rotation, master_key, next_master_key, next_master_key_file, previous_master_key_file,
};

/// The variable with the new master key.
pub(super) const VARIABLE: &str = "KEYPOOL_NEW_MASTER_KEY";

/// What a rotation has done.
enum Outcome {
    /// The file has the new key.
    Replaced,
    /// A rotation that was interrupted is complete now.
    Finished,
    /// The new key is the operator's, and so is the rest.
    Configured,
    /// It was done before.
    AlreadyDone,
}

pub(super) fn run(
    settings: &StoreSettings,
    new: Option<Secret>,
    is_json: bool,
) -> Result<(), Failure> {
    let rotated = runtime()?.block_on(rotate(settings, new));
    let outcome =
        rotated.map_err(|error| Failure::because("cannot rotate the master key", error))?;
    let file = match outcome {
        Outcome::Replaced | Outcome::Finished => settings.master_key_file.clone(),
        Outcome::Configured | Outcome::AlreadyDone => {
            next_master_key_file(&settings.master_key_file)
        }
    };
    let file = file.display().to_string();
    if is_json {
        let name = match outcome {
            Outcome::Replaced | Outcome::Configured => "rotated",
            Outcome::Finished => "finished",
            Outcome::AlreadyDone => "already_rotated",
        };
        let result = json!({ "status": name, "master_key_file": file });
        return print(&format!("{result:#}"));
    }
    let previous = previous_master_key_file(&settings.master_key_file);
    print(&text(&outcome, &file, &previous))
}

/// What a rotation has done, for people. `file` has the new key, and `previous` the old one if keypool keeps it.
fn text(outcome: &Outcome, file: &str, previous: &Path) -> String {
    let previous = previous.display();
    let restart = "Restart the server now: until then, it stores nothing.";
    let configure = format!(
        "Set `store.master_key` or KEYPOOL_MASTER_KEY to that key on every server, and restart each: until then, it stores nothing.\nDelete {file} after that: it holds the key too."
    );
    match outcome {
        Outcome::Replaced => format!(
            "The store is encrypted with a new master key, which is in {file}.\n{restart}\nCopy the new key to where you keep a copy of the old one. Backups from before need the old one, which is in {previous}: delete that file with the last of them."
        ),
        Outcome::Finished => format!(
            "A rotation that was interrupted is complete now: the new master key is in {file}.\n{restart}\nTo rotate once more, run this again."
        ),
        Outcome::Configured => format!(
            "The store is encrypted with the master key in {VARIABLE}.\n{configure}\nBackups from before need the old key."
        ),
        Outcome::AlreadyDone => format!(
            "The store is encrypted with the master key in {VARIABLE} already.\n{configure}"
        ),
    }
}

async fn rotate(settings: &StoreSettings, new: Option<Secret>) -> Result<Outcome, String> {
    match (&settings.location, &settings.master_key) {
        (StoreLocation::Sqlite(database), None) => {
            rotate_file(database, &settings.master_key_file, new).await
        }
        (location, Some(old)) => {
            let new = new.ok_or_else(|| {
                format!("the master key is configured: write the new one into a file with `(umask 077; openssl rand -hex 32 > new-master-key)`, and set {VARIABLE} to what is in that file")
            })?;
            rotate_configured(location, old, &new, &settings.master_key_file).await
        }
        (StoreLocation::Postgres(_), None) => Err("`store.master_key` is not set".to_owned()),
    }
}

/// Rotates a key that the configuration holds. The new key may be in the variable and nowhere else, so it is kept beside
/// `file`, where keypool would keep a key of its own.
async fn rotate_configured(
    location: &StoreLocation,
    old: &Secret,
    new: &Secret,
    file: &Path,
) -> Result<Outcome, String> {
    if old == new {
        return Err(format!(
            "{VARIABLE} is the current master key: choose another one"
        ));
    }
    let _lock = lock(file)?;
    let kept = next_master_key(file)?;
    if kept.as_ref() != Some(new) {
        let kept = kept.filter(|kept| kept != old);
        keep(new, kept, file, location).await?;
    }
    let (old, next) = (master_key(old), master_key(new));
    let rotated = match location {
        StoreLocation::Sqlite(database) => {
            SqliteStore::rotate_master_key(database, &old, &next).await
        }
        StoreLocation::Postgres(url) => {
            PostgresStore::rotate_master_key(url.expose(), &old, &next).await
        }
    };
    match rotated {
        Ok(()) => Ok(Outcome::Configured),
        // It was rotated before, and the configuration has the old key still.
        Err(error) if is_wrong_key(&error) && opens(location, new).await? => {
            Ok(Outcome::AlreadyDone)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Writes the new key into the file beside `file`. What is kept there already is never overwritten if it opens the store: nobody else may
/// have it.
async fn keep(
    new: &Secret,
    kept: Option<Secret>,
    file: &Path,
    location: &StoreLocation,
) -> Result<(), String> {
    let next_file = next_master_key_file(file);
    if let Some(kept) = kept
        && opens(location, &kept).await?
    {
        return Err(format!(
            "an earlier rotation has encrypted the store with the master key in {}: set `store.master_key` or KEYPOOL_MASTER_KEY to that key first",
            next_file.display()
        ));
    }
    secret_file::write_like(&next_file, new, file).map_err(|error| {
        format!(
            "cannot keep the new master key in {}: {error}",
            next_file.display()
        )
    })
}

/// Rotates a key that keypool keeps in a file beside the database.
async fn rotate_file(database: &Path, file: &Path, new: Option<Secret>) -> Result<Outcome, String> {
    let _lock = lock(file)?;
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let old = secret_file::read(file).map_err(failed)?;
    let old = old.ok_or_else(|| {
        format!("there is no master key in {}: put the file back, or start `keypool serve` once if there is no store yet", file.display())
    })?;
    let next_file = next_master_key_file(file);
    let location = StoreLocation::Sqlite(database.to_owned());
    if let Some(next) = next_master_key(file)?
        && opens(&location, &next).await?
    {
        finish_rotation(file, &old, &next).map_err(failed)?;
        return Ok(Outcome::Finished);
    }
    let new = match new {
        Some(new) if new == old => {
            return Err(format!(
                "{VARIABLE} is the current master key: choose another one"
            ));
        }
        Some(new) => new,
        None => secret_file::random("").map_err(failed)?,
    };
    secret_file::write_like(&next_file, &new, file).map_err(failed)?;
    SqliteStore::rotate_master_key(database, &master_key(&old), &master_key(&new))
        .await
        .map_err(|error| error.to_string())?;
    finish_rotation(file, &old, &new).map_err(|error| {
        format!(
            "the store is encrypted with the new master key, which is in {} and could not be moved to {}: {error}; move it yourself",
            next_file.display(),
            file.display()
        )
    })?;
    Ok(Outcome::Replaced)
}

/// Whether a master key is the one of the store.
async fn opens(location: &StoreLocation, key: &Secret) -> Result<bool, String> {
    let opened = match location {
        StoreLocation::Sqlite(database) => {
            SqliteStore::open_for_reading(database, &master_key(key))
                .await
                .map(drop)
        }
        StoreLocation::Postgres(url) => {
            let store = PostgresStore::new_for_reading(url.expose(), &master_key(key));
            match store {
                Ok(store) => store.prepare().await,
                Err(error) => Err(error),
            }
        }
    };
    match opened {
        Ok(()) => Ok(true),
        Err(error) if is_wrong_key(&error) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn is_wrong_key(error: &StoreError) -> bool {
    error.kind == StoreErrorKind::WrongMasterKey
}

/// Held while the key in `file` is rotated. Two rotations at once could each replace the other's new key.
fn lock(file: &Path) -> Result<File, String> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |error: &std::io::Error| format!("{}: {error}", name.display());
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name);
    let lock = lock.map_err(|error| failed(&error))?;
    let owned = Owner::of(owner::folder(file)).and_then(|owner| owner.give(&name));
    owned.map_err(|error| failed(&error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err("another rotation is running: wait for its end".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}
