//! Parser for `.env`: `NAME=value` lines, as shells and other programs write them.
//!
//! Not a crate, because several keys may be on one line with spaces and without quotes (`NAME=key1, key2`), and because
//! an error must give the line number and never quote the line. This module must never read the environment itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::values::{self, is_variable, replace};

/// The contents of a `.env` file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DotEnv {
    /// The variables. Of two with the same name, the later.
    pub(super) values: BTreeMap<String, Assignment>,
    /// The variables that values refer to.
    pub(super) references: BTreeSet<String>,
    /// Mistakes, each with its line, counted from 1.
    pub(super) mistakes: Vec<(usize, &'static str)>,
}

/// The value of a variable, and its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The value, without its quotes.
    pub(super) value: String,
    /// The line where the value starts, counted from 1.
    pub(super) line: usize,
    /// The column where the value or its quote starts, in characters, counted from 1.
    pub(super) column: usize,
    /// Whether it contains a `${` that does not start a reference.
    pub(super) has_stray_reference: bool,
}

/// Parses `text`. `${NAME}` is replaced by a variable of the process, or of a line above; an unknown one is empty.
pub(super) fn parse(text: &str, process: &BTreeMap<String, String>) -> DotEnv {
    let mut out = DotEnv::default();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    let references = RefCell::new(BTreeSet::new());
    while !rest.is_empty() {
        let known = |name: &str| {
            references.borrow_mut().insert(name.to_owned());
            process
                .get(name)
                .or_else(|| out.values.get(name).map(|assignment| &assignment.value))
                .cloned()
                .unwrap_or_default()
        };
        let has_stray_reference = Cell::new(false);
        let expand = |raw: &str| {
            has_stray_reference.set(has_stray_reference.get() || values::has_stray_reference(raw));
            replace(raw, known)
        };
        let (entry, used) = match entry(rest, expand) {
            Ok((entry, used)) => (entry, used),
            Err(mistake) => {
                out.mistakes.push((line, mistake));
                (None, line_length(rest))
            }
        };
        if let Some((name, value, at)) = entry {
            let column = rest[..at].chars().count() + 1;
            let assignment = Assignment {
                value,
                line,
                column,
                has_stray_reference: has_stray_reference.get(),
            };
            out.values.insert(name.to_owned(), assignment);
        }
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    out.references = references.into_inner();
    out
}

/// For an entry its name, its value and the byte offset of the value; and the number of bytes read.
type Entry<'t> = (Option<(&'t str, String, usize)>, usize);

/// Parses one entry, blank line or comment at the start of `rest`, including the line break, and expands references.
fn entry(rest: &str, expand: impl Fn(&str) -> String) -> Result<Entry<'_>, &'static str> {
    let end = line_length(rest);
    let line = rest[..end].trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok((None, end));
    }
    let line = line
        .strip_prefix("export")
        .filter(|l| l.starts_with([' ', '\t']))
        .unwrap_or(line);
    let Some((name, _)) = line.split_once('=') else {
        return Err("expected `NAME=value`, found no `=`");
    };
    let name = name.trim();
    if !is_variable(name) {
        return Err(
            "expected `NAME=value`, found a name with characters other than letters, digits and `_`",
        );
    }
    let value_at = rest.find('=').map_or(end, |at| at + 1);
    let value_at = end - rest[value_at..end].trim_start().len();
    let value = &rest[value_at..];
    let (value, used) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) if value_at < end => quoted(value, quote, expand)?,
        _ => (expand(bare(&rest[value_at..end])), end - value_at),
    };
    Ok((Some((name, value, value_at)), value_at + used))
}

/// The length of the first line, including the line break.
fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |at| at + 1)
}

/// A value without quotes: everything before a space and `#`, trimmed.
fn bare(line: &str) -> &str {
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].ends_with([' ', '\t']) || *at == 0);
    line[..comment.map_or(line.len(), |(at, _)| at)].trim()
}

/// A value in quotes, possibly over several lines; and its length in bytes, including the rest of its last line.
fn quoted(
    text: &str,
    quote: char,
    expand: impl Fn(&str) -> String,
) -> Result<(String, usize), &'static str> {
    let mut value = String::new();
    // The text since the last escape, in which variables are still to be replaced.
    let mut plain = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                let after = at + 1;
                let end = after + line_length(&text[after..]);
                let tail = text[after..end].trim();
                if !tail.is_empty() && !tail.starts_with('#') {
                    return Err("expected the end of the line after the closing quote");
                }
                value.push_str(&if quote == '"' { expand(&plain) } else { plain });
                return Ok((value, end));
            }
            '\\' if quote == '"' => {
                let escaped = match chars.next() {
                    Some((_, 'n')) => "\n",
                    Some((_, 'r')) => "\r",
                    Some((_, 't')) => "\t",
                    Some((at, c)) if "\\\"'$`".contains(c) => &text[at..at + c.len_utf8()],
                    _ => {
                        return Err(
                            "expected one of n, r, t, \\, \", ' and $ after `\\` in double quotes",
                        );
                    }
                };
                value.push_str(&expand(&std::mem::take(&mut plain)));
                value.push_str(escaped);
            }
            c => plain.push(c),
        }
    }
    Err("the quote that opens here is never closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, values: &[(&str, &str)], mistakes: &[(usize, &str)]) {
        let process = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        let parsed = parse(text, &process);
        let expect = values
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let read: BTreeMap<String, String> = parsed
            .values
            .into_iter()
            .map(|(name, assignment)| (name, assignment.value))
            .collect();
        assert_eq!(read, expect, "{text:?}");
        let found: Vec<_> = parsed
            .mistakes
            .iter()
            .map(|(line, text)| (*line, *text))
            .collect();
        assert_eq!(found.len(), mistakes.len(), "{found:?}");
        for ((line, text), (expect_line, words)) in found.iter().zip(mistakes) {
            assert!(
                line == expect_line && text.contains(words),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn reads_what_people_write() {
        check(
            "GEMINI_API_KEY=key1, key2,key3\n",
            &[("GEMINI_API_KEY", "key1, key2,key3")],
            &[],
        );
        check(
            "\u{feff}A=1\r\n\r\n# no\n  export B = 2 # two\nC=x#y\nD=\nE= # e",
            &[("A", "1"), ("B", "2"), ("C", "x#y"), ("D", ""), ("E", "")],
            &[],
        );
        check(
            "A='a # ${HOME}' # c\nB=\"b\\\"\\n\\$ ${HOME} \\${HOME}\"\n",
            &[("A", "a # ${HOME}"), ("B", "b\"\n$ /root ${HOME}")],
            &[],
        );
        check("A=\"1\n2\"\nB='3\n4'", &[("A", "1\n2"), ("B", "3\n4")], &[]);
        check(
            "A=1\nA=2\nB=${A}-${HOME}-${NONE}\nexport=1\nexportX=2",
            &[
                ("A", "2"),
                ("B", "2-/root-"),
                ("export", "1"),
                ("exportX", "2"),
            ],
            &[],
        );
        check("A=it's=b\nB=", &[("A", "it's=b"), ("B", "")], &[]);
    }

    #[test]
    fn every_value_has_its_position() {
        let text =
            "\u{feff}# ключ\nA=1\r\n  export B = 'x\ny' # z\n\tC=\"\u{e9}\"\nA=\t${B} \nD=\n";
        let locations: Vec<_> = parse(text, &BTreeMap::new())
            .values
            .into_iter()
            .filter(|(_, assignment)| !assignment.value.is_empty())
            .map(|(name, assignment)| (name, assignment.line, assignment.column))
            .collect();
        let expect = [("A", 6, 4), ("B", 3, 14), ("C", 5, 4)];
        assert_eq!(
            locations,
            expect.map(|(name, line, column)| (name.to_owned(), line, column))
        );
    }

    #[test]
    fn every_mistake_has_its_line() {
        check(
            "A=1\nno equals\nB='x\ny'\n1C=2\nD=\"open\nE=\"x\" y\nF=\"\\q\"\nG=1",
            &[("A", "1"), ("B", "x\ny"), ("G", "1")],
            &[
                (2, "NAME=value"),
                (5, "characters other than"),
                (6, "after the closing quote"),
                (7, "after the closing quote"),
                (8, "after `\\`"),
            ],
        );
        check(
            "A=1\nB=\"open\nC=2",
            &[("A", "1"), ("C", "2")],
            &[(2, "never closed")],
        );
    }
}
