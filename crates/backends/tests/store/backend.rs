//! The stores under test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypool_backends::store::{MasterKey, PostgresStore, SqliteStore};
use keypool_core::store::{CatalogStore, Store, StoreError};
use sqlx::Connection;

use crate::postgres::PostgresServer;

/// A directory that is removed when dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("keypool-store-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A database, and a store that has it open.
pub(crate) struct Backend {
    place: Place,
    store: Option<Arc<dyn Store>>,
}

enum Place {
    Sqlite(Directory),
    /// The server is stopped when dropped.
    Postgres {
        _server: Arc<PostgresServer>,
        url: String,
    },
}

pub(crate) fn master_key() -> MasterKey {
    MasterKey::new("the master key of these tests")
}

impl Backend {
    pub(crate) async fn sqlite() -> Self {
        Self::in_place(Place::Sqlite(Directory::new())).await
    }

    pub(crate) async fn postgres() -> Self {
        let server = PostgresServer::shared().await;
        let url = server.create_database().await;
        Self::in_place(Place::Postgres {
            _server: server,
            url,
        })
        .await
    }

    async fn in_place(place: Place) -> Self {
        let mut backend = Self { place, store: None };
        backend.store = Some(backend.open(&master_key()).await.unwrap());
        backend
    }

    /// The store that is open.
    pub(crate) fn store(&self) -> &dyn Store {
        &**self.store.as_ref().unwrap()
    }

    /// Closes the store that is open, and opens the database again.
    pub(crate) async fn reopen(&mut self) -> &dyn Store {
        self.close();
        self.store = Some(self.open(&master_key()).await.unwrap());
        self.store()
    }

    /// Closes the store that is open.
    pub(crate) fn close(&mut self) {
        self.store = None;
    }

    /// Opens the database. With SQLite, no other store may have it open.
    pub(crate) async fn open(&self, master_key: &MasterKey) -> Result<Arc<dyn Store>, StoreError> {
        match &self.place {
            Place::Sqlite(directory) => Ok(Arc::new(
                SqliteStore::open(&directory.path("keypool.db"), master_key).await?,
            )),
            Place::Postgres { url, .. } => {
                let store = PostgresStore::new(url, master_key)?;
                store.revision().await?;
                Ok(Arc::new(store))
            }
        }
    }

    pub(crate) async fn rotate(&self, old: &MasterKey, new: &MasterKey) -> Result<(), StoreError> {
        match &self.place {
            Place::Sqlite(directory) => {
                SqliteStore::rotate_master_key(&directory.path("keypool.db"), old, new).await
            }
            Place::Postgres { url, .. } => PostgresStore::rotate_master_key(url, old, new).await,
        }
    }

    /// The URL of the database.
    pub(crate) fn url(&self) -> String {
        match &self.place {
            Place::Sqlite(directory) => {
                format!("sqlite://{}", directory.path("keypool.db").display())
            }
            Place::Postgres { url, .. } => url.clone(),
        }
    }

    /// Empties the database, which no store may have open.
    pub(crate) async fn empty(&self) {
        match &self.place {
            Place::Sqlite(directory) => {
                for file in std::fs::read_dir(directory.path("")).unwrap() {
                    std::fs::remove_file(file.unwrap().path()).unwrap();
                }
            }
            Place::Postgres { .. } => {
                self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                    .await
            }
        }
    }

    /// Executes statements beside the store.
    pub(crate) async fn sql(&self, sql: &str) {
        let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match &self.place {
            Place::Sqlite(_) => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url()).await.unwrap();
                query.execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Place::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                query.execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Everything that is stored: the bytes of the files, or every row as text.
    pub(crate) async fn contents(&self) -> Vec<u8> {
        match &self.place {
            Place::Sqlite(directory) => {
                let files = std::fs::read_dir(directory.path("")).unwrap();
                files
                    .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
                    .collect()
            }
            Place::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                let sql = "SELECT CAST(database_to_xml(TRUE, FALSE, '') AS TEXT)";
                let text: String = sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
                connection.close().await.unwrap();
                text.into_bytes()
            }
        }
    }
}

/// Makes a test of each function for each database.
macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::backend::Backend::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::backend::Backend::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_every_store;
