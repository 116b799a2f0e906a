//! Errors of SQLite as errors of the store.

use std::path::Path;

use keypool_core::store::{StoreError, StoreErrorKind};
use sqlx::error::DatabaseError;

/// An error of SQLite. Result codes: <https://www.sqlite.org/rescode.html>.
pub(super) fn convert(error: &sqlx::Error, path: &Path) -> StoreError {
    let path = path.display();
    let (kind, message) = match error {
        sqlx::Error::Database(error) => match primary_code(&**error) {
            Some(5 | 6) => (
                StoreErrorKind::Unavailable,
                format!("another process writes the database {path}; try again"),
            ),
            Some(8) => (
                StoreErrorKind::NotWritable,
                format!(
                    "the database {path} is read-only; give keypool's user the right to write it and its directory"
                ),
            ),
            Some(10) => (
                StoreErrorKind::NotWritable,
                format!(
                    "the disk failed to read or write the database {path} ({error}); check the disk"
                ),
            ),
            Some(13) => (
                StoreErrorKind::NotWritable,
                format!(
                    "the disk is full, so that the database {path} cannot be written; free space on it"
                ),
            ),
            Some(14) => (
                StoreErrorKind::NotWritable,
                format!(
                    "the database {path} cannot be opened; check that its directory exists, and that keypool's user may \
                     write in it"
                ),
            ),
            Some(11 | 26) => (
                StoreErrorKind::Internal,
                format!(
                    "the database {path} is damaged or no SQLite database; stop keypool and restore a backup with \
                     `keypool store restore FILE`"
                ),
            ),
            _ => (
                StoreErrorKind::Internal,
                format!("a statement failed in the database {path}: {error}"),
            ),
        },
        sqlx::Error::PoolTimedOut => (
            StoreErrorKind::Unavailable,
            format!("the database {path} is busy with other changes; try again"),
        ),
        error => (
            StoreErrorKind::Internal,
            format!("a statement failed in the database {path}: {error}"),
        ),
    };
    StoreError::new(kind, message)
}

/// The result code without what extends it.
fn primary_code(error: &dyn DatabaseError) -> Option<i32> {
    error.code()?.parse().ok().map(|code: i32| code & 0xff)
}
