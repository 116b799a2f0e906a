//! Locations of values and mistakes: turns byte offsets of the configuration file into lines and columns.
//!
//! This module must never know what the file means.

/// The text of the configuration file, with an index of its lines.
pub(super) struct Document {
    name: String,
    text: String,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

/// The origin of a value or mistake. Mistakes are reported in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Location {
    /// A line and column of `.env`, counted from 1.
    DotEnv(usize, usize),
    /// A whole file, named as the user named it.
    Path(String),
    /// A byte offset of the configuration file.
    File(usize),
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl Document {
    /// A document with this text, from a file that the user knows as `name`.
    pub(super) fn new(name: impl Into<String>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let starts = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self {
            name: name.into(),
            text,
            lines,
        }
    }

    /// The text without a byte order mark.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The file's name as the user knows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The line of the nearest `[table]` header at or above `line`.
    pub(super) fn header(&self, line: usize) -> Option<usize> {
        let is_header = |start: &usize| {
            let text = self.text[*start..].trim_start_matches([' ', '\t']);
            text.starts_with('[')
        };
        let above = &self.lines[..line.min(self.lines.len())];
        above.iter().rposition(is_header).map(|at| at + 1)
    }

    /// The column of a byte offset in characters, counted from 1.
    fn column(&self, offset: usize) -> usize {
        let offset = self.text.floor_char_boundary(offset.min(self.text.len()));
        let start = self.lines[self.line(offset) - 1];
        self.text[start..offset].chars().count() + 1
    }

    /// A location as shown to the user.
    pub(super) fn describe(&self, at: &Location) -> String {
        match at {
            Location::DotEnv(line, column) => format!(".env:{line}:{column}"),
            Location::Path(path) => path.clone(),
            Location::File(offset) => format!(
                "{}:{}:{}",
                self.name,
                self.line(*offset),
                self.column(*offset)
            ),
            Location::Variable(name) => format!("environment, {name}"),
            Location::Flag(flag) => format!("command line, {flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let document = Document::new("k.toml", "\u{feff}ab\r\n\nключ = 1\n");
        for (found, expect) in [
            ("ab", "k.toml:1:1"),
            ("ключ", "k.toml:3:1"),
            ("= 1", "k.toml:3:6"),
        ] {
            let offset = document.text().find(found).unwrap();
            assert_eq!(document.describe(&Location::File(offset)), expect);
        }
        assert_eq!(
            document.describe(&Location::File(document.text().len())),
            "k.toml:4:1"
        );
        assert_eq!(document.describe(&Location::File(usize::MAX)), "k.toml:4:1");
        assert_eq!(Document::new("e", "").describe(&Location::File(0)), "e:1:1");
    }
}
