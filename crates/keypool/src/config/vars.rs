//! Environment variables, of the process and of `.env`, and `${NAME}` in strings. The process wins over `.env`.
//!
//! This module must never put a variable's value into a message.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::dotenv;
use super::files::{Contents, SourceFile};
use super::location::Location;
use super::problem::Problem;
use super::values;

/// The name of the file with variables.
const DOTENV: &str = ".env";

/// All environment variables.
pub(super) struct Vars {
    values: BTreeMap<String, String>,
    /// The location of each variable that comes from `.env`.
    locations: BTreeMap<String, Location>,
    /// Variables of `.env` with a stray `${`.
    strays: Vec<String>,
    /// The variables that were asked for, by a setting or by another variable.
    read: RefCell<BTreeSet<String>>,
}

/// Why `${NAME}` has no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The variable does not exist.
    Unset(String),
    /// The variable is empty.
    Empty(String),
}

impl Vars {
    /// Reads `.env` in `dir`, if it exists, and adds the variables of the process, which win.
    pub(super) fn read(
        dir: &Path,
        process: &BTreeMap<String, String>,
    ) -> (Self, SourceFile, Vec<Problem>) {
        let mut vars = Self::of_process(process);
        let path = dir.join(DOTENV);
        let bytes = std::fs::read(&path);
        let file = SourceFile {
            name: DOTENV.to_owned(),
            contents: Contents::of(&path, &bytes),
            path,
        };
        let text = match text(&file.path, bytes) {
            Ok(text) => text,
            Err(problem) => return (vars, file, vec![problem]),
        };
        let parsed = dotenv::parse(&text, process);
        vars.read = parsed.references.into();
        for (name, assignment) in parsed.values {
            if !process.contains_key(&name) {
                let at = Location::DotEnv(assignment.line, assignment.column);
                vars.locations.insert(name.clone(), at);
                if assignment.has_stray_reference {
                    vars.strays.push(name.clone());
                }
                vars.values.insert(name, assignment.value);
            }
        }
        let problems = parsed
            .mistakes
            .into_iter()
            .map(|(line, message)| Problem::new(&Location::DotEnv(line, 1), message))
            .collect();
        (vars, file, problems)
    }

    fn of_process(process: &BTreeMap<String, String>) -> Self {
        Self {
            values: process.clone(),
            locations: BTreeMap::new(),
            strays: Vec::new(),
            read: RefCell::default(),
        }
    }

    /// Where a variable was set: in `.env` or in the environment of the process.
    pub(super) fn at(&self, name: &str) -> Location {
        self.locations
            .get(name)
            .cloned()
            .unwrap_or_else(|| Location::Variable(name.to_owned()))
    }

    /// The variables of `.env` with a stray `${` that were read. Others are for programs with another syntax.
    pub(super) fn strays(&self) -> impl Iterator<Item = &str> {
        let is_read = |name: &&String| self.read.borrow().contains(*name);
        self.strays.iter().filter(is_read).map(String::as_str)
    }

    /// The variables with a value that nothing asked for so far.
    pub(super) fn unread(&self) -> Vec<&str> {
        let read = self.read.borrow();
        let unread = self
            .values
            .iter()
            .filter(|(name, value)| !read.contains(*name) && !value.trim().is_empty());
        unread.map(|(name, _)| name.as_str()).collect()
    }

    /// A variable's value. A blank one counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.read.borrow_mut().insert(name.to_owned());
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.trim().is_empty())
    }

    /// Replaces each `${NAME}` by the variable's value. Any other `$` is literal.
    pub(super) fn interpolate(&self, raw: &str) -> Result<String, Vec<Missing>> {
        let mut missing = Vec::new();
        let text = values::replace(raw, |name| {
            match (self.get(name), self.values.contains_key(name)) {
                (Some(value), _) => value.to_owned(),
                (None, known) => {
                    missing.push(if known {
                        Missing::Empty(name.to_owned())
                    } else {
                        Missing::Unset(name.to_owned())
                    });
                    String::new()
                }
            }
        });
        if missing.is_empty() {
            Ok(text)
        } else {
            Err(missing)
        }
    }
}

/// The text of `.env`; empty if there is none. A directory of that name is usually a Python environment.
fn text(path: &Path, bytes: std::io::Result<Vec<u8>>) -> Result<String, Problem> {
    match bytes.map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            let at = Location::DotEnv(line, 1);
            Err(Problem::new(&at, "the file is not UTF-8 text"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || path.is_dir() => {
            Ok(String::new())
        }
        Err(error) => {
            let at = Location::Path(DOTENV.to_owned());
            Err(Problem::new(&at, format!("cannot be read: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_braced_names_are_replaced() {
        let vars = Vars::of_process(
            &[("A", "1"), ("B_2", "${A}"), ("EMPTY", " ")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        );
        for (raw, expect) in [
            ("${A}", "1"),
            ("x${A}y${A}${B_2}", "x1y1${A}"),
            (
                "$ $$ $A ${} ${1A} ${A-B} ${A",
                "$ $$ $A ${} ${1A} ${A-B} ${A",
            ),
            ("$${A}", "$1"),
            ("${ ${A}", "${ 1"),
            ("", ""),
        ] {
            assert_eq!(vars.interpolate(raw).as_deref(), Ok(expect), "{raw}");
        }
        let missing = vec![Missing::Unset("NO".into()), Missing::Empty("EMPTY".into())];
        assert_eq!(vars.interpolate("${NO}${A}${EMPTY}"), Err(missing));
    }
}
