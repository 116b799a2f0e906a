//! A PostgreSQL server with a database for each test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypool_testkit::{PostgresOptions, PostgresServer as Server};
use tokio::sync::OnceCell;

/// A server with nothing in it. Stopped when dropped.
pub(crate) struct PostgresServer {
    server: Server,
    databases: AtomicU64,
}

impl PostgresServer {
    /// The server that tests of this process share, until the process ends.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<PostgresServer>> = OnceCell::const_new();
        let server = SHARED.get_or_init(|| async { Arc::new(Self::start().await) });
        Arc::clone(server.await)
    }

    /// A server of one's own, to kill it.
    pub(crate) async fn start() -> Self {
        let options = PostgresOptions::default().setting("max_connections", "300");
        Self {
            server: options.start().await.unwrap(),
            databases: AtomicU64::new(0),
        }
    }

    /// Starts the server again with what it had stored.
    pub(crate) async fn restart(&mut self) {
        self.server.restart().await.unwrap();
    }

    /// Kills the server at once.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
    }

    /// The URL of a new database, with a password, which the server does not ask for.
    pub(crate) async fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let sql = format!("CREATE DATABASE {name}");
        self.server.execute(&sql).await.unwrap();
        self.server.url_of(&name).replacen('@', ":the-password@", 1)
    }
}
