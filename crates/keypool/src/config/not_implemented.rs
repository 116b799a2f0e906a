//! Settings that are checked but not implemented yet. Each one that is set gives one warning.
//!
//! Nothing here returns a value. A section that gets implemented moves to its own file.

use super::walk::Table;

/// `[metrics]`
pub(super) fn metrics(table: Option<Table<'_>>) {
    let Some(mut table) = table else { return };
    let report = table.report();
    if table.switch("public") == Some(true) {
        report.not_implemented("metrics.public", "metrics come with a later version");
    }
    table.finish();
}
