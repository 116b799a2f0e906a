//! `[admin]` and `[store]`: the admin token, and the file in which a generated one is stored.
//!
//! This module must never generate the token or open the database.

use std::path::{Path, PathBuf};

use keypool_core::secret::Secret;
use keypool_gateway::settings::AdminSettings;

use super::location::Location;
use super::problem::Problem;
use super::report::Report;
use super::text::{Text, last_valid};
use super::values;
use super::walk::Table;

const DEFAULT_URL: &str = "sqlite://keypool.db";
const MIN_SECRET_LENGTH: usize = 16;

/// Reads both sections; `dir` is the working directory.
pub(super) fn read(
    admin: Option<Table<'_>>,
    store: Option<Table<'_>>,
    report: &Report<'_>,
    dir: &Path,
) -> AdminSettings {
    let mut token_set = Text::variable(report, "KEYPOOL_ADMIN_TOKEN").is_some();
    let mut file_token = None;
    if let Some(mut admin) = admin {
        let node = admin.take("token");
        token_set |= node.is_some();
        file_token = node.and_then(|node| node.text("a string"));
        admin.finish();
    }
    let token = last_valid(
        file_token,
        [Text::variable(report, "KEYPOOL_ADMIN_TOKEN")],
        client_secret,
    );
    let store = self::store(store, report);
    if let Store::Postgres(at) = &store.kind {
        for (setting, variable, is_set) in [
            ("admin.token", "KEYPOOL_ADMIN_TOKEN", token_set),
            (
                "store.master_key",
                "KEYPOOL_MASTER_KEY",
                store.master_key_set,
            ),
        ] {
            if !is_set {
                let message = format!("`{setting}` must be set if the store is PostgreSQL");
                let hint = format!("set it in the file, or as `{variable}`; all nodes share it");
                report.add(Problem::absent(at, message).hint(hint));
            }
        }
    }
    let database = match store.kind {
        Store::Sqlite(path) => path,
        Store::Postgres(_) => PathBuf::from("keypool.db"),
    };
    AdminSettings {
        token,
        token_file: dir.join(database).with_extension("admin-token"),
    }
}

/// A secret that clients present to keypool: long enough not to be guessed, and valid in a header.
pub(super) fn client_secret(text: &Text<'_>) -> Option<Secret> {
    let secret = text.value.trim();
    if secret.chars().count() < MIN_SECRET_LENGTH {
        text.invalid(&format!(
            "must have at least {MIN_SECRET_LENGTH} characters"
        ));
    } else if !values::fits_header(secret) {
        text.invalid(
            "has a character that is not allowed in an HTTP header: use visible ASCII characters, without spaces",
        );
    } else {
        return Some(Secret::new(secret));
    }
    None
}

enum Store {
    /// The database file.
    Sqlite(PathBuf),
    /// Where it was set.
    Postgres(Location),
}

struct StoreSettings {
    kind: Store,
    master_key_set: bool,
}

/// `[store]`, `KEYPOOL_STORE_URL` and `KEYPOOL_MASTER_KEY`.
fn store(table: Option<Table<'_>>, report: &Report<'_>) -> StoreSettings {
    let mut url = None;
    let mut master_keys = Vec::new();
    if let Some(mut table) = table {
        url = table.text("url");
        if let Some(node) = table.take("master_key") {
            if node
                .text("a string")
                .is_some_and(|text| text.value.trim().is_empty())
            {
                report.add(Problem::new(
                    &node.at(),
                    "`store.master_key` must not be empty",
                ));
            }
            master_keys.push("store.master_key".to_owned());
        }
        table.finish();
    }
    master_keys.extend(Text::variable(report, "KEYPOOL_MASTER_KEY").map(|text| text.name));
    let read = |text: &Text<'_>| {
        Some((
            store_url(text)?,
            (text.value != DEFAULT_URL).then(|| text.name.clone()),
        ))
    };
    let (kind, changed) = last_valid(url, [Text::variable(report, "KEYPOOL_STORE_URL")], read)
        .unwrap_or((Store::Sqlite("keypool.db".into()), None));
    if let Some(name) = changed {
        report.not_implemented(
            &name,
            "nothing is stored yet except a generated admin token, beside that database",
        );
    }
    // The last one is used, so the warning is about that one.
    if let Some(name) = master_keys.last() {
        report.not_implemented(name, "nothing is stored yet");
    }
    StoreSettings {
        kind,
        master_key_set: !master_keys.is_empty(),
    }
}

/// The URL is never shown in a message: it may contain a password.
fn store_url(text: &Text<'_>) -> Option<Store> {
    let url = text.value.trim();
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = Path::new(path.split_once('?').map_or(path, |(path, _)| path));
        if path.file_name().is_some() && !path.as_os_str().to_string_lossy().contains('\0') {
            return Some(Store::Sqlite(path.to_owned()));
        }
        text.invalid("does not name a database file: write it like \"sqlite://keypool.db\"");
    } else if values::is_url(url, &["postgres", "postgresql"]) {
        return Some(Store::Postgres(text.at.clone()));
    } else {
        text.invalid(
            "must be a URL such as \"sqlite://keypool.db\" or \"postgres://user:password@host/db\"",
        );
    }
    None
}
