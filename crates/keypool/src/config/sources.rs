//! The sources of the configuration. Only this module reads the environment, working directory and configuration file.
//!
//! This module must never know what a setting means.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::files::{Contents, SourceFile};
use super::location::{Document, Location};
use super::problem::Problem;
use super::vars::Vars;

/// The sources of a configuration. Created once at start.
///
/// Later sources win: defaults, file, environment, flags. One exception: a `base_url` of a pool or key in the file wins
/// over `<PROVIDER>_BASE_URL`, which only replaces the provider's default.
#[derive(Clone)]
pub(crate) struct Sources {
    /// The file named on the command line.
    pub(crate) file: Option<PathBuf>,
    /// The environment of the process, without `.env`.
    pub(crate) env: BTreeMap<String, String>,
    /// The working directory.
    pub(crate) dir: PathBuf,
    /// Settings given by flags.
    pub(crate) overrides: Overrides,
    /// Whether provider keys in the environment make pools.
    pub(crate) environment_pools: bool,
}

/// Settings given by flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// `--listen`
    pub(crate) listen: Option<String>,
    /// `--log-level`
    pub(crate) log_level: Option<String>,
    /// `--log-format`
    pub(crate) log_format: Option<String>,
}

impl Sources {
    /// The sources of this process. Variables that are not UTF-8 are ignored: no setting could use them.
    pub(crate) fn from_process(
        file: Option<PathBuf>,
        overrides: Overrides,
    ) -> std::io::Result<Self> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let env = std::env::vars_os().filter_map(text).collect();
        Ok(Self {
            file,
            env,
            dir: std::env::current_dir()?,
            overrides,
            environment_pools: true,
        })
    }
}

/// The configuration file that was read.
pub(super) struct Input {
    /// The file.
    pub(super) file: SourceFile,
    /// Its text.
    pub(super) document: Document,
    /// Why it cannot be used.
    pub(super) problem: Option<Problem>,
    /// Whether the text can be parsed.
    pub(super) usable: bool,
}

impl Input {
    /// Reads the named file, or the default one if it exists.
    pub(super) fn read(sources: &Sources, vars: &Vars) -> Self {
        let named = sources
            .file
            .clone()
            .or_else(|| vars.get("KEYPOOL_CONFIG").map(PathBuf::from));
        let name = named.as_deref().unwrap_or(Path::new("keypool.toml"));
        let path = sources.dir.join(name);
        let name = name.display().to_string();
        let bytes = std::fs::read(&path);
        let contents = Contents::of(&path, &bytes);
        let (text, problem) = match bytes.map(String::from_utf8) {
            Ok(Ok(text)) => (text, None),
            Ok(Err(error)) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
                // Offsets in a document do not count a byte order mark.
                let at = Location::File(text.trim_start_matches('\u{feff}').len());
                let problem = Problem::syntax(&at, "the file is not UTF-8 text from here on");
                (text, Some(problem))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
                (String::new(), None)
            }
            Err(error) => {
                let problem = Problem::syntax(
                    &Location::Path(name.clone()),
                    format!("the configuration file cannot be read: {error}"),
                );
                let hint = (error.kind() == ErrorKind::NotFound)
                    .then(|| format!("looked for {}", path.display()));
                (String::new(), Some(problem.maybe_hint(hint)))
            }
        };
        Self {
            document: Document::new(name.clone(), &text),
            file: SourceFile {
                name,
                path,
                contents,
            },
            usable: problem.is_none(),
            problem,
        }
    }
}
