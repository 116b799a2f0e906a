//! A string from any source, and what may be said about it: one that may be secret is never shown.
//!
//! This module must never know where in a schema the string stands.

use super::display;
use super::location::Location;
use super::problem::Problem;
use super::report::Report;
use super::values;

/// A string with its variables put in, from whichever source.
///
/// It has no `Debug`, since it may hold a secret.
pub(super) struct Text<'w> {
    report: &'w Report<'w>,
    /// The string itself.
    pub(super) value: String,
    /// The string as written, without the variables' values.
    written: String,
    /// Where it stands.
    pub(super) at: Location,
    /// What it is called: `server.listen`, `KEYPOOL_LISTEN`, `--listen`.
    pub(super) name: String,
}

impl<'w> Text<'w> {
    /// A string of the file: as written, and with its variables put in.
    pub(super) fn from_file(
        report: &'w Report<'w>,
        at: Location,
        name: &str,
        written: &str,
        value: String,
    ) -> Self {
        Self {
            report,
            value,
            written: written.to_owned(),
            at,
            name: name.to_owned(),
        }
    }

    /// An environment variable; an empty one counts as unset.
    pub(super) fn variable(report: &'w Report<'w>, name: &str) -> Option<Self> {
        let value = report.vars().get(name)?;
        Some(Self::from_outside(
            report,
            report.vars().at(name),
            name,
            value,
        ))
    }

    /// A flag of the command line.
    pub(super) fn flag(
        report: &'w Report<'w>,
        name: &'static str,
        value: Option<&str>,
    ) -> Option<Self> {
        Some(Self::from_outside(
            report,
            Location::Flag(name),
            name,
            value?,
        ))
    }

    fn from_outside(report: &'w Report<'w>, at: Location, name: &str, value: &str) -> Self {
        Self {
            report,
            value: value.to_owned(),
            written: value.to_owned(),
            at,
            name: name.to_owned(),
        }
    }

    /// Where mistakes go.
    pub(super) fn report(&self) -> &'w Report<'w> {
        self.report
    }

    /// The same place and name with another value.
    pub(super) fn with(&self, value: &str) -> Self {
        Self {
            value: value.to_owned(),
            written: String::new(),
            at: self.at.clone(),
            name: self.name.clone(),
            ..*self
        }
    }

    /// Reports a mistake about the value without showing it.
    pub(super) fn invalid(&self, what: &str) {
        self.report
            .add(Problem::new(&self.at, format!("`{}` {what}", self.name)));
    }

    /// What was written, for a message: without the variables' values.
    pub(super) fn shown(&self) -> String {
        display::value(&self.written)
    }

    /// Reports that something else was expected, and shows what was written.
    pub(super) fn must_be(&self, expected: &str, hint: Option<String>) {
        let message = format!("`{}` must be {expected}, found {}", self.name, self.shown());
        self.report
            .add(Problem::new(&self.at, message).maybe_hint(hint));
    }

    /// What `read` makes of the value; `expected` says what that takes.
    pub(super) fn read<T>(
        &self,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = read(&self.value);
        if value.is_none() {
            self.must_be(expected, None);
        }
        value
    }

    /// One of several words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == self.value) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint =
            display::nearest(&self.value, &names).map(|near| format!("did you mean \"{near}\"?"));
        self.must_be(&any_of(words), hint);
        None
    }

    /// A text that is not empty and has no control characters: a name of a model, a group, a file.
    pub(super) fn label(self) -> Option<String> {
        match values::label_mistake(&self.value) {
            Some(mistake) => {
                self.invalid(mistake);
                None
            }
            None => Some(self.value),
        }
    }
}

/// What is expected where one of several words stands.
pub(super) fn any_of<T>(words: &[(&'static str, T)]) -> String {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    format!("one of {}", display::alternatives(&names))
}

/// The value of the last source that has one. All are read, so that each mistake is told.
pub(super) fn last_valid<'w, T, const N: usize>(
    file: Option<Text<'w>>,
    outside: [Option<Text<'w>>; N],
    read: impl Fn(&Text<'w>) -> Option<T>,
) -> Option<T> {
    file.into_iter()
        .chain(outside.into_iter().flatten())
        .filter_map(|text| read(&text))
        .last()
}
