//! One PostgreSQL server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::query::query;
use super::template::{Template, USER};
use crate::server_process::{Process, free_port};

/// How long a server may take to start, the recovery after a kill included.
const START: Duration = Duration::from_secs(30);
/// Other processes may take a port between the check and the start.
const ATTEMPTS: usize = 5;
/// The database that every server has.
const DATABASE: &str = "postgres";

/// How a server is started. By default, it does not wait for its disk: data outlives a kill of the server, but not of the
/// machine.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// One line of the server's configuration, such as `fsync = on`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a server with these options, and waits until it responds.
    pub async fn start(self) -> io::Result<PostgresServer> {
        PostgresServer::with(self).await
    }

    /// A later line replaces an earlier one.
    fn configuration(&self, folder: &str, port: u16) -> String {
        let port = port.to_string();
        let usual = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", folder),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("jit", "off"),
        ];
        let set = self.settings.iter();
        let set = set.map(|(name, value)| (name.as_str(), value.as_str()));
        let line =
            |(name, value): (&str, &str)| format!("{name} = '{}'\n", value.replace('\'', "''"));
        usual.into_iter().chain(set).map(line).collect()
    }
}

/// A PostgreSQL server on a free port of 127.0.0.1, with an empty database. It is killed and its data removed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    template: Arc<Template>,
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl PostgresServer {
    /// Starts a server, and waits until it responds.
    pub async fn start() -> io::Result<PostgresServer> {
        PostgresOptions::default().start().await
    }

    async fn with(options: PostgresOptions) -> io::Result<PostgresServer> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let template = tokio::task::spawn_blocking(Template::shared).await??;
        let mut failed = io::Error::other("no free port");
        for _ in 0..ATTEMPTS {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("keypool-postgres-{}-{n}", std::process::id());
            let mut server = PostgresServer {
                template: Arc::clone(&template),
                folder: std::env::temp_dir().join(name),
                port: free_port(&[])?,
                process: None,
            };
            server.prepare(&options)?;
            match server.spawn().await {
                Ok(()) => return Ok(server),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The URL of its database, with a superuser who needs no password.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of another database, after `CREATE DATABASE`.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.addr())
    }

    /// Runs SQL statements as the superuser, whatever the listener does, and returns their rows as text: one a line, columns
    /// separated by `|`, NULL as the empty text. Several statements are one transaction.
    pub async fn execute(&self, sql: &str) -> io::Result<String> {
        query(&self.socket(), DATABASE, sql).await
    }

    /// Kills the server and all processes of its sessions, as a power failure of it alone would: connections broken, port
    /// closed, nothing written any more.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// Starts it again on the same port and with its data, killed before if it runs.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.spawn().await
    }

    /// Stops all processes of the server: connections stay, and are accepted by the system, but nothing responds.
    pub fn pause(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Ends [`pause`](Self::pause).
    pub fn resume(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let process = self.process.as_ref();
        process.map_or(Err(io::Error::other("the server was killed")), |process| {
            process.signal(name)
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn prepare(&self, options: &PostgresOptions) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        self.template.hand_over(&self.folder)?;
        self.template.copy_to(&self.data())?;
        let configuration = options.configuration(&self.folder.to_string_lossy(), self.port);
        let file = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(file)?;
        file.write_all(configuration.as_bytes())
    }

    async fn spawn(&mut self) -> io::Result<()> {
        let mut command = self.template.command("postgres");
        command.extend([PathBuf::from("-D"), self.data()]);
        // What the server wrote before it was killed must not be taken for an error of this start.
        let _ = fs::remove_file(self.folder.join("log"));
        let process = Process::start(&self.folder, &command)?;
        let ready = timeout(START, self.ready()).await;
        match ready.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => {
                self.process = Some(process);
                Ok(())
            }
            Err(error) => Err(io::Error::other(format!("{error}\n{}", self.log()))),
        }
    }

    /// Waits until the server responds, or has written that it does not start.
    async fn ready(&self) -> io::Result<()> {
        // While it recovers, it refuses sessions with a fatal error too.
        let is_end = |line: &str| {
            (line.contains("FATAL") && !line.contains("the database system is"))
                || line.contains("not found")
        };
        while self.execute("SELECT 1").await.is_err() {
            if self.log().lines().any(is_end) {
                return Err(io::Error::other("postgres does not start"));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.process.take().is_none() {
            // A killed server's folder was kept for a restart.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
