//! Files that callers keep here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keypool_core::store::{
    FileQuery, FileRecord, JobLimit, JobLimits, NewFile, ResultsOf, StoreError,
};
use serde_json::json;

use super::convert::{count, next_time, text, time};
use super::jobs::{Delta, JobsWrite, name};
use super::sql::{Param, Row, Transaction, params};
use super::transaction::with_rows;

/// How long an upload of which nothing more comes is kept, in milliseconds.
const UPLOAD_KEPT: i64 = 3_600_000;
/// Maximum number of files deleted at once.
const MAX_FORGOTTEN: i64 = 20;

/// The order of a file among all: a change creates at most three.
pub(super) fn created_in(write: &JobsWrite, place: i64) -> i64 {
    4 * write.revision() + place
}

/// Begins an upload.
pub(super) async fn begin(write: &mut JobsWrite, file: &NewFile) -> Result<(), StoreError> {
    let keep = i64::try_from(file.keep.as_millis()).unwrap_or(i64::MAX);
    let params = params![
        &*file.id,
        created_in(write, 0),
        text(file.caller.as_deref().unwrap_or_default()),
        text(&file.filename),
        text(&file.purpose),
        write.now(),
        write.now().saturating_add(keep),
    ];
    write.execute(BEGIN, params).await.map(drop)
}

const BEGIN: &str = "
INSERT INTO files (id, created_in, caller, filename, purpose, bytes, is_complete, of_errors, created_at, touched_at,
  expires_at) VALUES ($1, $2, $3, $4, $5, 0, 0, 0, $6, $6, $7)";

/// Stores a piece of an upload.
pub(super) async fn add_piece(
    transaction: &mut dyn Transaction,
    id: &str,
    piece: u32,
    data: Bytes,
) -> Result<(), StoreError> {
    let params = params![id, i64::from(piece), Param::Bytes(data.into())];
    transaction.execute(ADD_PIECE, params).await?;
    let sql = "UPDATE files SET touched_at = {now} WHERE id = $1";
    transaction.execute(sql, params![id]).await.map(drop)
}

const ADD_PIECE: &str = "
INSERT INTO file_pieces (file, piece, data) VALUES ($1, $2, $3)
ON CONFLICT (file, piece) DO UPDATE SET data = excluded.data";

/// Ends an upload. Returns the limit that it would exceed.
pub(super) async fn complete(
    write: &mut JobsWrite,
    id: &str,
    (bytes, keep): (u64, Option<Duration>),
    limits: &JobLimits,
) -> Result<Option<JobLimit>, StoreError> {
    let sql = "SELECT f.caller, COALESCE(c.stored, 0) FROM files AS f LEFT JOIN job_callers AS c ON c.caller = f.caller \
               WHERE f.id = $1 AND f.is_complete = 0";
    let rows = write.fetch(sql, params![id]).await?;
    let Some(mut row) = rows.into_iter().next() else {
        return Err(gone());
    };
    let (caller, own) = (row.text()?, row.int()?);
    let bytes = count(bytes);
    if own + bytes > count(limits.max_stored_per_caller) {
        return Ok(Some(JobLimit::StoredPerCaller));
    }
    if write.stored() + bytes > count(limits.max_stored) {
        return Ok(Some(JobLimit::Stored));
    }
    let sql = "UPDATE files SET is_complete = 1, bytes = $2, created_in = $3, \
               expires_at = CASE WHEN $4 = 0 THEN expires_at ELSE created_at + $4 END WHERE id = $1";
    let keep = keep.map_or(0, |keep| {
        i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)
    });
    let params = params![id, bytes, created_in(write, 0), keep];
    write.execute(sql, params).await?;
    let delta = Delta {
        stored: bytes,
        ..Delta::default()
    };
    write.count(&BTreeMap::from([(caller, delta)])).await?;
    Ok(None)
}

fn gone() -> StoreError {
    let kind = keypool_core::store::StoreErrorKind::Missing;
    StoreError::new(
        kind,
        "the upload was deleted, since nothing came for an hour; upload it again",
    )
}

fn record(mut row: Row) -> Result<FileRecord, StoreError> {
    Ok(FileRecord {
        id: row.text()?.into(),
        caller: name(row.text()?),
        filename: row.text()?,
        purpose: row.text()?,
        bytes: row.count()?,
        created_at: next_time(&mut row)?,
        expires_at: row.optional_int()?.map(time),
        results_of: match (row.optional_text()?, row.flag()?) {
            (Some(batch), errors) => Some(ResultsOf {
                batch: batch.into(),
                errors,
            }),
            (None, _) => None,
        },
    })
}

/// What is known of a file that is complete.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    id: &str,
) -> Result<Option<FileRecord>, StoreError> {
    let rows = transaction.fetch(READ, params![text(id)]).await?;
    rows.into_iter().next().map(record).transpose()
}

const READ: &str = concat!(
    "SELECT id, caller, filename, purpose, bytes, created_at, expires_at, batch, of_errors FROM files ",
    "WHERE id = $1 AND is_complete = 1"
);

/// Files.
pub(super) async fn list(
    transaction: &mut dyn Transaction,
    query: &FileQuery,
) -> Result<Vec<FileRecord>, StoreError> {
    let mut after = if query.oldest_first { -1 } else { i64::MAX };
    if let Some(id) = &query.after {
        let sql = "SELECT created_in FROM files WHERE id = $1";
        let rows = transaction.fetch(sql, params![text(id)]).await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(Vec::new());
        };
        after = row.int()?;
    }
    let params = params![
        text(query.caller.as_deref().unwrap_or_default()),
        text(query.purpose.as_deref().unwrap_or_default()),
        after,
        count(query.limit as u64),
    ];
    let sql = if query.oldest_first {
        LIST_OLDEST
    } else {
        LIST_NEWEST
    };
    let rows = transaction.fetch(sql, params).await?;
    rows.into_iter().map(record).collect()
}

const LIST_NEWEST: &str = concat!(
    "SELECT id, caller, filename, purpose, bytes, created_at, expires_at, batch, of_errors FROM files ",
    "WHERE caller = $1 AND ($2 = '' OR purpose = $2) AND is_complete = 1 AND created_in < $3 ",
    "ORDER BY created_in DESC LIMIT $4"
);

const LIST_OLDEST: &str = concat!(
    "SELECT id, caller, filename, purpose, bytes, created_at, expires_at, batch, of_errors FROM files ",
    "WHERE caller = $1 AND ($2 = '' OR purpose = $2) AND is_complete = 1 AND created_in > $3 ",
    "ORDER BY created_in LIMIT $4"
);

/// A piece of an uploaded file; empty after the last one.
pub(super) async fn piece(
    transaction: &mut dyn Transaction,
    id: &str,
    piece: u32,
) -> Result<Bytes, StoreError> {
    let sql = "SELECT data FROM file_pieces WHERE file = $1 AND piece = $2";
    let params = params![text(id), i64::from(piece)];
    match transaction.fetch(sql, params).await?.into_iter().next() {
        Some(mut row) => Ok(row.bytes()?.into()),
        None => Ok(Bytes::new()),
    }
}

/// Whether a batch that has not ended reads the file.
pub(super) async fn is_in_use(write: &mut JobsWrite, id: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM file_batches WHERE input_file = $1 AND ended_at IS NULL LIMIT 1";
    Ok(!write.fetch(sql, params![text(id)]).await?.is_empty())
}

/// Deletes these files, and the results that they have.
pub(super) async fn delete(write: &mut JobsWrite, ids: &[String]) -> Result<bool, StoreError> {
    let rows = || {
        ids.iter()
            .map(|id| json!({ "id": text(id) }))
            .collect::<Vec<_>>()
    };
    if ids.is_empty() {
        return Ok(false);
    }
    write
        .execute(DELETE_RESULTS, with_rows(rows(), vec![]))
        .await?;
    let sql = "DELETE FROM file_pieces WHERE file IN (SELECT r.value->>'id' FROM {rows} AS r)";
    write.execute(sql, with_rows(rows(), vec![])).await?;
    let sql = "DELETE FROM files WHERE id IN (SELECT r.value->>'id' FROM {rows} AS r) RETURNING caller, bytes";
    let mut deltas: BTreeMap<String, Delta> = BTreeMap::new();
    let deleted = write.fetch(sql, with_rows(rows(), vec![])).await?;
    let is_any = !deleted.is_empty();
    for mut row in deleted {
        let (caller, bytes) = (row.text()?, row.int()?);
        deltas.entry(caller).or_default().stored -= bytes;
    }
    write.count(&deltas).await?;
    Ok(is_any)
}

const DELETE_RESULTS: &str = "
DELETE FROM batch_results WHERE (batch, kind) IN (SELECT f.batch, f.of_errors FROM {rows} AS r
  JOIN files AS f ON f.id = (r.value->>'id') WHERE f.batch IS NOT NULL)";

/// Deletes files that are kept no longer, and uploads that came to nothing.
pub(super) async fn forget(write: &mut JobsWrite) -> Result<(), StoreError> {
    let sql = "SELECT id FROM files WHERE (expires_at IS NOT NULL AND expires_at <= $1) \
               OR (is_complete = 0 AND touched_at <= $2) LIMIT $3";
    let params = params![write.now(), write.now() - UPLOAD_KEPT, MAX_FORGOTTEN];
    let mut ids = Vec::new();
    for mut row in write.fetch(sql, params).await? {
        ids.push(row.text()?);
    }
    delete(write, &ids).await.map(drop)
}
