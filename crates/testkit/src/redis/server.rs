//! One Redis server.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::control;
use crate::server_process::{Process, free_port, program_folders};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(10);
/// Other processes may take a port between the check and the start.
const ATTEMPTS: usize = 5;
/// Each server of a cluster also uses the port that is this number above its own.
const CLUSTER_BUS: u16 = 10_000;

/// How a server is started; a plain one without a password by default.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    password: Option<String>,
    tls: Option<(String, String)>,
    settings: Vec<(String, String)>,
}

impl RedisOptions {
    /// The default user needs `password`.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Only TLS connections, with this certificate and key, both PEM.
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self
    }

    /// A read-only replica of `primary`.
    pub fn replica_of(self, primary: &RedisServer) -> Self {
        let addr = primary.addr();
        self.setting("replicaof", &format!("{} {}", addr.ip(), addr.port()))
    }

    /// One line of the server's configuration, such as `maxmemory-policy allkeys-lru`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a server with these options, and waits until it responds.
    pub async fn start(self) -> io::Result<RedisServer> {
        RedisServer::with(self).await
    }

    fn configuration(&self, port: u16) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            "unixsocket redis.sock".to_owned(),
        ];
        if self.tls.is_some() {
            lines.push(format!("port 0\ntls-port {port}"));
            lines.push("tls-cert-file certificate.pem\ntls-key-file key.pem".to_owned());
            lines.push("tls-ca-cert-file certificate.pem\ntls-auth-clients no".to_owned());
        } else {
            lines.push(format!("port {port}"));
        }
        if let Some(password) = &self.password {
            lines.push(format!("requirepass {password}"));
        }
        let settings = self.settings.iter();
        lines.extend(settings.map(|(name, value)| format!("{name} {value}")));
        lines.join("\n") + "\n"
    }
}

/// A Redis server on a free port of 127.0.0.1 that keeps nothing on disk. It is killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    options: RedisOptions,
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts a plain server, and waits until it responds.
    pub async fn start() -> io::Result<RedisServer> {
        RedisOptions::default().start().await
    }

    async fn with(options: RedisOptions) -> io::Result<RedisServer> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut failed = io::Error::other("no free port");
        for _ in 0..ATTEMPTS {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("keypool-redis-{}-{n}", std::process::id());
            let mut server = RedisServer {
                options: options.clone(),
                folder: std::env::temp_dir().join(name),
                port: free_port(&[CLUSTER_BUS])?,
                process: None,
            };
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

    /// Sends a command to the server as its default user, whatever its listener does, and returns the reply as text: an
    /// array is one element a line.
    pub async fn command(&self, command: &[&str]) -> io::Result<String> {
        let password = self.options.password.as_deref();
        control::command(&self.folder.join("redis.sock"), password, command).await
    }

    /// Kills the server: no reply, connections broken, port closed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// Starts it again on the same port, killed before if it runs. It has no data; a node of a cluster remembers the
    /// cluster.
    pub async fn restart_empty(&mut self) -> io::Result<()> {
        self.kill()?;
        self.spawn().await
    }

    /// Stops the server's process: connections stay, and are accepted by the system, but nothing responds.
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

    async fn spawn(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if let Some((certificate, key)) = &self.options.tls {
            fs::write(self.folder.join("certificate.pem"), certificate)?;
            fs::write(self.folder.join("key.pem"), key)?;
        }
        let folder = self.folder.display();
        let configuration = format!("dir {folder}\n{}", self.options.configuration(self.port));
        let file = self.folder.join("redis.conf");
        fs::write(&file, configuration)?;
        let process = Process::start(&self.folder, &[program()?, file])?;
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
        loop {
            if self
                .command(&["PING"])
                .await
                .is_ok_and(|reply| reply == "PONG")
            {
                return Ok(());
            }
            let log = self.log();
            if log.contains("Failed listening") || log.contains("FATAL CONFIG") {
                return Err(io::Error::other("redis-server does not start"));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.process.take().is_none() {
            // A killed server's folder was kept for a restart.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// `redis-server` where `tests/servers/install` leaves it, else on the PATH.
fn program() -> io::Result<PathBuf> {
    let mut files = program_folders()
        .into_iter()
        .map(|folder| folder.join("redis-server"));
    files.find(|file| file.is_file()).ok_or_else(|| {
        io::Error::other("redis-server is missing; run tests/servers/install, or make test")
    })
}
