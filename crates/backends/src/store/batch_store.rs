//! Files and batches on any SQL database.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keypool_core::store::{
    BatchEnding, BatchPart, BatchQuery, BatchRecord, BatchStore, FileDeletion, FileQuery,
    FileRecord, FileStore, JobClaim, JobLimit, JobLimits, LineResult, LineState, NewBatch, NewFile,
    ResultStored, ResultsOf, StoreError,
};

use super::jobs::JobsWrite;
use super::sql::Database;
use super::sql_store::{DEADLINE, LONG_DEADLINE, SqlStore, in_time, until_committed};
use super::{batches, files};

/// Reads in a transaction.
macro_rules! read {
    ($store:expr, $transaction:ident => $read:expr) => {
        in_time(DEADLINE, async {
            $store.keys().await?;
            let mut $transaction = $store.database().read().await?;
            $read.await
        })
        .await
    };
}

/// Changes jobs, batches or files, and commits.
macro_rules! change {
    ($store:expr, $write:ident => $change:expr) => {{
        let changed = in_time(LONG_DEADLINE, async {
            $store.keys().await?;
            let mut $write = JobsWrite::begin($store.database()).await?;
            let outcome = $change.await?;
            Ok(($write, outcome))
        });
        let (write, outcome) = changed.await?;
        until_committed(write.commit()).await?;
        Ok(outcome)
    }};
}

#[async_trait]
impl<D: Database> FileStore for SqlStore<D> {
    async fn begin_file(&self, file: &NewFile) -> Result<(), StoreError> {
        change!(self, write => files::begin(&mut write, file))
    }

    async fn add_file_piece(&self, id: &str, piece: u32, data: Bytes) -> Result<(), StoreError> {
        in_time(LONG_DEADLINE, async {
            self.keys().await?;
            let mut transaction = self.database().write().await?;
            files::add_piece(&mut *transaction, id, piece, data).await?;
            transaction.commit().await
        })
        .await
    }

    async fn complete_file(
        &self,
        id: &str,
        bytes: u64,
        keep: Option<Duration>,
        limits: &JobLimits,
    ) -> Result<Option<JobLimit>, StoreError> {
        change!(self, write => async {
            let exceeded = files::complete(&mut write, id, (bytes, keep), limits).await?;
            if exceeded.is_some() {
                files::delete(&mut write, &[id.to_owned()]).await?;
            }
            Ok(exceeded)
        })
    }

    async fn file(&self, id: &str) -> Result<Option<FileRecord>, StoreError> {
        read!(self, transaction => files::read(&mut *transaction, id))
    }

    async fn list_files(&self, query: &FileQuery) -> Result<Vec<FileRecord>, StoreError> {
        read!(self, transaction => files::list(&mut *transaction, query))
    }

    async fn file_piece(&self, id: &str, piece: u32) -> Result<Bytes, StoreError> {
        read!(self, transaction => files::piece(&mut *transaction, id, piece))
    }

    async fn delete_file(&self, id: &str) -> Result<FileDeletion, StoreError> {
        change!(self, write => async {
            if files::is_in_use(&mut write, id).await? {
                return Ok(FileDeletion::InUse);
            }
            Ok(match files::delete(&mut write, &[id.to_owned()]).await? {
                true => FileDeletion::Deleted,
                false => FileDeletion::Missing,
            })
        })
    }
}

#[async_trait]
impl<D: Database> BatchStore for SqlStore<D> {
    async fn add_batch(&self, batch: &NewBatch) -> Result<(), StoreError> {
        change!(self, write => batches::add(&mut write, batch))
    }

    async fn batch(&self, id: &str) -> Result<Option<BatchRecord>, StoreError> {
        read!(self, transaction => batches::by_id(&mut *transaction, id))
    }

    async fn list_batches(&self, query: &BatchQuery) -> Result<Vec<BatchRecord>, StoreError> {
        read!(self, transaction => batches::list(&mut *transaction, query))
    }

    async fn begin_batch(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        model: Option<&str>,
        parts: &[BatchPart],
    ) -> Result<bool, StoreError> {
        change!(self, write => batches::begin(&mut write, by, id, model, parts))
    }

    async fn fail_batch(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        errors: &str,
    ) -> Result<bool, StoreError> {
        change!(self, write => batches::fail(&mut write, by, id, errors))
    }

    async fn line_states(
        &self,
        id: &str,
        lines: Range<u64>,
    ) -> Result<Vec<(u64, LineState)>, StoreError> {
        read!(self, transaction => batches::line_states(&mut *transaction, id, lines))
    }

    async fn note_line_sent(
        &self,
        by: (u64, &JobClaim),
        id: &str,
        line: u64,
    ) -> Result<bool, StoreError> {
        change!(self, write => batches::note_sent(&mut write, by, id, line))
    }

    async fn add_results(
        &self,
        node: u64,
        results: &[LineResult],
    ) -> Result<Vec<ResultStored>, StoreError> {
        change!(self, write => batches::add_results(&mut write, node, results))
    }

    async fn begin_ending(&self, id: &str, ending: BatchEnding) -> Result<bool, StoreError> {
        change!(self, write => batches::begin_ending(&mut write, id, ending))
    }

    async fn running_parts(&self, id: &str) -> Result<u64, StoreError> {
        read!(self, transaction => batches::running_parts(&mut *transaction, id))
    }

    async fn end_batch(&self, by: (u64, &JobClaim), id: &str) -> Result<bool, StoreError> {
        change!(self, write => batches::end(&mut write, by, id))
    }

    async fn results(&self, of: &ResultsOf, after: u64) -> Result<Vec<(u64, String)>, StoreError> {
        read!(self, transaction => batches::results(&mut *transaction, of, after))
    }
}
