//! Work in another process, which can be killed, and whose statements are its own.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use keypool_backends::store::{PostgresStore, SqliteStore};
use keypool_core::store::Store;

use crate::backend::master_key;

const URL: &str = "KEYPOOL_TEST_STORE_URL";

/// A process of this program that does nothing but the test `test`, with the store at `url`.
pub(crate) fn command(test: &str, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(URL, url)
        .stdout(Stdio::piped());
    command
}

/// The store that the process which started this one has named; `None` if no process did.
pub(crate) async fn store() -> Option<Arc<dyn Store>> {
    let (_, url) = std::env::vars().find(|(name, _)| name == URL)?;
    Some(match url.strip_prefix("sqlite://") {
        Some(path) => Arc::new(
            SqliteStore::open(path.as_ref(), &master_key())
                .await
                .unwrap(),
        ),
        None => Arc::new(PostgresStore::new(&url, &master_key()).unwrap()),
    })
}

/// Tells something to the process which started this one.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
