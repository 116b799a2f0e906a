//! Opens the store that the settings ask for, with its master key.

use std::path::Path;
use std::sync::Arc;

use keypool_backends::store::{MasterKey, PostgresStore, SqliteStore};
use keypool_core::secret::Secret;
use keypool_core::store::Store;
use keypool_gateway::settings::{StoreLocation, StoreSettings};

use crate::secret_file;

/// Opens the store. A PostgreSQL server that does not respond now is no error: it may return.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) async fn open(settings: &StoreSettings) -> Result<Arc<dyn Store>, String> {
    match &settings.location {
        StoreLocation::Sqlite(path) => {
            let master_key = match &settings.master_key {
                Some(key) => key.clone(),
                None => own_master_key(path, &settings.master_key_file).await?,
            };
            let store = SqliteStore::open(path, &MasterKey::new(master_key.expose())).await;
            Ok(Arc::new(store.map_err(|error| error.to_string())?))
        }
        StoreLocation::Postgres(url) => {
            let master_key = settings.master_key.as_ref();
            let master_key = master_key.ok_or("`store.master_key` is not set")?;
            let store = PostgresStore::new(url.expose(), &MasterKey::new(master_key.expose()));
            Ok(Arc::new(store.map_err(|error| error.to_string())?))
        }
    }
}

/// The generated master key in the file beside the database. It is made only while nothing is encrypted with another one.
pub(crate) async fn own_master_key(database: &Path, file: &Path) -> Result<Secret, String> {
    let failed = |error| format!("cannot store the master key in {}: {error}", file.display());
    if let Some(secret) = secret_file::read(file).map_err(failed)? {
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
    secret_file::generate(file, "").map_err(failed)
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
