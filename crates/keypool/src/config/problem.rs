//! One mistake on its way from where it is found to where it is told.
//!
//! This module must never hold the value of a key or token: only texts that may be shown.

use super::errors::ConfigError;
use super::location::{Document, Location};

/// One mistake before it has a place for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    at: Location,
    message: String,
    hint: Option<String>,
    kind: Kind,
}

/// What a mistake is worth beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The file is no TOML there.
    Syntax,
    /// Something is written that is wrong.
    Wrong,
    /// Something is not written, which a syntax error above may have swallowed.
    Absent,
}

impl Problem {
    /// Something written at `at` is wrong.
    pub(super) fn new(at: &Location, message: impl Into<String>) -> Self {
        Self {
            at: at.clone(),
            message: message.into(),
            hint: None,
            kind: Kind::Wrong,
        }
    }

    /// The file is no TOML at `at`.
    pub(super) fn syntax(at: &Location, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Syntax,
            ..Self::new(at, message)
        }
    }

    /// Something that belongs at `at` is not there.
    pub(super) fn absent(at: &Location, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Absent,
            ..Self::new(at, message)
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what to do about it, where that is known.
    #[must_use]
    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Where it stands.
    pub(super) fn at(&self) -> &Location {
        &self.at
    }

    /// What it is worth beside others.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The mistake as it is told.
    pub(super) fn into_error(self, document: &Document) -> ConfigError {
        ConfigError {
            location: document.describe(&self.at),
            message: self.message,
            hint: self.hint,
        }
    }
}
