//! The store in a PostgreSQL database, for several gateways.

mod connection;
mod error;

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use keypool_core::store::{StoreError, StoreErrorKind};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use self::connection::PostgresTransaction;
use super::envelope::MasterKey;
use super::rotation;
use super::schema::Access;
use super::sql::{Database, Transaction};
use super::sql_store::SqlStore;

/// The store in a PostgreSQL database, for several gateways.
///
/// Nothing outlives a transaction in a session, so a pooler may give each transaction another one. After an outage it
/// recovers by itself.
pub type PostgresStore = SqlStore<Postgres>;

/// Maximum number of connections.
const CONNECTIONS: u32 = 5;
/// How long a transaction waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Of all transactions that take this lock, one runs at a time: those that change the schema.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7739463290561)";

/// A PostgreSQL database.
pub struct Postgres {
    pool: PgPool,
}

impl SqlStore<Postgres> {
    /// Connects with the first use, and prepares the database then. Until a server responds, each use fails with
    /// [`StoreErrorKind::Unavailable`].
    ///
    /// # Errors
    /// [`StoreErrorKind::Internal`] if `url` is no URL of PostgreSQL.
    pub fn new(url: &str, master_key: &MasterKey) -> Result<Self, StoreError> {
        let database = Postgres::new(url)?;
        Ok(Self::on(database, master_key.clone(), Access::Full))
    }

    /// The same, for commands that only read: a database without a store is an error and stays as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Internal`] if `url` is no URL of PostgreSQL.
    pub fn new_for_reading(url: &str, master_key: &MasterKey) -> Result<Self, StoreError> {
        let database = Postgres::new(url)?;
        Ok(Self::on(database, master_key.clone(), Access::ReadOnly))
    }

    /// Encrypts everything again, so that only `new` opens it. Servers that are running go on reading what they have in
    /// memory, and cannot write until they are restarted with `new`.
    ///
    /// # Errors
    /// [`StoreErrorKind::WrongMasterKey`] if `old` is not its master key; nothing is changed then.
    pub async fn rotate_master_key(
        url: &str,
        old: &MasterKey,
        new: &MasterKey,
    ) -> Result<(), StoreError> {
        let database = Postgres::new(url)?;
        let result = rotation::rotate(&database, old, new).await;
        database.close().await;
        result
    }
}

impl Postgres {
    fn new(url: &str) -> Result<Self, StoreError> {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        // What the error says may repeat the URL, which may have a password.
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_postgres);
        let options = options.ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Internal,
                "`url` of [store] is no URL of PostgreSQL; write postgres://user:password@host/database",
            )
        })?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("keypool"),
        };
        // A prepared statement belongs to a session, and a pooler may give the next transaction another one.
        let options = options.statement_cache_capacity(0);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self {
            pool: pool.connect_lazy_with(options),
        })
    }

    async fn begin(&self, statement: &'static str) -> Result<Box<dyn Transaction>, StoreError> {
        let transaction = self
            .pool
            .begin_with(statement)
            .await
            .map_err(|error| error::convert(&error))?;
        Ok(Box::new(PostgresTransaction(transaction)))
    }
}

#[async_trait]
impl Database for Postgres {
    fn migrations(&self) -> &'static [&'static str] {
        &[
            include_str!("0001.sql"),
            include_str!("0002.sql"),
            include_str!("0003.sql"),
            include_str!("0004.sql"),
        ]
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn has_schema(&self) -> &'static str {
        "SELECT CAST(tablename AS TEXT) FROM pg_tables \
         WHERE tablename = 'keypool_schema' AND schemaname = ANY (current_schemas(FALSE))"
    }

    async fn read(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
    }

    async fn write(&self) -> Result<Box<dyn Transaction>, StoreError> {
        // Each statement must see what others have committed while this transaction waited for its lock.
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            .await
    }

    async fn migrate(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let mut transaction = self.write().await?;
        transaction.execute(MIGRATION_LOCK, vec![]).await?;
        Ok(transaction)
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
