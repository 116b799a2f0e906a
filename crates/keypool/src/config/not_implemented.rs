//! Settings that are checked but not implemented yet. Each one that is set gives one warning.
//!
//! Nothing here returns a value. A section that gets implemented moves to its own file.

use std::ops::RangeInclusive;

use super::report::Report;
use super::text::Text;
use super::values;
use super::walk::Table;

/// Why limits have no effect.
pub(super) const LIMITS: &str = "limits come with a later version";
const ANY: RangeInclusive<u64> = 1..=u64::MAX;

/// `[limiter]` and `KEYPOOL_LIMITER_URL`.
pub(super) fn limiter(table: Option<Table<'_>>, report: &Report<'_>) {
    let variable = Text::variable(report, "KEYPOOL_LIMITER_URL");
    if let Some(mut table) = table {
        table.text("url").iter().for_each(limiter_url);
        word(&mut table, "limiter", "mode", &["leased", "strict"]);
        let words = ["degrade", "reject", "allow"];
        word(&mut table, "limiter", "on_store_failure", &words);
        table.finish();
    }
    variable.iter().for_each(limiter_url);
}

fn limiter_url(text: &Text<'_>) {
    let url = text.value.trim();
    if url == "memory" {
        return;
    }
    if values::is_url(url, &["redis", "rediss", "redis-cluster", "rediss-cluster"]) {
        text.report().not_implemented(&text.name, LIMITS);
    } else {
        // Not shown: it may contain a password.
        text.invalid("must be \"memory\" or a URL such as \"redis://host:port\", \"rediss://host:port\" or \"redis-cluster://h1:p1,h2:p2\"");
    }
}

/// Reads one of `words`. The first is the default and gives no warning.
fn word(table: &mut Table<'_>, section: &str, field: &'static str, words: &[&'static str]) {
    let words: Vec<(&'static str, usize)> = words
        .iter()
        .enumerate()
        .map(|(n, word)| (*word, n))
        .collect();
    if table.one_of(field, &words).is_some_and(|n| n > 0) {
        let setting = format!("{section}.{field}");
        table.report().not_implemented(&setting, LIMITS);
    }
}

fn numbers(table: &mut Table<'_>, section: &str, fields: &[&'static str]) {
    for field in fields {
        if table.whole(field, ANY).is_some() {
            let setting = format!("{section}.{field}");
            table.report().not_implemented(&setting, LIMITS);
        }
    }
}

/// The limits of an upstream key.
pub(super) fn key_limits(table: &mut Table<'_>) {
    let fields = ["rpm", "input_tpm", "output_tpm"];
    numbers(table, "pools.*.keys", &fields);
}

/// The limits of a virtual key.
pub(super) fn virtual_key_limits(table: &mut Table<'_>) {
    let section = "virtual_keys";
    let fields = ["rpm", "input_tpm", "output_tpm", "max_concurrent"];
    numbers(table, section, &fields);
    let reservations = ["learned", "max_tokens"];
    word(table, section, "output_reservation", &reservations);
    word(table, section, "on_limit", &["reject", "wait"]);
    let report = table.report();
    if table
        .duration("limit_wait")
        .is_some_and(|wait| wait.as_secs_f64() != 10.0)
    {
        report.not_implemented("virtual_keys.limit_wait", LIMITS);
    }
}

/// `[files]`
pub(super) fn files(table: Option<Table<'_>>) {
    let Some(mut table) = table else { return };
    let report = table.report();
    if table.size("max_size").is_some_and(|size| size != 512 << 20) {
        report.not_implemented("files.max_size", "files come with a later version");
    }
    table.finish();
}

/// `[metrics]`
pub(super) fn metrics(table: Option<Table<'_>>) {
    let Some(mut table) = table else { return };
    let report = table.report();
    if table.switch("public") == Some(true) {
        report.not_implemented("metrics.public", "metrics come with a later version");
    }
    table.finish();
}
