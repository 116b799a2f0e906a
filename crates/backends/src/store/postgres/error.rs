//! Errors of PostgreSQL as errors of the store.

use std::io::ErrorKind::{InvalidData, NotFound, PermissionDenied};

use keypool_core::store::{StoreError, StoreErrorKind};

/// An error of PostgreSQL. Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn convert(error: &sqlx::Error) -> StoreError {
    let sqlx::Error::Database(error) = error else {
        return of_connection(error);
    };
    let code = error.code().unwrap_or_default();
    let (kind, message) = match &*code {
        // 0A000 is what a standby says to a transaction that may write.
        "25006" | "0A000" => (
            StoreErrorKind::NotWritable,
            "PostgreSQL accepts no writes; point `url` of [store] at the primary server".to_owned(),
        ),
        "42501" => (
            StoreErrorKind::NotWritable,
            "PostgreSQL does not let keypool's user create or write tables; grant it the right"
                .to_owned(),
        ),
        "53100" => (
            StoreErrorKind::NotWritable,
            "PostgreSQL's disk is full; free space on it".to_owned(),
        ),
        "28000" | "28P01" => (
            StoreErrorKind::Unavailable,
            format!("PostgreSQL refuses the user or the password ({code}); check `url` of [store]"),
        ),
        "3D000" => (
            StoreErrorKind::Unavailable,
            "PostgreSQL has no database of that name; create it, or check `url` of [store]"
                .to_owned(),
        ),
        code if may_pass(code) => (
            StoreErrorKind::Unavailable,
            format!(
                "PostgreSQL cannot do it now: {} ({code}); try again",
                error.message()
            ),
        ),
        code => (
            StoreErrorKind::Internal,
            format!(
                "a statement failed in PostgreSQL: {} ({code})",
                error.message()
            ),
        ),
    };
    StoreError::new(kind, message)
}

/// Classes of codes: 08 connection, 40 rolled back, 53 resources, 55 not ready, 57 stopped by an operator, 58 of the system;
/// 25P03 is a transaction that idled.
fn may_pass(code: &str) -> bool {
    code == "25P03"
        || ["08", "40", "53", "55", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class))
}

fn of_connection(error: &sqlx::Error) -> StoreError {
    let (kind, message) = match error {
        sqlx::Error::Io(error) if matches!(error.kind(), NotFound | PermissionDenied) => (
            StoreErrorKind::Unavailable,
            format!(
                "a file that `url` of [store] names cannot be opened ({error}); check `sslrootcert`, `sslcert`, `sslkey` \
                 and the path of the socket"
            ),
        ),
        sqlx::Error::Io(error) if error.kind() == InvalidData => {
            (StoreErrorKind::Unavailable, tls_failed(error))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => (
            StoreErrorKind::Unavailable,
            "PostgreSQL does not respond; check that it runs, and `url` of [store]".to_owned(),
        ),
        sqlx::Error::Tls(error) => (StoreErrorKind::Unavailable, tls_failed(&**error)),
        // What it says may repeat parts of the URL.
        sqlx::Error::Configuration(_) => (
            StoreErrorKind::Unavailable,
            "the user, the password or the client certificate in `url` of [store] cannot be used; check them".to_owned(),
        ),
        error => (
            StoreErrorKind::Internal,
            format!("a statement failed in PostgreSQL: {error}"),
        ),
    };
    StoreError::new(kind, message)
}

fn tls_failed(error: &dyn std::error::Error) -> String {
    format!(
        "TLS with PostgreSQL failed: {error}; check its certificate, and `sslmode` and `sslrootcert` in `url` of [store]"
    )
}
