//! Reads the configuration again. A file that is gone, or was emptied a moment ago, is not taken for a configuration.
//!
//! This module must never apply anything: the gateway does that.

use std::time::Duration;

use keypool_gateway::context::Reloaded;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::{self, Contents, Loaded, SourceFile, Sources};

/// How long a file must have been empty to be taken for an empty configuration. Some programs empty a file first and
/// write it later.
const EMPTY_FOR: Duration = Duration::from_secs(5);

/// Reads the configuration again, and remembers what was read last.
pub(crate) struct Reloader {
    sources: Sources,
    last: Mutex<Last>,
}

/// The last configuration that was read without a mistake.
struct Last {
    files: Vec<SourceFile>,
    has_pools: bool,
    /// When a file was first found to be empty since then.
    empty_since: Option<Instant>,
}

impl Reloader {
    /// Reads `sources` again later; `loaded` is what they are now.
    pub(crate) fn new(sources: Sources, loaded: &Loaded) -> Self {
        let last = Mutex::new(Last::of(loaded));
        Self { sources, last }
    }

    /// The files that were read.
    pub(crate) fn files(&self) -> Vec<SourceFile> {
        self.last.lock().files.clone()
    }

    /// Whether an emptied file that was rejected has been empty for long enough now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let empty_since = self.last.lock().empty_since;
        empty_since.is_some_and(|since| now.duration_since(since) >= EMPTY_FOR)
    }

    /// Reads the configuration. Each error is one message.
    pub(crate) fn load(&self, now: Instant) -> Result<Reloaded, Vec<String>> {
        let mut last = self.last.lock();
        let loaded = config::load(&self.sources).map_err(|errors| {
            last.empty_since = None;
            let errors = errors.0.iter().map(ToString::to_string).collect();
            last.with_gone(errors)
        })?;
        last.accept(&loaded.files, now)?;
        *last = Last::of(&loaded);
        Ok(Reloaded {
            settings: loaded.settings,
            warnings: loaded.warnings,
        })
    }
}

impl Last {
    fn of(loaded: &Loaded) -> Self {
        Self {
            files: loaded.files.clone(),
            has_pools: !loaded.settings.pools.is_empty(),
            empty_since: None,
        }
    }

    /// Whether `files` may replace the last ones.
    fn accept(&mut self, files: &[SourceFile], now: Instant) -> Result<(), Vec<String>> {
        let became = |contents| {
            let had = |file: &&SourceFile| file.contents == contents && self.had_text(file);
            files.iter().filter(had).collect::<Vec<_>>()
        };
        let gone = became(Contents::Missing);
        if !gone.is_empty() {
            self.empty_since = None;
            return Err(gone.into_iter().map(says_gone).collect());
        }
        let emptied = became(Contents::Blank);
        if emptied.is_empty() || !self.has_pools {
            return Ok(());
        }
        let empty_for = now.duration_since(*self.empty_since.get_or_insert(now));
        let left = EMPTY_FOR.saturating_sub(empty_for).as_secs_f64().ceil();
        if left == 0.0 {
            return Ok(());
        }
        let says_empty = |file: &SourceFile| {
            let name = &file.name;
            format!("{name}: the file is empty; if it still is in {left} s, that is applied")
        };
        Err(emptied.into_iter().map(says_empty).collect())
    }

    /// Whether `file` had a text when it was last read.
    fn had_text(&self, file: &SourceFile) -> bool {
        let mut same = self.files.iter().filter(|last| last.path == file.path);
        same.any(|last| matches!(last.contents, Contents::Text(_)))
    }

    /// `errors`, after one for each file whose absence may have caused them.
    fn with_gone(&self, errors: Vec<String>) -> Vec<String> {
        let is_gone = |file: &&SourceFile| {
            let named = |error: &String| error.starts_with(&file.name);
            self.had_text(file)
                && Contents::now(&file.path) == Some(Contents::Missing)
                && !errors.iter().any(named)
        };
        let gone = self.files.iter().filter(is_gone).map(says_gone);
        gone.collect::<Vec<_>>().into_iter().chain(errors).collect()
    }
}

fn says_gone(file: &SourceFile) -> String {
    let name = &file.name;
    format!("{name}: the file is gone; put it back, or restart keypool to run without it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    /// A working directory with these files, removed after the test, and its reloader.
    struct Home {
        dir: std::path::PathBuf,
        reloader: Reloader,
        start: Instant,
    }

    impl Home {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("keypool-reloader-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            for (name, text) in files {
                std::fs::write(dir.join(name), text).unwrap();
            }
            let sources = Sources {
                file: None,
                env: Default::default(),
                dir: dir.clone(),
                overrides: Overrides::default(),
                environment_pools: true,
            };
            let loaded = config::load(&sources).unwrap();
            let reloader = Reloader::new(sources, &loaded);
            let start = Instant::now();
            Self {
                dir,
                reloader,
                start,
            }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.join(name), text).unwrap();
        }

        /// Reloads `millis` after the start. Returns the number of pools, or the errors.
        fn load(&self, millis: u64) -> Result<usize, Vec<String>> {
            let now = self.start + Duration::from_millis(millis);
            let reloaded = self.reloader.load(now)?;
            Ok(reloaded.settings.pools.len())
        }

        fn is_due(&self, millis: u64) -> bool {
            let now = self.start + Duration::from_millis(millis);
            self.reloader.is_due(now)
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.dir).unwrap();
        }
    }

    const POOL: &str = "pools.a = { provider = 'openai', keys = 'k' }";
    const KEY: &str = "GROQ_API_KEY=k\n";

    #[test]
    fn an_emptied_file_is_applied_after_five_seconds() {
        for (name, text) in [("keypool.toml", POOL), (".env", KEY)] {
            let home = Home::new(&format!("emptied{name}"), &[(name, text)]);
            for blank in ["", " \n\t\r\n"] {
                home.write(name, text);
                assert_eq!(home.load(0), Ok(1), "{name}");
                home.write(name, blank);
                assert!(!home.is_due(60_000), "no attempt so far");
                for (at, left) in [(1_000, 5), (2_000, 4), (5_999, 1)] {
                    let expected = format!(
                        "{name}: the file is empty; if it still is in {left} s, that is applied"
                    );
                    assert_eq!(home.load(at), Err(vec![expected]));
                    assert!(!home.is_due(at));
                }
                assert!(home.is_due(6_000));
                assert_eq!(home.load(6_000), Ok(0), "{name}");
                assert!(!home.is_due(60_000));
            }
        }
    }

    #[test]
    fn the_wait_for_an_empty_file_starts_again_after_a_text() {
        let home = Home::new("filled", &[("keypool.toml", POOL)]);
        home.write("keypool.toml", "");
        assert!(home.load(0).is_err());
        home.write("keypool.toml", POOL);
        assert_eq!(home.load(1_500), Ok(1));
        assert!(!home.is_due(60_000));
        home.write("keypool.toml", "");
        assert!(home.load(5_000).is_err(), "empty for a moment");
        home.write("keypool.toml", "[pools");
        assert!(home.load(6_000).unwrap_err()[0].contains("not valid TOML"));
        assert!(!home.is_due(60_000));
        home.write("keypool.toml", "");
        assert!(home.load(20_000).is_err(), "empty for a moment");
    }

    #[test]
    fn a_file_that_is_gone_is_an_error() {
        for (name, text) in [("keypool.toml", POOL), (".env", KEY)] {
            let home = Home::new(&format!("gone{name}"), &[(name, text)]);
            std::fs::remove_file(home.dir.join(name)).unwrap();
            for at in [0, 6_000, 60_000] {
                let expected = format!(
                    "{name}: the file is gone; put it back, or restart keypool to run without it"
                );
                assert_eq!(home.load(at), Err(vec![expected]));
                assert!(!home.is_due(120_000));
            }
            home.write(name, text);
            assert_eq!(home.load(60_000), Ok(1));
        }
    }

    #[test]
    fn a_missing_variable_names_the_file_that_is_gone() {
        let pool = "pools.a = { provider = 'openai', keys = '${K}' }";
        let home = Home::new("variable", &[("keypool.toml", pool), (".env", "K=k\n")]);
        std::fs::remove_file(home.dir.join(".env")).unwrap();
        let errors = home.load(0).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with(".env: the file is gone"),
            "{errors:?}"
        );
        assert!(errors[1].contains("`K`, which is not set"), "{errors:?}");
    }

    #[test]
    fn an_empty_file_is_applied_at_once_if_nothing_is_lost() {
        let home = Home::new("nothing", &[("keypool.toml", "log.level = 'warn'")]);
        home.write("keypool.toml", "");
        assert_eq!(home.load(0), Ok(0), "there were no pools");
        home.write("keypool.toml", POOL);
        assert_eq!(home.load(1), Ok(1));
        home.write(".env", "");
        assert_eq!(home.load(2), Ok(1), "there was no .env");
        std::fs::remove_file(home.dir.join(".env")).unwrap();
        assert_eq!(home.load(3), Ok(1), "it was empty");
        home.write("keypool.toml", "# no pools any more");
        assert_eq!(home.load(4), Ok(0), "a comment is a text");
    }
}
