//! The page `docs/provider-errors.md` shows what every fixture says and what keypool makes of it.

use std::collections::BTreeSet;
use std::fmt::Write;

use keypool_core::fault::Scope;
use serde_json::Value;

use super::{Fixtures, body_of, expected, fixtures};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/provider-errors.md");
/// Set to any value, it makes the test write the page instead of comparing it.
const WRITE: &str = "KEYPOOL_WRITE_DOCS";
/// Maximum length of a message in the table, in characters.
const LONGEST: usize = 110;

const HEAD: &str = "# What each provider says

What keypool makes of each provider's errors, one table for each provider.
[How keys fail](how-keys-fail.md) explains the classes.
The tables are written from the [fixtures](../crates/providers/fixtures/) that the tests run: `KEYPOOL_WRITE_DOCS=1 cargo test -p keypool-providers --test classify` writes them again.

*Status alone*: no code, type or known words decided the class. Then a 400, 403 or 404 may be relayed only after a second opinion, and a 401 from a key that has served before is checked first.
";

#[test]
fn the_page_shows_every_fixture() {
    let page = page();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let found = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        found == page,
        "docs/provider-errors.md is not what the fixtures say: run this test with {WRITE}=1"
    );
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    // The mock has no errors of its own.
    for file in fixtures().iter().filter(|file| file.dialect != "mock") {
        let _ = write!(
            page,
            "\n## {}\n\n| status | code or type | message | class |\n|---|---|---|---|\n",
            file.dialect
        );
        rows(file).iter().for_each(|row| page.push_str(row));
    }
    page
}

/// The rows of a provider, by status. Fixtures that differ only in their headers or their form are one row.
fn rows(file: &Fixtures) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut rows: Vec<(u64, String)> = Vec::new();
    for fixture in &file.all {
        let (class, _, _, is_recognized, scope) = expected(fixture);
        let status = fixture["status"].as_u64().expect("a status");
        let mut meaning = format!("`{class}`");
        if scope == Scope::Endpoint {
            meaning.push_str(", for this endpoint");
        }
        if !is_recognized {
            meaning.push_str(", by its status alone");
        }
        let (name, message) = said(fixture);
        let row = format!("| {status} | {name} | {message} | {meaning} |\n");
        if seen.insert(row.clone()) {
            rows.push((status, row));
        }
    }
    rows.sort_by_key(|(status, _)| *status);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The code or type, and the message.
fn said(fixture: &Value) -> (String, String) {
    let name = fixture["code"].as_str();
    let name = name.map(|name| format!("`{name}`")).unwrap_or_default();
    (name, cell(&message(fixture)))
}

fn message(fixture: &Value) -> String {
    let body = body_of(fixture);
    let body = body
        .trim_start()
        .trim_start_matches("event: error\n")
        .trim_start_matches("data:");
    let Ok(mut json) = serde_json::from_str::<Value>(body.trim()) else {
        return body.trim().to_owned();
    };
    if let Some(first) = json.get(0) {
        json = first.clone();
    }
    [
        "/error/message",
        "/detail/error",
        "/response/error/message",
        "/message",
        "/error",
        "/detail",
        "",
    ]
    .iter()
    .find_map(|path| json.pointer(path)?.as_str().map(str::to_owned))
    .unwrap_or_default()
}

/// A text as the cell of a table: on one line, cut short, and without marks that mean something there.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut cell: String = text.chars().take(LONGEST).collect();
    if cell.len() < text.len() {
        cell.push('…');
    }
    for (mark, shown) in [
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        ("`", "\\`"),
        ("*", "\\*"),
        ("_", "\\_"),
        ("[", "\\["),
    ] {
        cell = cell.replace(mark, shown);
    }
    cell
}
