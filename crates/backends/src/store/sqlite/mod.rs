//! The store in a SQLite file, for one gateway.

mod connection;
mod error;
mod files;
mod interrupt;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use keypool_core::store::StoreError;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use self::connection::SqliteTransaction;
use self::files::Lock;
use self::interrupt::Interrupt;
use super::envelope::MasterKey;
use super::rotation;
use super::schema::{self, Access};
use super::sql::{Database, Transaction};
use super::sql_store::{self, SqlStore};

/// The store in a SQLite file, for one gateway.
///
/// A change that was acknowledged survives a power cut: the file is written ahead and synchronised at each commit.
pub type SqliteStore = SqlStore<Sqlite>;

/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of transactions that read at the same time.
const READERS: u32 = 4;

/// A SQLite file.
pub struct Sqlite {
    path: PathBuf,
    /// SQLite has one writer at a time. With one connection for it, writers wait in the order in which they came.
    writer: SqlitePool,
    /// Stops what the writer does.
    interrupt: Interrupt,
    readers: SqlitePool,
    /// Held while this process may write; `None` for commands that work beside a server.
    _lock: Option<Lock>,
}

impl SqlStore<Sqlite> {
    /// Opens the file, which is created if there is none, for this process alone.
    ///
    /// # Errors
    /// `StoreErrorKind::InUse` if another server has it open, `StoreErrorKind::NotWritable`,
    /// `StoreErrorKind::NewerSchema`, `StoreErrorKind::WrongMasterKey`; `StoreErrorKind::Missing` if a restore was
    /// interrupted; `StoreErrorKind::Internal` if it is damaged.
    pub async fn open(path: &Path, master_key: &MasterKey) -> Result<Self, StoreError> {
        let path = &files::resolve(path);
        let lock = files::lock(path)?;
        files::check_not_restoring(path)?;
        files::create(path)?;
        let database = Sqlite::new(path, Some(lock));
        let store = Self::on(database, master_key.clone(), Access::Full);
        store.prepare().await?;
        Ok(store)
    }

    /// Opens the file for reading. A server may have it open.
    ///
    /// # Errors
    /// `StoreErrorKind::Missing` if there is nothing to read, and those of [`Self::open`].
    pub async fn open_for_reading(path: &Path, master_key: &MasterKey) -> Result<Self, StoreError> {
        files::check_exists(path)?;
        let store = Self::on(
            Sqlite::read_only(path),
            master_key.clone(),
            Access::ReadOnly,
        );
        store.prepare().await?;
        Ok(store)
    }

    /// Whether the file holds nothing that a master key is needed for: it is missing, or no store was ever opened in it.
    /// Then a new master key may be made.
    pub async fn is_new(path: &Path) -> Result<bool, StoreError> {
        if files::is_empty(path)? {
            return Ok(true);
        }
        let database = Sqlite::read_only(path);
        let holds_keys = sql_store::in_time(BUSY_TIMEOUT, schema::holds_keys(&database)).await;
        database.close().await;
        Ok(!holds_keys?)
    }

    /// Encrypts everything again, so that only `new` opens it. A server that has the file open goes on reading what it has in
    /// memory, and cannot write until it is restarted with `new`.
    ///
    /// # Errors
    /// `StoreErrorKind::WrongMasterKey` if `old` is not its master key; nothing is changed then.
    pub async fn rotate_master_key(
        path: &Path,
        old: &MasterKey,
        new: &MasterKey,
    ) -> Result<(), StoreError> {
        files::check_exists(path)?;
        let path = &files::resolve(path);
        let database = Sqlite::new(path, None);
        let result = rotation::rotate(&database, old, new).await;
        if result.is_ok() {
            // What the data key before has encrypted was overwritten in the file. Here it leaves the log beside it too, unless
            // a server is reading just now.
            let _ = database.empty_log().await;
        }
        database.close().await;
        result
    }

    /// Copies the store into the new file `to`, while a server may use it.
    ///
    /// # Errors
    /// `StoreErrorKind::NameTaken` if `to` exists; `StoreErrorKind::NotWritable`.
    pub async fn backup(path: &Path, to: &Path) -> Result<(), StoreError> {
        files::check_exists(path)?;
        let database = Sqlite::read_only(&files::resolve(path));
        let result = files::backup(&database, to).await;
        database.close().await;
        result
    }

    /// Puts a backup in the place of the store, which no server may have open. The store before is kept beside it as
    /// `<name>.before-restore`, or with a number behind it that is free. Returns that name; `None` if there was no store.
    ///
    /// # Errors
    /// `StoreErrorKind::InUse`, `StoreErrorKind::NewerSchema`, `StoreErrorKind::NotWritable`;
    /// `StoreErrorKind::Internal` if `backup` is damaged or no store of keypool. The store is not changed then.
    pub async fn restore(backup: &Path, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        let path = files::resolve(path);
        let _lock = files::lock(&path)?;
        files::restore(backup, &path).await
    }
}

impl Sqlite {
    /// A file to read and write. No connection is made yet, and no file created.
    fn new(path: &Path, lock: Option<Lock>) -> Self {
        let writer = options(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // What was deleted must not stay readable in the file.
            .pragma("secure_delete", "ON");
        let interrupt = Interrupt::default();
        Self {
            path: path.to_owned(),
            writer: interrupt.install(pool(1)).connect_lazy_with(writer),
            interrupt,
            readers: readers(path),
            _lock: lock,
        }
    }

    /// A file that is only read.
    fn read_only(path: &Path) -> Self {
        let readers = readers(path);
        Self {
            path: path.to_owned(),
            writer: readers.clone(),
            interrupt: Interrupt::default(),
            readers,
            _lock: None,
        }
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        error::convert(error, &self.path)
    }

    async fn begin(
        &self,
        pool: &SqlitePool,
        statement: &'static str,
        interrupt: Interrupt,
    ) -> Result<Box<dyn Transaction>, StoreError> {
        let transaction = pool
            .begin_with(statement)
            .await
            .map_err(|error| self.error(&error))?;
        Ok(Box::new(SqliteTransaction::new(
            transaction,
            self.path.clone(),
            interrupt,
        )))
    }

    /// Moves the log that is beside the file into it, and empties it.
    async fn empty_log(&self) -> Result<(), StoreError> {
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        sqlx::query(sql)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|error| self.error(&error))
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false);
    options.busy_timeout(BUSY_TIMEOUT).foreign_keys(true)
}

fn readers(path: &Path) -> SqlitePool {
    pool(READERS).connect_lazy_with(options(path).read_only(true))
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
}

#[async_trait]
impl Database for Sqlite {
    fn migrations(&self) -> &'static [&'static str] {
        &[
            include_str!("0001.sql"),
            include_str!("0002.sql"),
            include_str!("0003.sql"),
            include_str!("0004.sql"),
        ]
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn has_schema(&self) -> &'static str {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'keypool_schema'"
    }

    async fn read(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.begin(&self.readers, "BEGIN", Interrupt::default())
            .await
    }

    async fn write(&self) -> Result<Box<dyn Transaction>, StoreError> {
        // With the lock from the start: a transaction that has read cannot wait for one.
        let interrupt = self.interrupt.clone();
        self.begin(&self.writer, "BEGIN IMMEDIATE", interrupt).await
    }

    async fn migrate(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.write().await
    }

    async fn close(&self) {
        self.readers.close().await;
        // The last connection to be closed moves the log into the file.
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In this mode, SQLite returns from a commit once the log is on disk (sqlite.org/pragma.html#pragma_synchronous): what was
    /// acknowledged survives a power cut.
    #[tokio::test]
    async fn a_commit_returns_once_it_is_on_disk() {
        const FULL: i64 = 2;
        let path = std::env::temp_dir().join(format!("keypool-full-sync-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let database = Sqlite::new(&path, None);
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&database.writer)
            .await
            .unwrap();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&database.writer)
            .await
            .unwrap();
        assert_eq!((synchronous, &*mode), (FULL, "wal"));
        database.close().await;
        std::fs::remove_file(&path).unwrap();
    }
}
