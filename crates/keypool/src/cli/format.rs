//! The formats of lists of keys that are imported and exported.

use std::path::Path;

use clap::ValueEnum;

/// The format of a list of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One key per line.
    Text,
    /// A table with the names of the columns in the first line.
    Csv,
    /// A list.
    Json,
}

impl Format {
    /// The format that the ending of a file's name stands for.
    pub(super) fn of(file: &Path) -> Self {
        let ending = file.extension().map(|ending| ending.to_ascii_lowercase());
        match ending.as_deref().and_then(|ending| ending.to_str()) {
            Some("csv") => Self::Csv,
            Some("json") => Self::Json,
            _ => Self::Text,
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Csv => "text/csv",
            Self::Json => "application/json",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_name_tells_the_format() {
        for (name, format) in [
            ("keys.csv", Format::Csv),
            ("a/KEYS.JSON", Format::Json),
            ("keys.txt", Format::Text),
            ("csv", Format::Text),
            ("-", Format::Text),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
