//! The audit log.

use keypool_core::store::{AuditEntry, AuditRecord, StoreError};

use super::convert::{count, millis, next_time, text};
use super::sql::{Param, Transaction, params};
use super::transaction::Write;

/// Writes an entry.
pub(super) async fn add(write: &mut Write, entry: &AuditEntry) -> Result<(), StoreError> {
    let (sql, params) = statement(entry);
    write.execute(sql, params).await.map(drop)
}

/// The statement that writes an entry, and its parameters.
pub(super) fn statement(entry: &AuditEntry) -> (&'static str, Vec<Param>) {
    let sql = "INSERT INTO audit (made_at, actor, source, action, target, details) VALUES ($1, $2, $3, $4, $5, $6)";
    let params = params![
        millis(entry.at),
        entry.actor,
        text(&entry.source),
        entry.action,
        text(&entry.target),
        text(&entry.details),
    ];
    (sql, params)
}

/// The newest entries before the entry `before`, newest first.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditRecord>, StoreError> {
    let sql = "SELECT id, made_at, actor, source, action, target, details FROM audit \
               WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let before = before.map_or(i64::MAX, count);
    let rows = transaction
        .fetch(sql, params![before, count(limit as u64)])
        .await?;
    let entry = |mut row: super::sql::Row| {
        Ok(AuditRecord {
            id: row.count()?,
            at: next_time(&mut row)?,
            actor: row.text()?,
            source: row.text()?,
            action: row.text()?,
            target: row.text()?,
            details: row.text()?,
        })
    };
    rows.into_iter().map(entry).collect()
}
