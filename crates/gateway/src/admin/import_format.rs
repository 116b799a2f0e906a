//! The formats of an import: text, CSV, JSON. Must never know a pool.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::openapi::field_names;
use super::problem::Problem;
use crate::resources::KeyFields;
use crate::telemetry::redact_any;

/// Maximum number of values of an entry in JSON, on average. A key has fewer fields.
const MAX_VALUES: usize = 16;

/// Maximum number of lines.
pub(super) const MAX_LINES: usize = 100_000;

/// The format of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Csv,
    Json,
}

/// One line that is not empty.
#[derive(Debug)]
pub(super) struct Line {
    /// From 1; in JSON, that of the entry.
    pub(super) number: usize,
    pub(super) name: Option<String>,
    /// The key, or why it is none.
    pub(super) entry: Result<Entry, String>,
}

/// The secret and the settings of a key. The secret is not checked yet.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) fields: KeyFields,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:?})", self.fields)
    }
}

impl Format {
    /// The lines of `body`, at most `limit`.
    pub(super) fn lines(self, body: &[u8], limit: usize) -> Result<Vec<Line>, Problem> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let lines = match self {
            Self::Text => text(body).take(limit + 1).collect(),
            Self::Csv => csv(body, limit)?,
            Self::Json => json(body, limit)?,
        };
        match lines.len() > limit {
            true => Err(too_large()),
            false => Ok(lines),
        }
    }
}

/// The import is beyond its limits.
pub(super) fn too_large() -> Problem {
    let detail = format!(
        "one import takes at most {MAX_LINES} lines and 64 MiB, and nothing was imported: split it"
    );
    Problem::new(
        http::StatusCode::PAYLOAD_TOO_LARGE,
        "import_too_large",
        detail,
    )
}

/// One key per line. Empty lines and lines that begin with `#` are left out.
fn text(body: &[u8]) -> impl Iterator<Item = Line> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| {
            let line = line.trim_ascii();
            !line.is_empty() && !line.starts_with(b"#")
        })
        .map(|(index, line)| Line {
            number: index + 1,
            name: None,
            entry: match std::str::from_utf8(line) {
                Ok(key) => Ok(Entry {
                    key: key.trim().to_owned(),
                    fields: KeyFields::default(),
                }),
                Err(_) => Err("the line is not UTF-8".to_owned()),
            },
        })
}

fn csv(body: &[u8], limit: usize) -> Result<Vec<Line>, Problem> {
    let mut reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(::csv::Trim::All)
        .from_reader(body);
    let mut columns = ["key".to_owned(), "name".to_owned()].to_vec();
    let (mut lines, mut counter) = (Vec::new(), LineCounter::default());
    for (index, record) in reader.records().enumerate() {
        if lines.len() > limit {
            return Err(too_large());
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let number = counter.line_at(body, error.position());
                lines.push(malformed(number, "the line is not UTF-8 or not CSV"));
                continue;
            }
        };
        let number = counter.line_at(body, record.position());
        if index == 0 && is_header(&record) {
            columns = header(&record)?;
            continue;
        }
        if record.iter().any(|field| !field.is_empty()) {
            lines.push(row(number, &columns, &record));
        }
    }
    Ok(lines)
}

/// Counts lines up to a position. The reader's own count is one behind after a line that ends with CR LF.
#[derive(Default)]
struct LineCounter {
    counted: usize,
    ends: usize,
}

impl LineCounter {
    /// The number of the line on which the record at this position begins.
    fn line_at(&mut self, body: &[u8], position: Option<&::csv::Position>) -> usize {
        let at = position.map_or(0, |at| usize::try_from(at.byte()).unwrap_or(usize::MAX));
        let blank = body.get(at..).unwrap_or_default().iter();
        let blank = blank
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let counted = self.counted.max(at.min(body.len()) + blank);
        for end in self.counted..counted {
            let is_crlf = body[end] == b'\r' && body.get(end + 1) == Some(&b'\n');
            self.ends += usize::from(matches!(body[end], b'\r' | b'\n') && !is_crlf);
        }
        self.counted = counted;
        self.ends + 1
    }
}

fn malformed(number: usize, error: &str) -> Line {
    Line {
        number,
        name: None,
        entry: Err(error.to_owned()),
    }
}

/// Names that other programs give to the column of the keys. They are refused as columns, not imported as keys.
const NAMES_OF_OTHERS: [&str; 5] = ["api_key", "apikey", "api-key", "secret", "token"];

/// Whether the first line names the columns.
fn is_header(record: &::csv::StringRecord) -> bool {
    let first = record.get(0).unwrap_or_default().to_ascii_lowercase();
    record.iter().any(|name| name.eq_ignore_ascii_case("key"))
        || first == "name"
        || NAMES_OF_OTHERS.contains(&&*first)
        || known_fields().contains(&first)
}

/// The names of the columns.
fn header(record: &::csv::StringRecord) -> Result<Vec<String>, Problem> {
    let known = known_fields();
    let names: Vec<String> = record.iter().map(str::to_ascii_lowercase).collect();
    let is_known = |name: &&String| {
        name.is_empty() || matches!(&***name, "key" | "name") || known.contains(*name)
    };
    let unknown: Vec<String> = names
        .iter()
        .filter(|name| !is_known(name))
        .map(|name| {
            format!(
                "the column `{}` is not known: the columns are key, name, {}",
                redact_any(name),
                known.join(", ")
            )
        })
        .collect();
    match unknown.is_empty() {
        true if names.iter().any(|name| name == "key") => Ok(names),
        true => Err(Problem::invalid(vec![
            "the first line names columns, and none of them is `key`".to_owned(),
        ])),
        false => Err(Problem::invalid(unknown)),
    }
}

fn row(number: usize, columns: &[String], record: &::csv::StringRecord) -> Line {
    if record.len() > columns.len() {
        return malformed(number, "the line has more fields than there are columns");
    }
    let mut fields = Map::new();
    let cells = columns.iter().zip(record.iter());
    for (column, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
        let number = cell.parse::<u32>().ok().filter(|_| is_number(column));
        let value = number.map_or_else(|| Value::from(cell), Value::from);
        fields.insert(column.clone(), value);
    }
    entry(number, fields)
}

fn is_number(column: &str) -> bool {
    matches!(
        column,
        "weight" | "max_concurrent" | "rpm" | "input_tpm" | "output_tpm"
    )
}

fn json(body: &[u8], limit: usize) -> Result<Vec<Line>, Problem> {
    let wrong =
        |detail: String| Problem::new(http::StatusCode::BAD_REQUEST, "invalid_body", detail);
    if number_of_values(body) > limit * MAX_VALUES {
        return Err(too_large());
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| wrong(format!("the body is not JSON: {error}")))?;
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove("keys") {
            Some(Value::Array(list)) if object.is_empty() => list,
            _ => {
                return Err(wrong(
                    "the body must be a list of keys, or an object with the list `keys`".to_owned(),
                ));
            }
        },
        _ => return Err(wrong("the body must be a list of keys".to_owned())),
    };
    let line = |(index, value): (usize, Value)| match value {
        Value::String(key) => Line {
            number: index + 1,
            name: None,
            entry: Ok(Entry {
                key,
                fields: KeyFields::default(),
            }),
        },
        Value::Object(fields) => entry(index + 1, fields),
        _ => malformed(
            index + 1,
            "an entry must be a key, or an object with the fields of a key",
        ),
    };
    let lines = list.into_iter().enumerate().map(line);
    Ok(lines.take(limit + 1).collect())
}

/// The greatest number of values that a JSON text can have, by its commas and brackets. Parsed, the smallest ones take many
/// times their length.
fn number_of_values(body: &[u8]) -> usize {
    let (mut values, mut in_text, mut is_escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

/// The fields of a key beside its secret and its name.
fn known_fields() -> &'static [String] {
    static KNOWN: LazyLock<Vec<String>> = LazyLock::new(field_names::<KeyFields>);
    &KNOWN
}

/// A key given by its fields.
fn entry(number: usize, mut fields: Map<String, Value>) -> Line {
    let mut text = |name: &str| match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` must be a string")),
    };
    let (key, name) = (text("key"), text("name"));
    let unknown = fields.keys().find(|field| !known_fields().contains(field));
    let entry = match (key, &name, unknown) {
        (Err(error), _, _) => Err(error),
        (_, Err(error), _) => Err(error.clone()),
        (_, _, Some(field)) => Err(format!("`{}` is not known", redact_any(field))),
        (Ok(None), _, _) => Err("`key` is missing".to_owned()),
        (Ok(Some(key)), _, None) => serde_json::from_value(Value::Object(fields))
            .map(|fields| Entry { key, fields })
            .map_err(|error| redact_any(&error.to_string())),
    };
    Line {
        number,
        name: name.unwrap_or_default(),
        entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, name and key of each line; the error in place of the key.
    fn read(format: Format, body: &str) -> Vec<(usize, Option<String>, String)> {
        let lines = format.lines(body.as_bytes(), 1000).unwrap();
        let shown = |line: Line| {
            let key = line
                .entry
                .map_or_else(|error| format!("! {error}"), |entry| entry.key);
            (line.number, line.name, key)
        };
        lines.into_iter().map(shown).collect()
    }

    fn line(number: usize, name: &str, key: &str) -> (usize, Option<String>, String) {
        (
            number,
            Some(name.to_owned()).filter(|name| !name.is_empty()),
            key.to_owned(),
        )
    }

    #[test]
    fn text_has_one_key_per_line() {
        let body = "\u{feff}sk-1\r\n\n# a comment\n  sk-2\t\nsk 3";
        let expected = [
            line(1, "", "sk-1"),
            line(4, "", "sk-2"),
            line(5, "", "sk 3"),
        ];
        assert_eq!(read(Format::Text, body), expected);
        let lines = Format::Text.lines(b"ok\n\xff\xfe", 10).unwrap();
        assert!(lines[1].entry.is_err());
        assert!(Format::Text.lines(b"a\nb\nc", 2).is_err());
    }

    #[test]
    fn csv_is_read_with_and_without_a_header() {
        let body =
            "\u{feff}Name,KEY,weight\r\n\"main, \"\"one\"\"\",sk-1,2\n,,\n\"two\nlines\",sk-2,\n";
        let expected = [
            line(2, "main, \"one\"", "sk-1"),
            line(4, "two\nlines", "sk-2"),
        ];
        assert_eq!(read(Format::Csv, body), expected);
        let body = "sk-1\r\n\r\n\"sk-2\"\r\nsk-3\r\rsk-4\n";
        let expected = [
            line(1, "", "sk-1"),
            line(3, "", "sk-2"),
            line(4, "", "sk-3"),
            line(6, "", "sk-4"),
        ];
        assert_eq!(read(Format::Csv, body), expected);
        let expected = [
            line(1, "", "sk-1"),
            line(2, "b", "sk-2"),
            line(3, "", "! the line has more fields than there are columns"),
        ];
        assert_eq!(read(Format::Csv, "sk-1\nsk-2,b\nsk-3,c,d"), expected);
        for wrong in [
            "key,nmae\nx,y",
            "api_key,name\nx,y",
            "Secret\nx",
            "name\ny",
            "weight,rpm\n1,2",
        ] {
            assert!(Format::Csv.lines(wrong.as_bytes(), 10).is_err(), "{wrong}");
        }
        assert!(Format::Csv.lines(b"sk-1\rsk-2\rsk-3", 2).is_err());
        let lines = Format::Csv.lines(b"key,weight\nx,many\ny,7", 10).unwrap();
        assert!(lines[0].entry.is_err());
        assert_eq!(lines[1].entry.as_ref().unwrap().fields.weight, Some(7));
    }

    #[test]
    fn json_is_a_list_of_keys_or_objects() {
        let body = r#"["sk-1", {"key":"sk-2","name":"b","weight":3}, 7, {"key":8}, {"key":"k","nmae":"x"}]"#;
        let expected = [
            line(1, "", "sk-1"),
            line(2, "b", "sk-2"),
            line(
                3,
                "",
                "! an entry must be a key, or an object with the fields of a key",
            ),
            line(4, "", "! `key` must be a string"),
            line(5, "", "! `nmae` is not known"),
        ];
        assert_eq!(read(Format::Json, body), expected);
        assert_eq!(
            read(Format::Json, r#"{"keys":["sk-1"]}"#),
            [line(1, "", "sk-1")]
        );
        assert!(Format::Json.lines(br#"["a","b","c"]"#, 2).is_err());
        let many = format!(r#"["{}"]"#, ",[{".repeat(100));
        assert!(Format::Json.lines(many.as_bytes(), 1).is_ok(), "one text");
        let many = format!("[[{}7]]", "7,".repeat(100));
        assert!(Format::Json.lines(many.as_bytes(), 1).is_err());
        for wrong in ["", "7", "{}", r#"{"keys":["a"],"more":1}"#] {
            assert!(Format::Json.lines(wrong.as_bytes(), 10).is_err(), "{wrong}");
        }
    }
}
