//! `[admin]`: the admin token, and the file in which a generated one is stored.
//!
//! This module must never generate the token.

use std::path::Path;

use keypool_core::secret::Secret;
use keypool_gateway::settings::AdminSettings;

use super::problem::Problem;
use super::report::Report;
use super::store::Store;
use super::text::{Text, last_valid};
use super::values;
use super::walk::Table;

const MIN_SECRET_LENGTH: usize = 16;

/// Reads the section; `dir` is the working directory.
pub(super) fn read(
    admin: Option<Table<'_>>,
    store: &Store,
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
    if let Some(at) = store.postgres_at().filter(|_| !token_set) {
        let message = "`admin.token` must be set if the store is PostgreSQL";
        let hint = "set it in the file, or as `KEYPOOL_ADMIN_TOKEN`; all nodes share it";
        report.add(Problem::absent(at, message).hint(hint));
    }
    AdminSettings {
        token,
        token_file: dir
            .join(store.database_file())
            .with_extension("admin-token"),
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
