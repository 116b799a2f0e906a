//! The server's process. A shell stands between it and the test: it kills the server when the test ends, however it ends.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// `$1` is the server's folder, the rest its command. The shell prints the server's process id, then waits until its own
/// input ends, as it does when the test dies. After the line `keep`, the folder stays.
const SUPERVISE: &str = r#"
trap '' INT
folder=$1
shift
"$@" >"$folder/log" 2>&1 &
echo $!
read -r keep
kill -9 $!
wait $! 2>/dev/null
[ "$keep" = keep ] || rm -rf "$folder"
"#;

/// A running server.
#[derive(Debug)]
pub(super) struct Process {
    shell: Child,
    /// The shell kills the server when this is closed.
    alive: Option<ChildStdin>,
    pid: u32,
}

impl Process {
    pub(super) fn start(folder: &Path, arguments: &[String]) -> io::Result<Process> {
        let mut shell = Command::new("sh")
            .args(["-c", SUPERVISE, "sh"])
            .arg(folder)
            .arg(program()?)
            .args(arguments)
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
    pub(super) fn kill(mut self) -> io::Result<()> {
        if let Some(alive) = &mut self.alive {
            alive.write_all(b"keep\n")?;
        }
        self.end();
        Ok(())
    }

    /// Sends the signal `name`, such as `STOP`, to the server.
    pub(super) fn signal(&self, name: &str) -> io::Result<()> {
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name])
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

/// `redis-server` where `tests/servers/install` leaves it, else on the PATH.
fn program() -> io::Result<PathBuf> {
    let cache = std::env::var_os("KEYPOOL_CACHE").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/keypool")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    cache
        .map(|cache| cache.join("servers/bin"))
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("redis-server"))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            io::Error::other("redis-server is missing; run tests/servers/install, or make test")
        })
}
