//! Stops a statement of the writer for which nobody waits any longer.
//!
//! SQLite executes a statement in a thread of its own, which goes on when a deadline passes. It would hold the only writer
//! until it ends, which may be much later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Connection;
use sqlx::sqlite::SqlitePoolOptions;

/// After this number of its instructions, SQLite asks whether the statement is still waited for.
const INSTRUCTIONS: i32 = 10_000;

/// Whether the statement that runs on the only connection of a pool must stop.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Lets statements of this pool be stopped. It must have one connection only.
    pub(super) fn install(&self, pool: SqlitePoolOptions) -> SqlitePoolOptions {
        let (connected, released) = (self.clone(), self.clone());
        pool.after_connect(move |connection, _| {
            let interrupt = connected.clone();
            Box::pin(async move {
                let mut handle = connection.lock_handle().await?;
                handle.set_progress_handler(INSTRUCTIONS, move || !interrupt.is_set());
                Ok(())
            })
        })
        .after_release(move |connection, _| {
            let interrupt = released.clone();
            Box::pin(async move {
                // Answered once all that the connection was asked has ended.
                let ended = connection.ping().await;
                let was_stopped = interrupt.0.swap(false, Ordering::AcqRel);
                // SQLite undoes a transaction by itself when a statement is stopped or the disk is full. sqlx does not know
                // that, and would refuse every later transaction on this connection: a new one takes its place.
                ended.map(|()| !was_stopped && !connection.is_in_transaction())
            })
        })
    }

    /// Waits for a statement, which is stopped if this future is dropped before.
    pub(super) async fn unless_dropped<T>(&self, statement: impl Future<Output = T>) -> T {
        let mut waiting = Waiting {
            interrupt: self,
            has_ended: false,
        };
        let result = statement.await;
        waiting.has_ended = true;
        result
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Waiting<'a> {
    interrupt: &'a Interrupt,
    has_ended: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.interrupt.0.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keypool_core::store::StoreErrorKind;

    use super::super::Sqlite;
    use crate::store::sql::Database;

    #[tokio::test]
    async fn a_statement_that_is_given_up_does_not_hold_the_writer() {
        let path = std::env::temp_dir().join(format!("keypool-interrupt-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let database = Sqlite::new(&path, None);
        let mut write = database.write().await.unwrap();
        write.script("CREATE TABLE t (n)").await.unwrap();
        write.commit().await.unwrap();

        let endless = "INSERT INTO t WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) \
                       SELECT COUNT(*) FROM c";
        for _ in 0..3 {
            let mut write = database.write().await.unwrap();
            let statement = write.execute(endless, vec![]);
            let given_up = tokio::time::timeout(Duration::from_millis(50), statement).await;
            assert!(given_up.is_err());
            drop(write);
            let mut next = database.write().await.unwrap();
            next.execute("INSERT INTO t VALUES (1)", vec![])
                .await
                .unwrap();
            next.commit().await.unwrap();
        }
        let mut read = database.read().await.unwrap();
        let rows = read.fetch("SELECT n FROM t", vec![]).await.unwrap();
        assert_eq!(rows.len(), 3);
        drop(read);
        database.close().await;
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn writes_go_on_when_a_full_disk_has_space_again() {
        let path = std::env::temp_dir().join(format!("keypool-full-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let database = Sqlite::new(&path, None);
        let mut write = database.write().await.unwrap();
        write.script("CREATE TABLE t (n)").await.unwrap();
        write.script("PRAGMA max_page_count = 2").await.unwrap();
        write.commit().await.unwrap();

        let large = "INSERT INTO t VALUES (zeroblob(100000))";
        let mut write = database.write().await.unwrap();
        let full = write.execute(large, vec![]).await.unwrap_err();
        assert_eq!(full.kind, StoreErrorKind::NotWritable);
        drop(write);

        // Only the connection that was full has that bound.
        let mut write = database.write().await.unwrap();
        write.execute(large, vec![]).await.unwrap();
        write.commit().await.unwrap();
        database.close().await;
        std::fs::remove_file(&path).unwrap();
    }
}
