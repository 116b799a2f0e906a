//! A PostgreSQL server for tests.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Connection;
use tokio::sync::OnceCell;

use crate::backend::Directory;

/// A server on 127.0.0.1, with nothing in it. Stopped when dropped.
pub(crate) struct PostgresServer {
    directory: Directory,
    port: u16,
    process: Option<Child>,
    databases: AtomicU64,
}

/// Runs a server in the folder `$1` until a line comes. When the input ends without one, its folder is removed too: so no
/// server outlives the tests. SIGQUIT ends it without a checkpoint, like a crash, and ends its other processes too.
const RUN: &str = r#"folder=$1; shift; postgres -D "$folder/data" "$@" 2>/dev/null & read -r line
kill -QUIT $!; wait; [ -n "$line" ] || rm -rf "$folder""#;

impl PostgresServer {
    /// The server that tests of this process share, until the process ends.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<PostgresServer>> = OnceCell::const_new();
        let server = SHARED.get_or_init(|| async { Arc::new(Self::start().await) });
        Arc::clone(server.await)
    }

    /// A server of one's own, to kill it.
    pub(crate) async fn start() -> Self {
        let directory = Directory::new();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if is_root() {
            let owned = Command::new("chown")
                .arg("postgres")
                .arg(directory.path(""))
                .status();
            assert!(owned.unwrap().success());
        }
        let made = command("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(directory.path("data"))
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let mut server = Self {
            directory,
            port,
            process: None,
            databases: AtomicU64::new(0),
        };
        server.restart().await;
        server
    }

    /// Starts the server again with what it had stored.
    pub(crate) async fn restart(&mut self) {
        let process = command("sh")
            .args(["-c", RUN, "sh"])
            .arg(self.directory.path(""))
            .args([
                "-k",
                "",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=300",
                "-p",
            ])
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .spawn();
        self.process = Some(process.unwrap());
        for _ in 0..500 {
            if self.try_sql("postgres", "SELECT 1").await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("PostgreSQL does not respond");
    }

    /// Kills the server at once.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        process.wait().unwrap();
    }

    /// The URL of a new database.
    pub(crate) async fn create_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.try_sql("postgres", format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:the-password@127.0.0.1:{}/{database}",
            self.port
        )
    }

    async fn try_sql(&self, database: &str, sql: impl Into<String>) -> Result<(), sqlx::Error> {
        let mut connection = sqlx::PgConnection::connect(&self.url(database)).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.into()))
            .execute(&mut connection)
            .await?;
        connection.close().await
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command as the user `postgres`: PostgreSQL does not run as root.
fn command(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "postgres",
        "--regid",
        "postgres",
        "--init-groups",
        program,
    ]);
    command
}
