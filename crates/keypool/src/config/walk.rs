//! Reads the parsed file field by field and keeps every location. A field that no schema reads is a mistake.
//!
//! This module must never know a particular section, and must never show a value that may be secret.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::display;
use super::location::Location;
use super::problem::Problem;
use super::report::Report;
use super::text::{Text, any_of};
use super::values;
use super::vars::Missing;

/// A table that is being read.
#[must_use = "`finish` reports the unknown fields"]
pub(super) struct Table<'w> {
    report: &'w Report<'w>,
    entries: &'w DeTable<'w>,
    at: Location,
    path: String,
    known_fields: Vec<&'static str>,
}

/// A value that is being read.
pub(super) struct Node<'w> {
    report: &'w Report<'w>,
    value: &'w Spanned<DeValue<'w>>,
    path: String,
}

impl<'w> Table<'w> {
    /// The whole file.
    pub(super) fn root(report: &'w Report<'w>, entries: &'w DeTable<'w>) -> Self {
        Self {
            report,
            entries,
            at: Location::File(0),
            path: String::new(),
            known_fields: Vec::new(),
        }
    }

    /// Collects the mistakes.
    pub(super) fn report(&self) -> &'w Report<'w> {
        self.report
    }

    /// The location of the table.
    pub(super) fn at(&self) -> &Location {
        &self.at
    }

    /// The field `name`, if it is set.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Node<'w>> {
        self.known_fields.push(name);
        let value = self.entries.get(name)?;
        Some(Node {
            report: self.report,
            value,
            path: self.path_of(name),
        })
    }

    /// A table in the field `name`.
    pub(super) fn table(&mut self, name: &'static str) -> Option<Table<'w>> {
        self.take(name)?.table()
    }

    /// The tables of a `[[name]]` list.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<Table<'w>> {
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let items = node.items(&format!("a list of tables, each under `[[{name}]]`"));
        items
            .unwrap_or_default()
            .into_iter()
            .filter_map(Node::table)
            .collect()
    }

    /// A string.
    pub(super) fn text(&mut self, name: &'static str) -> Option<Text<'w>> {
        self.take(name)?.text("a string")
    }

    /// A string that must be set.
    pub(super) fn required(&mut self, name: &'static str) -> Option<Text<'w>> {
        match self.take(name) {
            Some(node) => node.text("a string"),
            None => {
                self.report.add(Problem::absent(
                    &self.at,
                    format!("`{}` is missing", self.path_of(name)),
                ));
                None
            }
        }
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, name: &'static str) -> Option<Vec<Text<'w>>> {
        let items = self.take(name)?.items("a list of strings")?;
        Some(
            items
                .into_iter()
                .filter_map(|item| item.text("a string"))
                .collect(),
        )
    }

    /// A list of strings that are not empty and have no control characters.
    pub(super) fn labels(&mut self, name: &'static str) -> Option<Vec<String>> {
        Some(
            self.texts(name)?
                .into_iter()
                .filter_map(Text::label)
                .collect(),
        )
    }

    /// The location of the value of the field `name`.
    pub(super) fn location_of(&self, name: &str) -> Option<Location> {
        Some(Location::File(self.entries.get(name)?.span().start))
    }

    /// Warns if the field `name` is an empty list. `consequence` says what that means.
    pub(super) fn warn_if_empty(&self, name: &'static str, consequence: &str) {
        let Some(list) = self.entries.get(name) else {
            return;
        };
        if list
            .get_ref()
            .as_array()
            .is_some_and(|items| items.is_empty())
        {
            let warning = format!("`{}` is an empty list: {consequence}", self.path_of(name));
            self.report
                .warn_at(&Location::File(list.span().start), &warning);
        }
    }

    /// One of several words, each with its value.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        self.take(name)?.text(&any_of(words))?.one_of(words)
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, name: &'static str) -> Option<bool> {
        let node = self.take(name)?;
        node.or_must_be(node.value.get_ref().as_bool(), "true or false")
    }

    /// A whole number in `range`.
    pub(super) fn whole<T>(&mut self, name: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + Into<i128> + TryFrom<i128>,
    {
        let node = self.take(name)?;
        let (least, most): (i128, i128) = ((*range.start()).into(), (*range.end()).into());
        let number = node
            .whole()
            .filter(|number| (least..=most).contains(number));
        if number.is_none() {
            node.must_be(&match most {
                most if most < i128::from(u32::MAX) => {
                    format!("a whole number from {least} to {most}")
                }
                _ => format!("a whole number of at least {least}"),
            });
        }
        T::try_from(number?).ok()
    }

    /// A share from 0 to 1. `zero` says whether 0 itself is allowed.
    pub(super) fn share(&mut self, name: &'static str, zero: bool) -> Option<f64> {
        let node = self.take(name)?;
        let number = match node.value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(_) => node
                .whole()
                .filter(|n| (0..=1).contains(n))
                .map(|n| if n == 1 { 1.0 } else { 0.0 }),
            _ => None,
        };
        let number = number.filter(|n| (0.0..=1.0).contains(n) && (zero || *n > 0.0));
        let expected = match zero {
            true => "a number from 0 to 1",
            false => "a number above 0, up to 1",
        };
        node.or_must_be(number, expected)
    }

    /// A duration.
    pub(super) fn duration(&mut self, name: &'static str) -> Option<Duration> {
        const EXPECTED: &str =
            "a duration such as \"30s\", \"500ms\" or \"5m\", of at most 365 days";
        let text = self.take(name)?.text(EXPECTED)?;
        text.read(EXPECTED, values::duration)
    }

    /// A duration above zero.
    pub(super) fn time(&mut self, name: &'static str) -> Option<Duration> {
        const EXPECTED: &str =
            "a duration above zero such as \"30s\", \"500ms\" or \"5m\", of at most 365 days";
        let text = self.take(name)?.text(EXPECTED)?;
        text.read(EXPECTED, |value| {
            values::duration(value).filter(|duration| !duration.is_zero())
        })
    }

    /// A size in bytes, above zero.
    pub(super) fn size(&mut self, name: &'static str) -> Option<u64> {
        const EXPECTED: &str = "a size such as \"64MiB\" or \"512KiB\", from 1 byte to 1TiB";
        let node = self.take(name)?;
        if !node.value.get_ref().is_integer() {
            return node.text(EXPECTED)?.read(EXPECTED, values::size);
        }
        node.or_must_be(node.whole().and_then(values::size_in_range), EXPECTED)
    }

    /// The entries of a table whose field names the user chooses, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(String, Location, Node<'w>)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let named = entries.into_iter().map(|(key, value)| {
            let node = Node {
                report: self.report,
                value,
                path: self.path_of(key.get_ref()),
            };
            (
                key.get_ref().to_string(),
                Location::File(key.span().start),
                node,
            )
        });
        named.collect()
    }

    /// Reports the unknown fields.
    pub(super) fn finish(self) {
        for (key, value) in self.entries {
            let name: &str = key.get_ref();
            if self.known_fields.contains(&name) {
                continue;
            }
            let what = if value.get_ref().is_table() {
                "table"
            } else {
                "field"
            };
            let parent = match &*self.path {
                "" => "at the top level".to_owned(),
                path => format!("in `{path}`"),
            };
            let hint = match display::nearest(name, &self.known_fields) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known there: {}", self.known_fields.join(", ")),
            };
            let message = format!("unknown {what} {} {parent}", display::unknown_name(name));
            self.report
                .add(Problem::new(&Location::File(key.span().start), message).hint(hint));
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            display::bare_name(name)
        } else {
            format!("{}.{}", self.path, display::bare_name(name))
        }
    }
}

impl<'w> Node<'w> {
    /// The location of the value.
    pub(super) fn at(&self) -> Location {
        Location::File(self.value.span().start)
    }

    /// Its name in messages: `pools.vision.keys`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value itself, for settings with several forms.
    pub(super) fn value(&self) -> &'w DeValue<'w> {
        self.value.get_ref()
    }

    /// The value as a table.
    pub(super) fn table(self) -> Option<Table<'w>> {
        let at = self.at();
        let Some(entries) = self.value.get_ref().as_table() else {
            self.must_be("a table");
            return None;
        };
        Some(Table {
            report: self.report,
            entries,
            at,
            path: self.path,
            known_fields: Vec::new(),
        })
    }

    /// The items of a list. `expected` describes the list in the message if it is something else.
    pub(super) fn items(&self, expected: &str) -> Option<Vec<Node<'w>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            self.must_be(expected);
            return None;
        };
        Some(
            array
                .iter()
                .map(|value| Node {
                    report: self.report,
                    value,
                    path: self.path.clone(),
                })
                .collect(),
        )
    }

    /// The value as a string with its variables replaced. `expected` describes it in the message if it is something else.
    pub(super) fn text(&self, expected: &str) -> Option<Text<'w>> {
        let Some(written) = self.value.get_ref().as_str() else {
            self.must_be(expected);
            return None;
        };
        if values::has_stray_reference(written) {
            self.report.warn_stray_reference(&self.at(), &self.path);
        }
        match self.report.vars().interpolate(written) {
            Ok(value) => {
                let (report, at) = (self.report, self.at());
                Some(Text::new(report, at, &self.path, written, value))
            }
            Err(missing) => {
                missing
                    .into_iter()
                    .for_each(|missing| self.report.add(self.missing_variable(missing)));
                None
            }
        }
    }

    /// A date and time written without quotes, as text.
    pub(super) fn date(&self) -> Option<String> {
        self.value.get_ref().as_datetime().map(ToString::to_string)
    }

    /// The value that was read; if there is none, reports that it is not what was expected.
    pub(super) fn or_must_be<T>(&self, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            self.must_be(expected);
        }
        value
    }

    /// Reports that the value is not what was expected.
    pub(super) fn must_be(&self, expected: &str) {
        self.report.add(self.unexpected(expected));
    }

    /// Reports that the value is not what was expected, and what to do.
    pub(super) fn must_be_with_hint(&self, expected: &str, hint: &str) {
        self.report.add(self.unexpected(expected).hint(hint));
    }

    fn unexpected(&self, expected: &str) -> Problem {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string".to_owned(),
            // A number in place of a string may be a key without its quotes: do not show it.
            DeValue::Integer(_) | DeValue::Float(_) if !expected.contains("number") => {
                "a number".to_owned()
            }
            DeValue::Integer(number) => {
                format!(
                    "the whole number {}",
                    display::bare_name(&number.to_string())
                )
            }
            DeValue::Float(number) => format!("the number {}", display::bare_name(number.as_str())),
            DeValue::Boolean(on) => on.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        let message = format!("`{}` must be {expected}, found {found}", self.path);
        Problem::new(&self.at(), message)
    }

    /// The value as a whole number.
    pub(super) fn whole(&self) -> Option<i128> {
        let number = self.value.get_ref().as_integer()?;
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn missing_variable(&self, missing: Missing) -> Problem {
        let (name, state) = match &missing {
            Missing::Unset(name) => (name, "not set"),
            Missing::Empty(name) => (name, "empty"),
        };
        let name = display::variable(name);
        let message = format!(
            "`{}` uses the environment variable `{name}`, which is {state}",
            self.path
        );
        Problem::new(&self.at(), message)
            .hint(format!("set `{name}` in the environment or in .env"))
    }
}
