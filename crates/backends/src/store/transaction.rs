//! A transaction of the store that writes.

use std::sync::Arc;

use keypool_core::store::{Revision, StoreError};

use super::convert;
use super::envelope::Keys;
use super::sql::{Database, Param, Row, Transaction, params, unexpected};

/// A transaction that writes. Of all nodes, one has it at a time. Dropping it undoes it.
pub(super) struct Write {
    transaction: Box<dyn Transaction>,
    /// What fields are encrypted with.
    pub(super) keys: Arc<Keys>,
    /// The number of the newest change, with the one that this transaction makes.
    pub(super) revision: Revision,
    /// The database's clock, in milliseconds since the epoch.
    pub(super) now: i64,
}

impl Write {
    /// Begins a transaction which takes the next revision if it makes a change that other nodes must follow.
    ///
    /// The row of `meta` is what all writers lock first, so they wait here and never for each other later.
    pub(super) async fn begin(
        database: &dyn Database,
        keys: Arc<Keys>,
        makes_change: bool,
    ) -> Result<Self, StoreError> {
        let mut transaction = database.write().await?;
        let sql =
            "UPDATE meta SET revision = revision + $1 RETURNING revision, key_id, {now}{limits}";
        let rows = transaction.fetch(sql, params![makes_change]).await?;
        let mut row = rows.into_iter().next().ok_or_else(unexpected)?;
        let revision = row.count()?;
        keys.check(&row.text()?)?;
        Ok(Self {
            transaction,
            keys,
            revision,
            now: row.int()?,
        })
    }

    /// Executes a statement. Returns the number of rows that it changed.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<u64, StoreError> {
        self.transaction.execute(sql, params).await
    }

    /// Executes a statement for these rows. Returns the number of rows that it changed. Without rows, nothing is executed.
    pub(super) async fn execute_rows(
        &mut self,
        sql: &'static str,
        rows: Vec<serde_json::Value>,
        params: Vec<Param>,
    ) -> Result<u64, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.execute(sql, with_rows(rows, params)).await
    }

    /// Executes a statement. Returns its rows.
    pub(super) async fn fetch(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        self.transaction.fetch(sql, params).await
    }

    /// Executes a statement. Returns its first row.
    pub(super) async fn first(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(sql, params).await?.into_iter().next())
    }

    /// Makes all of it take effect. Returns the number of the newest change.
    pub(super) async fn commit(self) -> Result<Revision, StoreError> {
        self.transaction.commit().await?;
        Ok(self.revision)
    }

    /// The number of the newest change, as databases keep it.
    pub(super) fn revision(&self) -> i64 {
        convert::count(self.revision)
    }
}

/// Parameters of which the first is `rows`.
pub(super) fn with_rows(rows: Vec<serde_json::Value>, params: Vec<Param>) -> Vec<Param> {
    let rows = Param::from(serde_json::Value::Array(rows).to_string());
    std::iter::once(rows).chain(params).collect()
}
