//! Collects mistakes and warnings, so that all are reported at once.
//!
//! This module must never hold the value of a key or token, only text that may be shown.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::errors::ConfigError;
use super::location::{Document, Location};
use super::problem::{Kind, Problem};
use super::vars::Vars;

/// Collects mistakes and warnings while the sources are read.
pub(super) struct Report<'w> {
    document: &'w Document,
    vars: &'w Vars,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl<'w> Report<'w> {
    /// An empty report on `document` and `vars`.
    pub(super) fn new(document: &'w Document, vars: &'w Vars) -> Self {
        Self {
            document,
            vars,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The environment.
    pub(super) fn vars(&self) -> &'w Vars {
        self.vars
    }

    /// The configuration file's name as the user knows it.
    pub(super) fn file_name(&self) -> &'w str {
        self.document.name()
    }

    /// Adds a mistake.
    pub(super) fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Adds a warning, unless it was added before.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Adds a warning about what is written at `at`.
    pub(super) fn warn_at(&self, at: &Location, warning: &str) {
        self.warn(format!("{}: {warning}", self.document.describe(at)));
    }

    /// Warns about a stray `${` in the value at `at`. The value is not shown: it may be a key.
    pub(super) fn warn_stray_reference(&self, at: &Location, name: &str) {
        let warning = format!(
            "`{name}` has a `${{` that does not start a `${{NAME}}`, so it is used literally: write `}}` after the name of a variable"
        );
        self.warn_at(at, &warning);
    }

    /// Warns that a setting is checked but has no effect yet.
    pub(super) fn not_implemented(&self, setting: &str, why: &str) {
        self.warn(format!("`{setting}` is not implemented yet: {why}"));
    }

    /// Returns the mistakes in the order of their locations, and the warnings.
    ///
    /// Mistakes that a syntax error may have caused are left out: those in its line, those under a broken header, and
    /// everything that is missing.
    pub(super) fn finish(self) -> (Vec<ConfigError>, Vec<String>) {
        let problems: BTreeSet<Problem> = self.problems.into_inner().into_iter().collect();
        let broken: BTreeSet<usize> = problems
            .iter()
            .filter(|problem| problem.kind() == Kind::Syntax)
            .map(|problem| match problem.at() {
                Location::File(offset) => self.document.line(*offset),
                _ => 0,
            })
            .collect();
        let is_reported = |problem: &Problem| match (problem.kind(), problem.at()) {
            (Kind::Syntax, _) => true,
            (Kind::Absent, _) => broken.is_empty(),
            (Kind::Wrong, Location::File(offset)) => {
                let line = self.document.line(*offset);
                let header = self.document.header(line).unwrap_or(line);
                !broken.contains(&line) && !broken.contains(&header)
            }
            (Kind::Wrong, _) => true,
        };
        let errors = problems
            .into_iter()
            .filter(is_reported)
            .map(|problem| problem.into_error(self.document));
        (errors.collect(), self.warnings.into_inner())
    }
}
