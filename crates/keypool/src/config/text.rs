//! A string from any source. Messages about it never show what may be secret.
//!
//! This module must never know which setting the string belongs to.

use super::display;
use super::location::Location;
use super::problem::Problem;
use super::report::Report;
use super::values;

/// A string from any source, with its variables replaced.
///
/// It has no `Debug`, because it may contain a secret.
pub(super) struct Text<'w> {
    report: &'w Report<'w>,
    /// The value.
    pub(super) value: String,
    /// The string as written, with `${NAME}` in place of the variables' values.
    written: String,
    /// Its location.
    pub(super) at: Location,
    /// Its name in messages: `server.listen`, `KEYPOOL_LISTEN`, `--listen`.
    pub(super) name: String,
    /// The names of the variables in it.
    variables: Vec<String>,
}

impl<'w> Text<'w> {
    /// A string as written, and with its variables replaced.
    pub(super) fn new(
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
            variables: values::references(written),
        }
    }

    /// An environment variable; an empty one counts as unset.
    pub(super) fn variable(report: &'w Report<'w>, name: &str) -> Option<Self> {
        let value = report.vars().get(name)?;
        let at = report.vars().at(name);
        let text = Self::new(report, at, name, value, value.to_owned());
        // What looks like a reference is part of the value.
        let variables = Vec::new();
        Some(Self { variables, ..text })
    }

    /// A command-line flag.
    pub(super) fn flag(
        report: &'w Report<'w>,
        name: &'static str,
        value: Option<&str>,
    ) -> Option<Self> {
        let (value, at) = (value?, Location::Flag(name));
        Some(Self::new(report, at, name, value, value.to_owned()))
    }

    /// Collects the mistakes.
    pub(super) fn report(&self) -> &'w Report<'w> {
        self.report
    }

    /// Another value with the same location and name.
    pub(super) fn with(&self, value: &str) -> Self {
        Self {
            value: value.to_owned(),
            written: String::new(),
            at: self.at.clone(),
            name: self.name.clone(),
            variables: self.variables.clone(),
            ..*self
        }
    }

    /// Its name and the variables that its value comes from: `pools.a.keys` (from `OPENAI_API_KEY`).
    pub(super) fn subject(&self) -> String {
        let names = self.variables.iter();
        let names: Vec<_> = names
            .map(|name| format!("`{}`", display::variable(name)))
            .collect();
        match names.is_empty() {
            true => format!("`{}`", self.name),
            false => format!("`{}` (from {})", self.name, names.join(", ")),
        }
    }

    /// Reports a mistake in the value without showing it. `problem` continues the sentence after the name.
    pub(super) fn invalid(&self, problem: &str) {
        self.report
            .add(Problem::new(&self.at, format!("`{}` {problem}", self.name)));
    }

    /// The string as written, for a message.
    pub(super) fn shown(&self) -> String {
        display::value(&self.written)
    }

    /// Reports what was expected, and shows what was written.
    pub(super) fn must_be(&self, expected: &str, hint: Option<String>) {
        let message = format!("`{}` must be {expected}, found {}", self.name, self.shown());
        self.report
            .add(Problem::new(&self.at, message).maybe_hint(hint));
    }

    /// Parses the value with `read`, or reports that it must be `expected`.
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

    /// Returns the value of the matching word, or reports the words that are allowed.
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

    /// Returns the value if it is not empty and has no control characters: the name of a model, a group or a file.
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

/// The description of a setting that takes one of several words.
pub(super) fn any_of<T>(words: &[(&'static str, T)]) -> String {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    format!("one of {}", display::alternatives(&names))
}

/// Returns the value of the last source that has a valid one. All are read, so that every mistake is reported.
pub(super) fn last_valid<'w, T, const N: usize>(
    file: Option<Text<'w>>,
    overrides: [Option<Text<'w>>; N],
    read: impl Fn(&Text<'w>) -> Option<T>,
) -> Option<T> {
    file.into_iter()
        .chain(overrides.into_iter().flatten())
        .filter_map(|text| read(&text))
        .last()
}
