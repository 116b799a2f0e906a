//! Names that code and documentation must agree on: settings of the configuration, variables, error codes.

use std::collections::BTreeSet;

use crate::code;

/// Every setting in a configuration, such as `server.listen` or `pools.*.keys.rpm`.
///
/// # Panics
/// If `text` is not TOML.
pub fn of_configuration(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("not TOML: {error}"));
    let mut found = BTreeSet::new();
    gather("", &toml::Value::Table(table), &mut found);
    found
}

fn gather(path: &str, value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                // Pool names are chosen by the user.
                let name = if path == "pools" { "*" } else { name };
                let inner = if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                };
                gather(&inner, value, found);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| gather(path, item, found));
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// Every setting that a guide lists. A heading such as "## `[pools.<name>.retry]`" starts a section, and each table row
/// that starts with a name in backticks is a setting in it.
pub fn of_guide(markdown: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in markdown.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            section = quoted(heading)
                .filter(|name| name.starts_with('['))
                .unwrap_or_default()
                .replace(['[', ']'], "")
                .replace("<name>", "*");
        } else if let Some(name) = row(line)
            && !section.is_empty()
        {
            found.insert(format!("{section}.{name}"));
        }
    }
    found
}

/// The first cell of each table row, if it is a name in backticks.
pub fn rows(markdown: &str) -> BTreeSet<String> {
    markdown.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<String> {
    quoted(
        line.strip_prefix("| ")
            .filter(|cells| cells.starts_with('`'))?,
    )
}

fn quoted(text: &str) -> Option<String> {
    let (_, after) = text.split_once('`')?;
    Some(after.split_once('`')?.0.to_owned())
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The `KEYPOOL_…` variables that a Rust file reads.
pub fn own_variables(source: &str) -> BTreeSet<String> {
    let is_own = |text: &String| {
        text.strip_prefix("KEYPOOL_").is_some_and(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        })
    };
    code::literals(source).into_iter().filter(is_own).collect()
}

/// Literals that look like a code: lower-case words joined by `_`.
pub fn codes(source: &str) -> BTreeSet<String> {
    let is_code = |text: &String| text.contains('_') && is_name(text);
    code::literals(source).into_iter().filter(is_code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_guide_yield_the_same_names() {
        let file = "[server]\nlisten = 1\ntls = { cert = 2 }\n[pools.a]\nkeys = ['x']\n[[pools.b.keys]]\nrpm = 1\n[[routes]]\nmodel = 1\n";
        let guide = "## `[server]`\n| setting | default |\n|---|---|\n| `listen` | `x` |\n| `tls.cert` | |\n# `[pools.<name>]`\n| `keys` | |\n\
                     ### `[[pools.<name>.keys]]`\n| `rpm` | |\n## `[[routes]]`\n| `model` | |\n## Other `words`\n| `no` | |\n";
        assert_eq!(of_configuration(file), of_guide(guide));
    }
}
