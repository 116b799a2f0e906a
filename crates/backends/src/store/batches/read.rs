//! Reading batches.

use std::ops::Range;

use keypool_core::store::{
    BatchEnding, BatchQuery, BatchRecord, BatchStatus, BatchUsage, LineState, ResultsOf, StoreError,
};

use super::results::SENT;
use crate::store::convert::{count, next_time, text, time};
use crate::store::jobs::{KIND_PART, name};
use crate::store::sql::{Row, Transaction, params, unexpected};

/// Maximum number of results read at once.
const MAX_RESULTS: i64 = 64;

/// What is known of a batch.
pub(in crate::store) async fn by_id(
    transaction: &mut dyn Transaction,
    id: &str,
) -> Result<Option<BatchRecord>, StoreError> {
    let rows = transaction.fetch(BY_ID, params![text(id)]).await?;
    rows.into_iter().next().map(record).transpose()
}

/// Batches of a caller, newest first.
pub(in crate::store) async fn list(
    transaction: &mut dyn Transaction,
    query: &BatchQuery,
) -> Result<Vec<BatchRecord>, StoreError> {
    let mut before = i64::MAX;
    if let Some(after) = &query.after {
        let sql = "SELECT created_in FROM file_batches WHERE id = $1";
        let rows = transaction.fetch(sql, params![text(after)]).await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(Vec::new());
        };
        before = row.int()?;
    }
    let caller = text(query.caller.as_deref().unwrap_or_default());
    let params = params![caller, before, count(query.limit as u64)];
    let rows = transaction.fetch(LIST, params).await?;
    rows.into_iter().map(record).collect()
}

macro_rules! fields {
    ($rest:literal) => {
        concat!(
            "SELECT id, caller, endpoint, input_file, output_file, error_file, status, ending, metadata, model, errors, total, ",
            "completed, failed, input_tokens, cached_tokens, output_tokens, reasoning_tokens, created_at, in_progress_at, ",
            "expires_at, finalizing_at, cancelling_at, ended_at FROM file_batches ",
            $rest
        )
    };
}

const BY_ID: &str = fields!("WHERE id = $1");
const LIST: &str =
    fields!("WHERE caller = $1 AND created_in < $2 ORDER BY created_in DESC LIMIT $3");

fn record(mut row: Row) -> Result<BatchRecord, StoreError> {
    let id = row.text()?.into();
    let caller = name(row.text()?);
    let (endpoint, input_file) = (row.text()?, row.text()?.into());
    let files = [row.text()?, row.text()?];
    let status = BatchStatus::of(&row.text()?).ok_or_else(unexpected)?;
    let ending = match row.optional_text()?.as_deref() {
        Some("cancelled") => Some(BatchEnding::Cancelled),
        Some("expired") => Some(BatchEnding::Expired),
        _ => None,
    };
    let (metadata, model, errors) = (
        row.optional_text()?,
        row.optional_text()?,
        row.optional_text()?,
    );
    let (total, completed, failed) = (row.count()?, row.count()?, row.count()?);
    let usage = BatchUsage {
        input_tokens: row.count()?,
        cached_tokens: row.count()?,
        output_tokens: row.count()?,
        reasoning_tokens: row.count()?,
    };
    let created_at = next_time(&mut row)?;
    let in_progress_at = row.optional_int()?.map(time);
    let expires_at = next_time(&mut row)?;
    let finalizing_at = row.optional_int()?.map(time);
    let cancelling_at = row.optional_int()?.map(time);
    let ended_at = row.optional_int()?.map(time);
    let [output, error] = files;
    // A file without a line is not made.
    let has_file = |number: u64| ended_at.is_some() && number > 0;
    Ok(BatchRecord {
        id,
        caller,
        endpoint,
        input_file,
        result_files: [
            Some(output.into()).filter(|_| has_file(completed)),
            Some(error.into()).filter(|_| has_file(failed)),
        ],
        status,
        ending,
        metadata,
        model,
        errors,
        total,
        completed,
        failed,
        usage,
        created_at,
        in_progress_at,
        expires_at,
        finalizing_at,
        cancelling_at,
        ended_at,
    })
}

/// Those of these lines that have a result or were sent.
pub(in crate::store) async fn line_states(
    transaction: &mut dyn Transaction,
    id: &str,
    lines: Range<u64>,
) -> Result<Vec<(u64, LineState)>, StoreError> {
    let sql = "SELECT line, kind FROM batch_results WHERE batch = $1 AND line >= $2 AND line < $3";
    let params = params![text(id), count(lines.start), count(lines.end)];
    let rows = transaction.fetch(sql, params).await?;
    let states = rows.into_iter().map(|mut row| {
        let line = row.count()?;
        let state = match row.int()? {
            SENT => LineState::Sent,
            _ => LineState::Done,
        };
        Ok((line, state))
    });
    states.collect()
}

/// Number of parts of a batch that a node works on.
pub(in crate::store) async fn running_parts(
    transaction: &mut dyn Transaction,
    id: &str,
) -> Result<u64, StoreError> {
    let sql = "SELECT COUNT(*) FROM jobs WHERE batch = $1 AND kind = $2 AND status = 'running'";
    let rows = transaction.fetch(sql, params![text(id), KIND_PART]).await?;
    rows.into_iter().next().ok_or_else(unexpected)?.count()
}

/// Lines of the file with the results or the errors of a batch, after this line of its input.
pub(in crate::store) async fn results(
    transaction: &mut dyn Transaction,
    of: &ResultsOf,
    after: u64,
) -> Result<Vec<(u64, String)>, StoreError> {
    let sql = "SELECT line, data FROM batch_results WHERE batch = $1 AND kind = $2 AND line > $3 ORDER BY line LIMIT $4";
    let params = params![text(&of.batch), of.errors, count(after), MAX_RESULTS];
    let rows = transaction.fetch(sql, params).await?;
    rows.into_iter()
        .map(|mut row| Ok((row.count()?, row.text()?)))
        .collect()
}
