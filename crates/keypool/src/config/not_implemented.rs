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
        word(&mut table, "mode", "limiter.mode", &["leased", "strict"]);
        word(
            &mut table,
            "on_store_failure",
            "limiter.on_store_failure",
            &["degrade", "reject", "allow"],
        );
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
fn word(table: &mut Table<'_>, field: &'static str, setting: &str, words: &[&'static str]) {
    let report = table.report();
    let words: Vec<(&'static str, usize)> = words
        .iter()
        .enumerate()
        .map(|(n, word)| (*word, n))
        .collect();
    if table.one_of(field, &words).is_some_and(|n| n > 0) {
        report.not_implemented(setting, LIMITS);
    }
}

/// `rpm`, `input_tpm` and `output_tpm` of an upstream key.
pub(super) fn key_limits(table: &mut Table<'_>) {
    for (name, setting) in [
        ("rpm", "pools.*.keys.rpm"),
        ("input_tpm", "pools.*.keys.input_tpm"),
        ("output_tpm", "pools.*.keys.output_tpm"),
    ] {
        number(table, name, setting);
    }
}

/// The limits of a virtual key.
pub(super) fn virtual_key_limits(table: &mut Table<'_>) {
    for (name, setting) in [
        ("rpm", "virtual_keys.rpm"),
        ("input_tpm", "virtual_keys.input_tpm"),
        ("output_tpm", "virtual_keys.output_tpm"),
        ("max_concurrent", "virtual_keys.max_concurrent"),
    ] {
        number(table, name, setting);
    }
    word(
        table,
        "output_reservation",
        "virtual_keys.output_reservation",
        &["learned", "max_tokens"],
    );
    word(
        table,
        "on_limit",
        "virtual_keys.on_limit",
        &["reject", "wait"],
    );
    let report = table.report();
    if table
        .duration("limit_wait")
        .is_some_and(|wait| wait.as_secs_f64() != 10.0)
    {
        report.not_implemented("virtual_keys.limit_wait", LIMITS);
    }
}

fn number(table: &mut Table<'_>, name: &'static str, setting: &str) {
    let report = table.report();
    if table.whole(name, ANY).is_some() {
        report.not_implemented(setting, LIMITS);
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
