//! Mistakes as shown to the user: the location, what is wrong, what to do.
//!
//! This module must never hold the value of a key or token.

use std::fmt;

/// All mistakes in a configuration, in the order of their locations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Errors(pub(crate) Vec<ConfigError>);

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// `keypool.toml:12:3`, `.env:3:16`, or `environment, OPENAI_BASE_URL`.
    pub(crate) location: String,
    /// What is wrong: what was expected, and what was found.
    pub(crate) message: String,
    /// What to do, if that is known.
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)?;
        self.hint
            .as_ref()
            .map_or(Ok(()), |hint| write!(f, "\n    {hint}"))
    }
}

impl std::error::Error for Errors {}
