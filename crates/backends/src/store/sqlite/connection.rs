//! Statements and rows of SQLite.

use std::borrow::Cow;
use std::path::PathBuf;

use async_trait::async_trait;
use keypool_core::store::StoreError;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite, TypeInfo, ValueRef};

use super::error;
use super::interrupt::Interrupt;
use crate::store::sql::{Cell, Param, Row, Transaction};

/// A transaction.
pub(super) struct SqliteTransaction {
    transaction: sqlx::Transaction<'static, Sqlite>,
    path: PathBuf,
    interrupt: Interrupt,
}

impl SqliteTransaction {
    pub(super) fn new(
        transaction: sqlx::Transaction<'static, Sqlite>,
        path: PathBuf,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            transaction,
            path,
            interrupt,
        }
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        error::convert(error, &self.path)
    }
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn execute(&mut self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        let statement = query(sql, params).execute(&mut *self.transaction);
        let result = self.interrupt.unless_dropped(statement).await;
        result
            .map(|result| result.rows_affected())
            .map_err(|error| self.error(&error))
    }

    async fn fetch(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        let statement = query(sql, params).fetch_all(&mut *self.transaction);
        let rows = self.interrupt.unless_dropped(statement).await;
        let rows = rows.and_then(|rows| rows.iter().map(row).collect());
        rows.map_err(|error| self.error(&error))
    }

    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let statement = sqlx::raw_sql(sql).execute(&mut *self.transaction);
        let result = self.interrupt.unless_dropped(statement).await;
        result.map(drop).map_err(|error| self.error(&error))
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let result = self.transaction.commit().await;
        result.map_err(|error| error::convert(&error, &self.path))
    }
}

fn query(sql: &'static str, params: Vec<Param>) -> Query<'static, Sqlite, SqliteArguments> {
    let query = sqlx::query(AssertSqlSafe(dialect(sql)));
    params.into_iter().fold(query, |query, param| match param {
        Param::Int(value) => query.bind(value),
        Param::Text(value) => query.bind(value),
        Param::Bytes(value) => query.bind(value),
    })
}

/// Replaces the marks where databases differ.
fn dialect(sql: &'static str) -> Cow<'static, str> {
    if !sql.contains('{') {
        return sql.into();
    }
    sql.replace("{rows}", "json_each($1)")
        .replace("{now}", "CAST(unixepoch('subsec') * 1000 AS INTEGER)")
        .replace("{limits}", "")
        .into()
}

fn row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    (0..row.len())
        .map(|column| cell(row, column))
        .collect::<Result<_, _>>()
        .map(Row::new)
}

fn cell(row: &SqliteRow, column: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    match value.type_info().name() {
        "INTEGER" => row.try_get_unchecked(column).map(Cell::Int),
        "REAL" => row.try_get_unchecked(column).map(Cell::Real),
        "BLOB" => row.try_get_unchecked(column).map(Cell::Bytes),
        _ => row.try_get_unchecked(column).map(Cell::Text),
    }
}
