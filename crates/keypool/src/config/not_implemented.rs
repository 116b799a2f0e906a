//! Settings that are checked but not implemented yet. Each one that is set gives one warning.
//!
//! Nothing here returns a value. A section that gets implemented moves to its own file.

use super::walk::Table;

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
