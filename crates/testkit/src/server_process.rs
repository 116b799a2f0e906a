//! A real server's process, for tests. A shell stands between it and the test: it kills the server when the test ends,
//! however it ends.
//!
//! This module must never know which server it runs.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Ports below those of outgoing connections, so that a server finds its port free when it is restarted.
const PORTS: std::ops::Range<u16> = 10_000..22_000;

/// Defines `children`: the processes that the process `$1` has started. Without `/proc`, none are found.
const CHILDREN: &str = r#"
children() {
    grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2>/dev/null | cut -d / -f 3
}
"#;

/// `$1` is the server's folder, the rest its command. The shell prints the server's process id, then waits until its own
/// input ends, as it does when the test dies. After the line `keep`, the folder stays. It ends when no process of the server
/// is left.
const SUPERVISE: &str = r#"
trap '' INT
folder=$1
shift
"$@" >"$folder/log" 2>&1 &
server=$!
echo "$server"
read -r keep
children=$(children "$server")
kill -9 "$server" $children
wait "$server" 2>/dev/null
for child in $children; do
    while grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$child/status"; do sleep 0.01; done
done
[ "$keep" = keep ] || rm -rf "$folder"
"#;

/// Sends the signal `$1` to the process `$2`, then to its children.
const SIGNAL: &str = r#"
kill -s "$1" "$2" || exit 1
for child in $(children "$2"); do kill -s "$1" "$child" 2>/dev/null; done
exit 0
"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    shell: Child,
    /// The shell kills the server when this is closed.
    alive: Option<ChildStdin>,
    pid: u32,
}

impl Process {
    /// Starts `command`, whose output goes to the file `log` in `folder`.
    pub(crate) fn start<S: AsRef<OsStr>>(folder: &Path, command: &[S]) -> io::Result<Process> {
        let mut shell = Command::new("sh")
            .args(["-c", &[CHILDREN, SUPERVISE].concat(), "sh"])
            .arg(folder)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let alive = shell.stdin.take();
        let mut pid = String::new();
        if let Some(stdout) = shell.stdout.take() {
            BufReader::new(stdout).read_line(&mut pid)?;
        }
        let pid = pid.trim().parse().map_err(io::Error::other)?;
        Ok(Process { shell, alive, pid })
    }

    /// Kills the server as a power failure would, and keeps its folder.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        if let Some(alive) = &mut self.alive {
            alive.write_all(b"keep\n")?;
        }
        self.end();
        Ok(())
    }

    /// Sends the signal `name`, such as `STOP`, to the server and the processes that it has started.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        let sent = Command::new("sh")
            .args(["-c", &[CHILDREN, SIGNAL].concat(), "sh", name])
            .arg(self.pid.to_string())
            .status()?;
        match sent.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("kill -s {name} failed"))),
        }
    }

    fn end(&mut self) {
        self.alive = None;
        let _ = self.shell.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where programs are looked for, in order: where `tests/servers/install` leaves them, then the PATH.
pub(crate) fn program_folders() -> Vec<PathBuf> {
    let cache = std::env::var_os("KEYPOOL_CACHE").map(PathBuf::from);
    let in_home = |home: OsString| PathBuf::from(home).join(".cache/keypool");
    let cache = cache.or_else(|| std::env::var_os("HOME").map(in_home));
    let path = std::env::var_os("PATH").unwrap_or_default();
    cache
        .map(|cache| cache.join("servers/bin"))
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect()
}

/// A port of 127.0.0.1 that is free, as are those `further` above it.
pub(crate) fn free_port(further: &[u16]) -> io::Result<u16> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..100)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| is_free(*port) && further.iter().all(|step| is_free(port + step)))
        .ok_or_else(|| io::Error::other("no free port for a server"))
}
