//! `[store]`: the database, and the master key that encrypts the secrets in it.
//!
//! This module must never open the database or generate a key, and never show the URL: it may contain a password.

use std::path::{Path, PathBuf};

use keypool_core::secret::Secret;
use keypool_gateway::settings::{StoreLocation, StoreSettings};

use super::location::Location;
use super::problem::Problem;
use super::report::Report;
use super::text::{Text, last_valid};
use super::values;
use super::walk::Table;

/// The database of a node without a setting, in the working directory.
const DEFAULT_FILE: &str = "keypool.db";
/// Minimum length of a master key, in characters.
const MIN_MASTER_KEY: usize = 16;

/// What the section says.
pub(super) struct Store {
    location: StoreLocation,
    master_key: Option<Secret>,
    /// Where PostgreSQL was set; `None`: it was not.
    postgres_at: Option<Location>,
}

impl Store {
    /// Where PostgreSQL was set; `None`: it was not.
    pub(super) fn postgres_at(&self) -> Option<&Location> {
        self.postgres_at.as_ref()
    }

    /// The database file, or the name that it would have.
    pub(super) fn database_file(&self) -> &Path {
        match &self.location {
            StoreLocation::Sqlite(path) => path,
            StoreLocation::Postgres(_) => Path::new(DEFAULT_FILE),
        }
    }

    /// The settings; `dir` is the working directory.
    pub(super) fn settings(self, dir: &Path) -> StoreSettings {
        let file = dir.join(self.database_file());
        StoreSettings {
            master_key_file: file.with_extension("master-key"),
            location: match self.location {
                StoreLocation::Sqlite(_) => StoreLocation::Sqlite(file),
                postgres => postgres,
            },
            master_key: self.master_key,
        }
    }
}

/// Reads `[store]`, `KEYPOOL_STORE_URL` and `KEYPOOL_MASTER_KEY`.
pub(super) fn read(table: Option<Table<'_>>, report: &Report<'_>) -> Store {
    let (mut url, mut own_key, mut is_key_set) = (None, None, false);
    if let Some(mut table) = table {
        url = table.text("url");
        let node = table.take("master_key");
        is_key_set = node.is_some();
        own_key = node.and_then(|node| node.text("a string"));
        table.finish();
    }
    let key_variable = || Text::variable(report, "KEYPOOL_MASTER_KEY");
    is_key_set |= key_variable().is_some();
    let master_key = last_valid(own_key, [key_variable()], master_key);
    let url_variable = Text::variable(report, "KEYPOOL_STORE_URL");
    let read = |text: &Text<'_>| Some((location(text)?, text.at.clone()));
    let found = last_valid(url, [url_variable], read);
    let (location, postgres_at) = match found {
        Some((postgres @ StoreLocation::Postgres(_), at)) => (postgres, Some(at)),
        Some((sqlite, _)) => (sqlite, None),
        None => (StoreLocation::Sqlite(DEFAULT_FILE.into()), None),
    };
    if let Some(at) = postgres_at.as_ref().filter(|_| !is_key_set) {
        let message = "`store.master_key` must be set if the store is PostgreSQL";
        let hint = "set it in the file, or as `KEYPOOL_MASTER_KEY`; all nodes share it";
        report.add(Problem::absent(at, message).hint(hint));
    }
    Store {
        location,
        master_key,
        postgres_at,
    }
}

/// The master key: any text, so that each way to generate one will do.
fn master_key(text: &Text<'_>) -> Option<Secret> {
    let key = text.value.trim();
    if !is_long_enough(key) {
        text.invalid(&too_short());
        return None;
    }
    Some(Secret::new(key))
}

pub(super) fn is_long_enough(master_key: &str) -> bool {
    master_key.chars().count() >= MIN_MASTER_KEY
}

pub(super) fn too_short() -> String {
    format!(
        "must have at least {MIN_MASTER_KEY} characters; `openssl rand -hex 32` makes a good one"
    )
}

fn location(text: &Text<'_>) -> Option<StoreLocation> {
    let url = text.value.trim();
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = Path::new(path.split_once('?').map_or(path, |(path, _)| path));
        if path.file_name().is_some() && !path.as_os_str().to_string_lossy().contains('\0') {
            return Some(StoreLocation::Sqlite(PathBuf::from(path)));
        }
        text.invalid("does not name a database file: write it like \"sqlite://keypool.db\"");
    } else if values::is_url(url, &["postgres", "postgresql"]) {
        return Some(StoreLocation::Postgres(Secret::new(url)));
    } else {
        text.invalid(
            "must be a URL such as \"sqlite://keypool.db\" or \"postgres://user:password@host/db\"",
        );
    }
    None
}
