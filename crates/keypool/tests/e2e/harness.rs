//! Runs the binary for one test in its own folder, calls it, stops it, and searches its output for secrets.

use std::fmt;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::Value;
use tokio::time::Instant;

use crate::http::{Answer, Connection, Reply};

/// Part of every provider key, virtual key and client credential of these tests, and of nothing else.
pub(crate) const MARK: &str = "s3cr3t";
/// A generous limit for what should happen at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// A chat request.
pub(crate) const CHAT: &str = r#"{"model":"gpt-x","messages":[{"role":"user","content":"hello"}]}"#;
/// The same as a stream.
pub(crate) const STREAM: &str =
    r#"{"model":"gpt-x","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";

/// The secret of the provider key with this number.
pub(crate) fn key(n: usize) -> String {
    format!("sk-{MARK}-{n}")
}

/// Pool `p` at the mock provider with keys 1 to `n`.
pub(crate) fn pool(mock: &Mock, n: usize) -> String {
    PoolConfig::new(mock, "p", 1..=n).to_string()
}

/// The configuration of a pool; its `Display` is TOML.
pub(crate) struct PoolConfig {
    name: String,
    settings: Vec<(String, Value)>,
    /// `[[pools.<name>.keys]]`
    long_keys: String,
}

impl PoolConfig {
    /// A pool at the mock provider with the keys of these numbers, named `<name>-1` and so on. Backoff is short.
    pub(crate) fn new(mock: &Mock, name: &str, keys: impl IntoIterator<Item = usize>) -> Self {
        Self::at(&mock.origin(), name, keys)
    }

    /// The same at another address.
    pub(crate) fn at(base_url: &str, name: &str, keys: impl IntoIterator<Item = usize>) -> Self {
        let keys: Vec<String> = keys.into_iter().map(key).collect();
        let pool = Self {
            name: name.to_owned(),
            settings: Vec::new(),
            long_keys: String::new(),
        };
        let pool = pool.set("provider", "mock").set("base_url", base_url);
        let pool = pool.set("retry.backoff", "5ms");
        if keys.is_empty() {
            pool
        } else {
            pool.set("keys", keys)
        }
    }

    /// Sets a setting, such as `queue.timeout`, or replaces it.
    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a key in the long form, with further settings of it as TOML.
    pub(crate) fn key(mut self, n: usize, settings: &str) -> Self {
        let table = format!("[[pools.{}.keys]]", self.name);
        self.long_keys += &format!("{table}\nkey = \"{}\"\n{settings}\n", key(n));
        self
    }
}

impl fmt::Display for PoolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[pools.{}]", self.name)?;
        for (name, value) in &self.settings {
            // Strings, numbers and lists look the same in JSON and TOML.
            match value.as_array() {
                Some(items) => {
                    let items: Vec<String> = items.iter().map(Value::to_string).collect();
                    writeln!(f, "{name} = [{}]", items.join(", "))?;
                }
                None => writeln!(f, "{name} = {value}")?,
            }
        }
        f.write_str(&self.long_keys)
    }
}

/// The configuration of a virtual key, with further settings of it as TOML.
pub(crate) fn virtual_key(name: &str, settings: &str) -> String {
    let secret = virtual_secret(name);
    format!("[[virtual_keys]]\nname = \"{name}\"\nkey = \"{secret}\"\n{settings}\n")
}

/// The secret of the virtual key with this name.
pub(crate) fn virtual_secret(name: &str) -> String {
    format!("{MARK}-virtual-{name}")
}

/// The `Authorization` header of the virtual key with this name.
pub(crate) fn bearer(name: &str) -> String {
    format!("Bearer {}", virtual_secret(name))
}

/// Fails the test if `future` takes longer than `DEADLINE`.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("came within 10 s")
}

/// Polls until `reached` returns true.
pub(crate) async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !reached() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A working directory, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(config: &str) -> Arc<Folder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("e2e-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        let folder = Folder(path);
        folder.write("keypool.toml", config);
        Arc::new(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces a file in one step, as editors do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let draft = self.path(&format!("{name}.draft"));
        fs::write(&draft, text).expect("write");
        fs::rename(draft, self.path(name)).expect("rename");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process of the binary, running or ended.
pub(crate) struct Process {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    folder: Arc<Folder>,
}

impl Process {
    pub(crate) fn start(folder: &Arc<Folder>, args: &[&str]) -> Process {
        Self::start_with(folder, args, &[])
    }

    /// Starts it with these environment variables and no others.
    pub(crate) fn start_with(folder: &Arc<Folder>, args: &[&str], env: &[(&str, &str)]) -> Process {
        let mut keypool = Command::new(env!("CARGO_BIN_EXE_keypool"));
        Self::spawn(folder, keypool.args(args), env)
    }

    /// Starts it from a shell that has run `before`.
    pub(crate) fn start_after(folder: &Arc<Folder>, before: &str, args: &[&str]) -> Process {
        let script = format!("{before} && exec \"$0\" \"$@\"");
        let shell = ["-c", &script, env!("CARGO_BIN_EXE_keypool")];
        Self::spawn(folder, Command::new("/bin/sh").args(shell).args(args), &[])
    }

    fn spawn(folder: &Arc<Folder>, command: &mut Command, env: &[(&str, &str)]) -> Process {
        let mut child = command
            .current_dir(&folder.0)
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Process {
            stdout: follow(child.stdout.take().expect("piped")),
            stderr: follow(child.stderr.take().expect("piped")),
            folder: Arc::clone(folder),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        text(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .expect("sh");
        assert!(sent.success(), "kill -{name}");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for the end and returns the exit code.
    pub(crate) async fn ended(&mut self) -> i32 {
        eventually("the process ends", || {
            self.child.try_wait().expect("a child").is_some()
                && Arc::strong_count(&self.stdout) == 1
                && Arc::strong_count(&self.stderr) == 1
        })
        .await;
        let status = self.child.wait().expect("a child");
        status
            .code()
            .unwrap_or_else(|| panic!("{status}\n{}", self.stderr()))
    }

    /// Checks that the output contains no key and no token.
    pub(crate) fn assert_no_secret(&self) {
        let said = [self.stdout(), self.stderr()].concat();
        let token = fs::read_to_string(self.folder.path("keypool.admin-token")).unwrap_or_default();
        let shown = |secret: &str| {
            said.lines()
                .filter(|line| line.contains(secret))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(MARK), [""; 0], "a key was printed or logged");
        if !token.trim().is_empty() {
            assert_eq!(
                shown(token.trim()),
                [""; 0],
                "the admin token was printed or logged"
            );
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Shown only with a failed test.
            let said = [self.stdout(), self.stderr()].concat();
            let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
        }
    }
}

/// Collects what is written to a pipe. Once the pipe is closed, the caller is the only owner of the text.
fn follow(mut pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let collected = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&collected);
    std::thread::spawn(move || {
        let mut piece = [0u8; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut piece) {
            let mut all = into.lock().unwrap_or_else(PoisonError::into_inner);
            all.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
    collected
}

fn text(collected: &Mutex<String>) -> String {
    collected
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    pub(crate) token: String,
}

impl Gateway {
    /// `keypool serve` with this configuration, on a free port.
    pub(crate) async fn start(config: &str) -> Gateway {
        Self::start_in(&Folder::new(config)).await
    }

    pub(crate) async fn start_in(folder: &Arc<Folder>) -> Gateway {
        Self::run(folder, &["serve", "--listen", "127.0.0.1:0"]).await
    }

    /// Runs a command that serves.
    pub(crate) async fn run(folder: &Arc<Folder>, args: &[&str]) -> Gateway {
        Self::of(Process::start(folder, args)).await
    }

    /// `keypool serve` with this configuration and these environment variables.
    pub(crate) async fn start_with(config: &str, env: &[(&str, &str)]) -> Gateway {
        let args = ["serve", "--listen", "127.0.0.1:0"];
        Self::of(Process::start_with(&Folder::new(config), &args, env)).await
    }

    /// Waits until the process serves.
    pub(crate) async fn of(mut process: Process) -> Gateway {
        eventually("the address is printed", || {
            assert!(
                !process.has_ended(),
                "ended at start:\n{}",
                process.stderr()
            );
            process.stdout().contains("Try it:") && process.stderr().contains("listening on")
        })
        .await;
        let stdout = process.stdout();
        let line = stdout
            .lines()
            .find_map(|line| line.trim().strip_prefix("Gateway"))
            .expect("an address");
        let addr = line
            .trim()
            .strip_prefix("http://")
            .and_then(|addr| addr.parse().ok())
            .expect("an address");
        let token = process.folder.path("keypool.admin-token");
        let token = fs::read_to_string(token).unwrap_or_default();
        Gateway {
            process,
            addr,
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.process.folder
    }

    /// All complete log lines so far.
    pub(crate) fn log(&self) -> String {
        let mut log = self.process.stderr();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// Waits until the log contains `what`; another thread reads it.
    pub(crate) async fn logged(&self, what: &str) {
        eventually(&format!("the log says {what}"), || {
            self.log().contains(what)
        })
        .await;
    }

    /// Sends a request and reads the head of its answer, but not the body.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        within(async {
            let mut connection = Connection::open(self.addr).await;
            connection.request(method, path, headers, body).await;
            connection.answer().await.expect("an answer")
        })
        .await
    }

    /// Sends a request, reads the whole answer, and checks that it contains no secret.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let reply = within(self.open(method, path, headers, body).await.whole()).await;
        assert!(
            !format!("{:?}{}", reply.headers, reply.text()).contains(MARK),
            "{reply:?}"
        );
        reply
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
        .await
    }

    pub(crate) async fn chat(&self) -> Reply {
        self.post(CHAT_PATH, CHAT).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await
    }

    /// Calls the admin API with the token.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        self.send(method, path, &[("authorization", &bearer)], b"")
            .await
    }

    pub(crate) async fn stats(&self) -> Value {
        let reply = self.admin("GET", "/api/keys/stats").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// The statistics of one key.
    pub(crate) async fn key_stats(&self, pool: &str, name: &str) -> Value {
        self.stats().await[pool][name].clone()
    }

    pub(crate) async fn reset(&self, pool: &str, name: &str) {
        let path = format!("/api/v1/admin/pools/{pool}/keys/{name}/reset");
        let reply = self.admin("POST", &path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// Waits until no key has a call in flight.
    pub(crate) async fn all_idle(&self) {
        let end = Instant::now() + DEADLINE;
        loop {
            let stats = self.stats().await;
            if stats
                .as_object()
                .into_iter()
                .flatten()
                .flat_map(|(_, keys)| keys.as_object().into_iter().flatten())
                .all(|(_, key)| key["active_requests"] == 0)
            {
                return;
            }
            assert!(Instant::now() < end, "still active after 10 s: {stats}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops it with SIGTERM: it must exit with 0 soon, without a panic, and must have shown no secret.
    pub(crate) async fn stop(mut self) {
        self.process.signal("TERM");
        let code = self.process.ended().await;
        assert_eq!(code, 0, "{}", self.log());
        assert!(
            !self.log().contains("panicked"),
            "a task panicked:\n{}",
            self.log()
        );
        self.process.assert_no_secret();
    }
}
