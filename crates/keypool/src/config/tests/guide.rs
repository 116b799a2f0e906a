//! Checks that docs/configuration.md lists exactly the fields of the schema. Each table is asked which fields it knows.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// No field has this name or one like it.
const UNKNOWN: &str = "zzzzzzzzzz";

/// One step into the schema: its name in messages, and the text of its table before and after an inner one.
#[derive(Clone)]
struct Step {
    name: String,
    before: String,
    after: &'static str,
}

/// The fields that the table at the end of `path` knows, taken from the message about an unknown field.
fn known(path: &[Step]) -> Option<Vec<String>> {
    let before: String = path.iter().map(|step| &*step.before).collect();
    let after: String = path.iter().rev().map(|step| step.after).collect();
    let errors = toml(&format!("{before}{UNKNOWN} = 1{after}")).errors();
    let mine = format!("unknown field `{UNKNOWN}` ");
    let error = errors
        .iter()
        .find(|error| error.message.starts_with(&mine))?;
    let fields = error.hint.as_deref()?.strip_prefix("known there: ")?;
    Some(fields.split(", ").map(str::to_owned).collect())
}

/// Every field of the schema below `path` that is not a table.
fn settings(path: &[Step], found: &mut BTreeSet<String>) {
    let fields = known(path).unwrap_or_else(|| panic!("`{}` is not a table", names(path)));
    for field in fields {
        let step = |name: &str, open: &str, after| Step {
            name: name.to_owned(),
            before: format!("{field} = {open}"),
            after,
        };
        let forms = match &*field {
            // Its fields are names that the user chooses.
            "pools" if path.is_empty() => vec![step("pools.*", "{ a = { ", " } }")],
            field => vec![step(field, "{ ", " }"), step(field, "[{ ", " }]")],
        };
        let below = |step| [path, &[step]].concat();
        let inner = forms
            .into_iter()
            .map(below)
            .filter(|path| known(path).is_some());
        let inner: Vec<_> = inner.collect();
        match &inner[..] {
            [] => drop(found.insert(format!("{}{field}", names(path)))),
            inner => inner.iter().for_each(|path| settings(path, found)),
        }
        // The short form of a pool's keys is not a table.
        if names(path) == "pools.*." && field == "keys" {
            found.insert("pools.*.keys".to_owned());
        }
    }
}

fn names(path: &[Step]) -> String {
    path.iter().map(|step| format!("{}.", step.name)).collect()
}

/// Every setting that the guide lists: the first cell of each row, in the table that the heading names.
fn listed(markdown: &str) -> BTreeSet<String> {
    let code = |text: &str| Some(text.split_once('`')?.1.split_once('`')?.0.to_owned());
    let mut section = None;
    let mut found = BTreeSet::new();
    for line in markdown.lines() {
        if line.starts_with('#') {
            let table = code(line).filter(|name| name.starts_with('['));
            section = table.map(|name| name.replace(['[', ']'], "").replace("<name>", "*"));
        } else if let (Some(section), Some(row)) = (&section, line.strip_prefix("| `")) {
            let name = row.split('`').next().unwrap();
            found.insert(format!("{section}.{name}"));
        }
    }
    found
}

#[test]
fn the_guide_lists_exactly_the_fields_of_the_schema() {
    let mut known_fields = BTreeSet::new();
    settings(&[], &mut known_fields);
    // Checks the test itself: one field of each kind of table, and some that are easy to miss.
    for setting in [
        "server.allowed_hosts",
        "server.tls.cert",
        "limiter.on_store_failure",
        "pools.*.provider",
        "pools.*.breaker.failure_rate",
        "pools.*.keys.output_tpm",
        "virtual_keys.output_reservation",
        "routes.targets.pool",
        "metrics.public",
    ] {
        assert!(
            known_fields.contains(setting),
            "{setting}: {known_fields:#?}"
        );
    }
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let documented = listed(&std::fs::read_to_string(guide).unwrap());
    let undocumented: Vec<_> = known_fields.difference(&documented).collect();
    assert!(
        undocumented.is_empty(),
        "fields that docs/configuration.md does not list: {undocumented:#?}"
    );
    let unknown: Vec<_> = documented.difference(&known_fields).collect();
    assert!(
        unknown.is_empty(),
        "settings in docs/configuration.md that the schema does not have: {unknown:#?}"
    );
}
