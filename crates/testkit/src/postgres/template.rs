//! An empty data directory, made once for each test process, that servers start from a copy of. It is removed when the
//! process ends, however it ends.
//!
//! PostgreSQL does not run as root. For root, its programs and files are those of the user `nobody`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::server_process::program_folders;

/// The superuser, who needs no password.
pub(super) const USER: &str = "keypool";
/// User and group `nobody`.
const NOBODY: u32 = 65_534;
/// Where Debian keeps the programs, which are not on its PATH: a folder for each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Removes the folder `$1` when its input ends. `initdb` may still write to it.
const REMOVE: &str = r#"trap '' INT; read -r _; until rm -rf "$1" 2>/dev/null; do sleep 0.1; done"#;

static SHARED: Mutex<Option<Arc<Template>>> = Mutex::new(None);

/// The template and the programs.
#[derive(Debug)]
pub(super) struct Template {
    folder: PathBuf,
    bin: PathBuf,
    is_root: bool,
    /// Waits for the end of this process, which closes its input.
    _remover: Child,
}

impl Template {
    /// The template of this process, made if there is none yet.
    pub(super) fn shared() -> io::Result<Arc<Template>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = shared.as_ref() {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(Template::make()?);
        *shared = Some(Arc::clone(&template));
        Ok(template)
    }

    fn make() -> io::Result<Template> {
        let name = format!("keypool-postgres-{}-template", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let remover = Command::new("sh")
            .args(["-c", REMOVE, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .spawn()?;
        let mut template = Template {
            bin: programs()?,
            is_root: fs::metadata(&folder)?.uid() == 0,
            folder,
            _remover: remover,
        };
        template.hand_over(&template.folder)?;
        if template.is_root && !template.is_reachable()? {
            template.copy_programs()?;
        }
        let data = template.folder.join("data");
        let command = template.command("initdb");
        let arguments = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"];
        // Small segments make the directory half as large.
        run(Command::new(&command[0])
            .args(&command[1..])
            .args(arguments)
            .args(["--username", USER, "--wal-segsize=1", "--pgdata"])
            .arg(data))?;
        Ok(template)
    }

    /// A copy of the empty data directory.
    pub(super) fn copy_to(&self, data: &Path) -> io::Result<()> {
        let empty = self.folder.join("data");
        run(Command::new("cp").arg("-a").arg(empty).arg(data))
    }

    /// Makes a folder one of the server's, which runs as another user if this process is root.
    pub(super) fn hand_over(&self, folder: &Path) -> io::Result<()> {
        match self.is_root {
            true => chown(folder, Some(NOBODY), Some(NOBODY)),
            false => Ok(()),
        }
    }

    /// The command that runs a program of PostgreSQL, without its arguments.
    pub(super) fn command(&self, program: &str) -> Vec<PathBuf> {
        let mut command = self.as_server();
        command.push(self.bin.join(program));
        command
    }

    /// What comes before a command that runs as the server does.
    fn as_server(&self) -> Vec<PathBuf> {
        let user = [
            "setpriv".to_owned(),
            format!("--reuid={NOBODY}"),
            format!("--regid={NOBODY}"),
            "--clear-groups".to_owned(),
        ];
        match self.is_root {
            true => user.map(PathBuf::from).to_vec(),
            false => Vec::new(),
        }
    }

    /// Whether `nobody` may run the programs, which may be in root's home.
    fn is_reachable(&self) -> io::Result<bool> {
        let command = self.as_server();
        let status = Command::new(&command[0])
            .args(&command[1..])
            .args(["sh", "-c", r#"test -x "$1""#, "sh"])
            .arg(self.bin.join("postgres"))
            .status()?;
        Ok(status.success())
    }

    /// Copies the programs and what they need, which is beside them, to where `nobody` may read it.
    fn copy_programs(&mut self) -> io::Result<()> {
        let copy = self.folder.join("programs");
        let parent = self.bin.parent().unwrap_or(&self.bin);
        run(Command::new("cp").arg("-a").arg(parent).arg(&copy))?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy))?;
        self.bin = copy.join(self.bin.file_name().unwrap_or_default());
        Ok(())
    }
}

/// The folder of `initdb` and `postgres`: where `tests/servers/install` leaves them, else on the PATH, else Debian's.
fn programs() -> io::Result<PathBuf> {
    let mut debian: Vec<PathBuf> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let version = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
    debian.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
    let debian = debian.into_iter().map(|folder| folder.join("bin"));
    let has = |folder: &PathBuf, program: &str| folder.join(program).is_file();
    program_folders()
        .into_iter()
        .chain(debian)
        .find(|folder| has(folder, "initdb") && has(folder, "postgres"))
        .ok_or_else(|| {
            io::Error::other("PostgreSQL is missing; run tests/servers/install, or make test")
        })
}

/// Runs a command to its end. Fails with what it wrote.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let written = [output.stdout, output.stderr].concat();
    let written = String::from_utf8_lossy(&written);
    let program = command.get_program().display();
    Err(io::Error::other(format!("{program} failed: {written}")))
}
