//! `[jobs]` and `[files]`: calls that are accepted now and made later.

use keypool_gateway::settings::{FileSettings, JobSettings};
use keypool_gateway::webhook_hosts::WebhookHost;

use super::server;
use super::walk::Table;

/// Reads `[jobs]`.
pub(super) fn read(table: Option<Table<'_>>) -> JobSettings {
    let mut out = JobSettings::default();
    let Some(mut table) = table else { return out };
    let limits = &mut out.limits;
    let queued = 1..=100_000_000;
    limits.max_queued = table
        .whole("max_queued", queued.clone())
        .unwrap_or(limits.max_queued);
    limits.max_queued_per_caller = table
        .whole("max_queued_per_caller", queued)
        .unwrap_or(limits.max_queued_per_caller);
    limits.max_stored = table.size("max_stored").unwrap_or(limits.max_stored);
    limits.max_stored_per_caller = table
        .size("max_stored_per_caller")
        .unwrap_or(limits.max_stored_per_caller);
    out.max_running = table
        .whole("max_running", 1..=100_000_u32)
        .map_or(out.max_running, |number| number as usize);
    out.keep = table.time("keep").unwrap_or(out.keep);
    out.deadline = table.time("deadline").unwrap_or(out.deadline);
    out.webhook_hosts = server::list(
        &mut table,
        "webhook_hosts",
        "a host such as \"hooks.example.com\", \"*.example.com\" or, without encryption, \"http://127.0.0.1:9000\"",
        WebhookHost::parse,
    );
    table.finish();
    out
}

/// Reads `[files]`.
pub(super) fn files(table: Option<Table<'_>>) -> FileSettings {
    let mut out = FileSettings::default();
    let Some(mut table) = table else { return out };
    out.max_size = table.size("max_size").unwrap_or(out.max_size);
    table.finish();
    out
}
