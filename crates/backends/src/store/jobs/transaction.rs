//! A transaction that changes jobs.

use std::collections::BTreeMap;

use keypool_core::store::{JobRevision, StoreError};
use serde_json::{Value, json};

use crate::store::sql::{Database, Param, Row, Transaction, params, unexpected};
use crate::store::transaction::with_rows;

/// A transaction that changes jobs. Of all nodes, one has it at a time. Dropping it undoes it.
pub(in crate::store) struct JobsWrite {
    transaction: Box<dyn Transaction>,
    /// The number of this change.
    pub(super) revision: i64,
    /// The database's clock, in milliseconds since the epoch.
    pub(super) now: i64,
    /// Jobs that have not ended, before this change.
    pub(super) unended: i64,
    /// Bytes of all bodies, before this change.
    pub(super) stored: i64,
}

/// By how much a change raises what is counted of a caller.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Delta {
    pub(in crate::store) unended: i64,
    pub(in crate::store) stored: i64,
}

impl JobsWrite {
    pub(in crate::store) async fn begin(database: &dyn Database) -> Result<Self, StoreError> {
        let mut transaction = database.write().await?;
        let sql = "UPDATE job_queue SET revision = revision + 1 RETURNING revision, unended, stored, {now}{limits}";
        let rows = transaction.fetch(sql, vec![]).await?;
        let mut row = rows.into_iter().next().ok_or_else(unexpected)?;
        Ok(Self {
            revision: row.int()?,
            unended: row.int()?,
            stored: row.int()?,
            now: row.int()?,
            transaction,
        })
    }

    /// The number of this change.
    pub(in crate::store) fn revision(&self) -> i64 {
        self.revision
    }

    /// The database's clock, in milliseconds since the epoch.
    pub(in crate::store) fn now(&self) -> i64 {
        self.now
    }

    /// Bytes of all bodies and files, before this change.
    pub(in crate::store) fn stored(&self) -> i64 {
        self.stored
    }

    pub(in crate::store) async fn execute(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<u64, StoreError> {
        self.transaction.execute(sql, params).await
    }

    pub(in crate::store) async fn fetch(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        self.transaction.fetch(sql, params).await
    }

    /// Executes a statement for these rows. Without rows, nothing is executed.
    pub(in crate::store) async fn execute_rows(
        &mut self,
        sql: &'static str,
        rows: Vec<Value>,
        params: Vec<Param>,
    ) -> Result<u64, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.execute(sql, with_rows(rows, params)).await
    }

    /// Executes a statement for these rows, and returns its rows. Without rows, nothing is executed.
    pub(in crate::store) async fn fetch_rows(
        &mut self,
        sql: &'static str,
        rows: Vec<Value>,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.fetch(sql, with_rows(rows, params)).await
    }

    /// Adds to what is counted of callers, and in all.
    pub(in crate::store) async fn count(
        &mut self,
        deltas: &BTreeMap<String, Delta>,
    ) -> Result<(), StoreError> {
        let rows = deltas.iter().map(|(caller, delta)| {
            json!({ "caller": caller, "unended": delta.unended, "stored": delta.stored })
        });
        self.execute_rows(COUNT, rows.collect(), vec![]).await?;
        let sum = |of: fn(&Delta) -> i64| deltas.values().map(of).sum::<i64>();
        let (unended, stored) = (sum(|delta| delta.unended), sum(|delta| delta.stored));
        if (unended, stored) != (0, 0) {
            let sql = "UPDATE job_queue SET unended = unended + $1, stored = stored + $2";
            self.execute(sql, params![unended, stored]).await?;
        }
        Ok(())
    }

    /// Makes all of it take effect. Returns the number of the change.
    pub(in crate::store) async fn commit(self) -> Result<JobRevision, StoreError> {
        self.transaction.commit().await?;
        u64::try_from(self.revision).map_err(|_| unexpected())
    }
}

const COUNT: &str = "
INSERT INTO job_callers (caller, unended, stored)
SELECT r.value->>'caller', CAST(r.value->>'unended' AS BIGINT), CAST(r.value->>'stored' AS BIGINT)
FROM {rows} AS r WHERE TRUE
ON CONFLICT (caller) DO UPDATE SET unended = job_callers.unended + excluded.unended,
  stored = job_callers.stored + excluded.stored";
