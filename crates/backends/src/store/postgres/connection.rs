//! Statements and rows of PostgreSQL.

use std::borrow::Cow;

use async_trait::async_trait;
use keypool_core::store::StoreError;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _, TypeInfo, ValueRef};

use super::error::convert;
use crate::store::sql::{Cell, Param, Row, Transaction};

/// A transaction.
pub(super) struct PostgresTransaction(pub(super) sqlx::Transaction<'static, Postgres>);

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn execute(&mut self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        let result = query(sql, params).execute(&mut *self.0).await;
        result
            .map(|result| result.rows_affected())
            .map_err(|error| convert(&error))
    }

    async fn fetch(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = query(sql, params).fetch_all(&mut *self.0).await;
        let rows = rows.and_then(|rows| rows.iter().map(row).collect());
        rows.map_err(|error| convert(&error))
    }

    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let result = sqlx::raw_sql(sql).execute(&mut *self.0).await;
        result.map(drop).map_err(|error| convert(&error))
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.0.commit().await.map_err(|error| convert(&error))
    }
}

fn query(sql: &'static str, params: Vec<Param>) -> Query<'static, Postgres, PgArguments> {
    let query = sqlx::query(AssertSqlSafe(dialect(sql)));
    params.into_iter().fold(query, |query, param| match param {
        Param::Int(value) => query.bind(value),
        Param::Text(value) => query.bind(value),
        Param::Bytes(value) => query.bind(value),
    })
}

/// Replaces the marks where databases differ.
///
/// A transaction that holds the lock of all writers ends even if its node hangs: the server ends it when no statement comes for
/// 4 s. Others wait longer for the lock, so they do not fail.
fn dialect(sql: &'static str) -> Cow<'static, str> {
    if !sql.contains('{') {
        return sql.into();
    }
    sql.replace("{rows}", "jsonb_array_elements(CAST($1 AS JSONB))")
        .replace(
            "{now}",
            "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        )
        .replace(
            "{limits}",
            ", set_config('idle_in_transaction_session_timeout', '4s', TRUE), \
             set_config('statement_timeout', '30s', TRUE)",
        )
        .into()
}

fn row(row: &PgRow) -> Result<Row, sqlx::Error> {
    (0..row.len())
        .map(|column| cell(row, column))
        .collect::<Result<_, _>>()
        .map(Row::new)
}

fn cell(row: &PgRow, column: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    match value.type_info().name() {
        "INT8" => row.try_get(column).map(Cell::Int),
        "INT4" => row
            .try_get::<i32, _>(column)
            .map(|value| Cell::Int(value.into())),
        "FLOAT8" => row.try_get(column).map(Cell::Real),
        "BYTEA" => row.try_get(column).map(Cell::Bytes),
        _ => row.try_get(column).map(Cell::Text),
    }
}
