//! One mistake, before its location is turned into text.
//!
//! This module must never hold the value of a key or token, only text that may be shown.

use super::errors::ConfigError;
use super::location::{Document, Location};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    at: Location,
    message: String,
    hint: Option<String>,
    kind: Kind,
}

/// The kind of a mistake. It decides whether a syntax error hides the mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The file is not TOML there.
    Syntax,
    /// Something in the file is wrong.
    Wrong,
    /// Something is missing. A syntax error may be the cause.
    Absent,
}

impl Problem {
    /// Something at `at` is wrong.
    pub(super) fn new(at: &Location, message: impl Into<String>) -> Self {
        Self {
            at: at.clone(),
            message: message.into(),
            hint: None,
            kind: Kind::Wrong,
        }
    }

    /// The file is not TOML at `at`.
    pub(super) fn syntax(at: &Location, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Syntax,
            ..Self::new(at, message)
        }
    }

    /// Something that belongs at `at` is missing.
    pub(super) fn absent(at: &Location, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Absent,
            ..Self::new(at, message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what to do about it, if that is known.
    #[must_use]
    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Its location.
    pub(super) fn at(&self) -> &Location {
        &self.at
    }

    /// Its kind.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The mistake as shown to the user.
    pub(super) fn into_error(self, document: &Document) -> ConfigError {
        ConfigError {
            location: document.describe(&self.at),
            message: self.message,
            hint: self.hint,
        }
    }
}
