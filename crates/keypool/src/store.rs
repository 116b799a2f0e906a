//! Opens the store that the settings ask for, with its master key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keypool_backends::store::{MasterKey, PostgresStore, SqliteStore};
use keypool_core::secret::Secret;
use keypool_core::store::{Store, StoreError, StoreErrorKind};
use keypool_gateway::settings::{StoreLocation, StoreSettings};

use crate::secret_file;

/// Opens the store. A PostgreSQL server that does not respond now is no error: it may return.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) async fn open(settings: &StoreSettings) -> Result<Arc<dyn Store>, String> {
    match (&settings.location, &settings.master_key) {
        (StoreLocation::Sqlite(path), Some(key)) => {
            let store = SqliteStore::open(path, &master_key(key)).await;
            Ok(Arc::new(store.map_err(|error| error.to_string())?))
        }
        (StoreLocation::Sqlite(path), None) => {
            let store = open_with_own_key(path, &settings.master_key_file).await;
            Ok(Arc::new(store?))
        }
        (StoreLocation::Postgres(url), Some(key)) => {
            let store = PostgresStore::new(url.expose(), &master_key(key));
            Ok(Arc::new(store.map_err(|error| error.to_string())?))
        }
        (StoreLocation::Postgres(_), None) => Err(no_master_key()),
    }
}

/// Opens a database whose master key is in a file. Finishes a rotation of that key that was interrupted after the
/// database was encrypted again and before the file was replaced.
async fn open_with_own_key(database: &Path, file: &Path) -> Result<SqliteStore, String> {
    let current = own_master_key(database, file).await?;
    let next = next_master_key(file)?;
    match (
        SqliteStore::open(database, &master_key(&current)).await,
        next,
    ) {
        (Err(error), Some(next)) if error.kind == StoreErrorKind::WrongMasterKey => {
            let store = SqliteStore::open(database, &master_key(&next)).await;
            let store = store.map_err(|error| error.to_string())?;
            finish_rotation(file, &current, &next)
                .map_err(|error| format!("cannot replace {}: {error}", file.display()))?;
            Ok(store)
        }
        (opened, _) => opened.map_err(|error| error.to_string()),
    }
}

/// Opens the store for a command that reads it while a server may use it.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) async fn open_for_reading(settings: &StoreSettings) -> Result<Arc<dyn Store>, String> {
    let path = match (&settings.location, &settings.master_key) {
        (StoreLocation::Sqlite(path), _) => path,
        (StoreLocation::Postgres(url), Some(key)) => {
            let store = PostgresStore::new_for_reading(url.expose(), &master_key(key));
            return Ok(Arc::new(store.map_err(|error| error.to_string())?));
        }
        (StoreLocation::Postgres(_), None) => return Err(no_master_key()),
    };
    match open_file_for_reading(path, settings).await? {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks that the master key of the store opens a backup. Whether the backup is sound is not checked here.
///
/// # Errors
/// A sentence that says what is wrong with the master key.
pub(crate) async fn check_master_key(
    settings: &StoreSettings,
    backup: &Path,
) -> Result<(), String> {
    // Restoring finds any other error too, and names it.
    open_file_for_reading(backup, settings).await.map(drop)
}

/// Opens a SQLite database for reading, with the first of the keys at hand that opens it. The outer error says in a sentence
/// that there is none.
async fn open_file_for_reading(
    database: &Path,
    settings: &StoreSettings,
) -> Result<Result<SqliteStore, StoreError>, String> {
    let file = &settings.master_key_file;
    let keys = match &settings.master_key {
        Some(key) => [Some(key.clone()), None],
        // Beside the file, there may be the key of a rotation that was interrupted.
        None => {
            let current = secret_file::read(file).map_err(|error| unreadable(file, &error))?;
            [current, next_master_key(file)?]
        }
    };
    let mut refused = format!(
        "there is no master key in {}: put the file back, or set `store.master_key`",
        file.display()
    );
    for key in keys.into_iter().flatten() {
        match SqliteStore::open_for_reading(database, &master_key(&key)).await {
            Err(error) if error.kind == StoreErrorKind::WrongMasterKey => {
                refused = error.to_string();
            }
            opened => return Ok(opened),
        }
    }
    Err(refused)
}

/// PostgreSQL has no file beside it.
fn no_master_key() -> String {
    "`store.master_key` is not set".to_owned()
}

/// A master key as the store takes it.
pub(crate) fn master_key(secret: &Secret) -> MasterKey {
    MasterKey::new(secret.expose())
}

/// Puts the next master key in the place of the current one, which is kept beside it: backups from before need it.
pub(crate) fn finish_rotation(file: &Path, current: &Secret, next: &Secret) -> io::Result<()> {
    secret_file::write_like(&previous_master_key_file(file), current, file)?;
    secret_file::replace(&next_master_key_file(file), file, next)
}

/// Where the master key before the last rotation is kept.
pub(crate) fn previous_master_key_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".before-rotation");
    name.into()
}

/// Where a rotation keeps the next master key until the database is encrypted with it.
pub(crate) fn next_master_key_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The next master key, if a rotation is in progress or was interrupted.
pub(crate) fn next_master_key(file: &Path) -> Result<Option<Secret>, String> {
    let next = next_master_key_file(file);
    secret_file::read(&next).map_err(|error| unreadable(&next, &error))
}

fn unreadable(file: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", file.display())
}

/// The generated master key in the file beside the database. It is made only while nothing is encrypted with another one.
async fn own_master_key(database: &Path, file: &Path) -> Result<Secret, String> {
    let current = secret_file::read(file).map_err(|error| unreadable(file, &error))?;
    if let Some(secret) = current {
        return Ok(secret);
    }
    let is_new = SqliteStore::is_new(database).await;
    if !is_new.map_err(|error| error.to_string())? {
        return Err(format!(
            "the secrets in {} are encrypted with a master key that is not there: put back the file {}, or set `store.master_key`",
            database.display(),
            file.display()
        ));
    }
    secret_file::generate(file, "")
        .map_err(|error| format!("cannot store the master key in {}: {error}", file.display()))
}

/// Whether this node has once found that the store held a virtual key: a file beside the configuration remembers it, for
/// a start at which the store does not respond.
pub(crate) mod held_virtual_key {
    use std::path::{Path, PathBuf};

    use keypool_gateway::context::HeldVirtualKey;

    /// The memory in `dir`.
    pub(crate) fn in_dir(dir: &Path) -> HeldVirtualKey {
        let file: PathBuf = dir.join("keypool.virtual-keys-required");
        HeldVirtualKey {
            is_known: file.exists(),
            remember: Box::new(move || {
                let text = "The store has held a virtual key, so callers must present one. keypool reads this while the store does not respond.\n";
                if let Err(error) = std::fs::write(&file, text) {
                    let file = file.display();
                    tracing::warn!(
                        "cannot write {file}: if the store does not respond at the next start, callers need no virtual key until it does; set `server.auth = \"required\"`: {error}"
                    );
                }
            }),
        }
    }
}
