//! The life of a batch.

use keypool_core::store::{
    BatchEnding, BatchPart, BatchStatus, JobClaim, JobPriority, NewBatch, StoreError,
};
use serde_json::{Value, json};

use crate::store::convert::{count, text};
use crate::store::files;
use crate::store::jobs::{JobsWrite, KIND_END, KIND_PART, KIND_VALIDATION, is_claimed};
use crate::store::sql::{Row, params};

/// Maximum number of batches deleted at once. Each may have many results.
const MAX_FORGOTTEN: i64 = 10;
/// The queue of what belongs to no pool.
const NO_POOL: &str = "";

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Creates a batch, with the job that checks its file.
pub(in crate::store) async fn add(
    write: &mut JobsWrite,
    batch: &NewBatch,
) -> Result<(), StoreError> {
    let (now, revision) = (write.now(), write.revision());
    let [output, error] = &batch.result_files;
    let caller = text(batch.caller.as_deref().unwrap_or_default());
    let params = params![
        &*batch.id,
        revision,
        &*caller,
        text(&batch.endpoint),
        text(&batch.input_file),
        &**output,
        &**error,
        batch.metadata.as_deref().map(text),
        millis(batch.keep_results),
        now,
        now.saturating_add(millis(batch.window)),
    ];
    write.execute(ADD, params).await?;
    let job = Step {
        id: format!("{}.check", batch.id),
        kind: KIND_VALIDATION,
        weight: 1,
        pool: NO_POOL.to_owned(),
        request: batch.request.clone(),
        turn: 0,
    };
    add_steps(write, &batch.id, &caller, vec![job]).await
}

const ADD: &str = "
INSERT INTO file_batches (id, created_in, caller, endpoint, input_file, output_file, error_file, status, metadata, total,
  completed, failed, output_bytes, error_bytes, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
  keep_results, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'validating', $8, 0, 0, 0, 0, 0, 0, 0, 0, 0, $9, $10, $11)";

/// A job that is a step of a batch.
struct Step {
    id: String,
    kind: &'static str,
    weight: u64,
    pool: String,
    request: String,
    turn: i64,
}

async fn add_steps(
    write: &mut JobsWrite,
    batch: &str,
    caller: &str,
    steps: Vec<Step>,
) -> Result<(), StoreError> {
    let rows = steps.into_iter().enumerate().map(|(place, step)| {
        json!({
            "id": step.id,
            "kind": step.kind,
            "weight": count(step.weight),
            "place": place,
            "pool": text(&step.pool),
            "turn": step.turn,
            "request": text(&step.request),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let params = params![batch, caller, write.now(), write.revision(), i64::MAX];
    write.execute_rows(ADD_STEPS, rows, params).await.map(drop)
}

const ADD_STEPS: &str = "
INSERT INTO jobs (id, kind, weight, batch, created_in, place, caller, pool, priority, turn, status, is_due, attempts,
  claims, is_repeatable, was_sent, request, request_bytes, response_bytes, created_at, deadline_at, changed_in)
SELECT r.value->>'id', r.value->>'kind', CAST(r.value->>'weight' AS BIGINT), $2, $5,
  CAST(r.value->>'place' AS BIGINT), $3, r.value->>'pool', 'low', CAST(r.value->>'turn' AS BIGINT), 'queued', 1, 0, 0, 1,
  0, r.value->>'request', 0, 0, $4, $6, $5
FROM {rows} AS r WHERE TRUE
ON CONFLICT (id) DO NOTHING";

/// Begins the calls of a batch whose file is valid.
pub(in crate::store) async fn begin(
    write: &mut JobsWrite,
    by: (u64, &JobClaim),
    id: &str,
    model: Option<&str>,
    parts: &[BatchPart],
) -> Result<bool, StoreError> {
    if !is_claimed(write, by).await? {
        return Ok(false);
    }
    let total: u64 = parts.iter().map(|part| part.calls).sum();
    let sql = "UPDATE file_batches SET status = 'in_progress', in_progress_at = $2, total = $3, model = $4 \
               WHERE id = $1 AND status = 'validating' RETURNING caller";
    let params = params![id, write.now(), count(total), model.map(text)];
    let Some(mut row) = write.fetch(sql, params).await?.into_iter().next() else {
        return Ok(false);
    };
    let caller = row.text()?;
    let mut steps = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        steps.push(Step {
            id: format!("{id}.{number}"),
            kind: KIND_PART,
            weight: part.calls,
            pool: part.pool.to_string(),
            request: part.request.clone(),
            turn: 0,
        });
    }
    set_turns(write, &caller, &mut steps).await?;
    add_steps(write, id, &caller, steps).await?;
    Ok(true)
}

/// Lines take turns with jobs like jobs of low priority.
async fn set_turns(
    write: &mut JobsWrite,
    caller: &str,
    steps: &mut [Step],
) -> Result<(), StoreError> {
    let flows = steps.iter().map(|step| {
        (
            text(&step.pool),
            caller.to_owned(),
            JobPriority::Low.as_str(),
        )
    });
    let mut turns = crate::store::jobs::Turns::read(write, flows.collect()).await?;
    for step in steps {
        let flow = (
            text(&step.pool),
            caller.to_owned(),
            JobPriority::Low.as_str(),
        );
        step.turn = turns.next(flow, JobPriority::Low.cost() * step.weight);
    }
    turns.store(write).await
}

/// Ends a batch whose file has mistakes.
pub(in crate::store) async fn fail(
    write: &mut JobsWrite,
    by: (u64, &JobClaim),
    id: &str,
    errors: &str,
) -> Result<bool, StoreError> {
    if !is_claimed(write, by).await? {
        return Ok(false);
    }
    let sql = "UPDATE file_batches SET status = 'failed', errors = $2, ended_at = $3 WHERE id = $1 AND status = 'validating'";
    let params = params![id, text(errors), write.now()];
    Ok(write.execute(sql, params).await? > 0)
}

/// Begins to end a batch before all its calls were made.
pub(in crate::store) async fn begin_ending(
    write: &mut JobsWrite,
    id: &str,
    ending: BatchEnding,
) -> Result<bool, StoreError> {
    let params = params![
        id,
        ending.status().as_str(),
        write.now(),
        matches!(ending, BatchEnding::Cancelled)
    ];
    let Some(mut row) = write.fetch(BEGIN_ENDING, params).await?.into_iter().next() else {
        return Ok(false);
    };
    let caller = row.text()?;
    let sql = "DELETE FROM jobs WHERE batch = $1 AND (status = 'queued' OR kind = $2)";
    write.execute(sql, params![id, KIND_VALIDATION]).await?;
    let job = Step {
        id: format!("{id}.end"),
        kind: KIND_END,
        weight: 1,
        pool: NO_POOL.to_owned(),
        request: "{}".to_owned(),
        turn: 0,
    };
    add_steps(write, id, &caller, vec![job]).await?;
    Ok(true)
}

const BEGIN_ENDING: &str = "
UPDATE file_batches SET ending = $2, status = CASE WHEN $4 = 1 THEN 'cancelling' ELSE status END,
  cancelling_at = CASE WHEN $4 = 1 THEN $3 END
WHERE id = $1 AND ended_at IS NULL AND ending IS NULL RETURNING caller";

/// Begins to end the batches that have expired.
pub(in crate::store) async fn expire(write: &mut JobsWrite) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM file_batches WHERE ended_at IS NULL AND ending IS NULL AND expires_at <= $1";
    let now = write.now();
    let expired = write.fetch(sql, params![now]).await?;
    let is_any = !expired.is_empty();
    for mut row in expired {
        begin_ending(write, &row.text()?, BatchEnding::Expired).await?;
    }
    Ok(is_any)
}

/// Ends a batch of which no part runs any more.
pub(in crate::store) async fn end(
    write: &mut JobsWrite,
    by: (u64, &JobClaim),
    id: &str,
) -> Result<bool, StoreError> {
    if !is_claimed(write, by).await? {
        return Ok(false);
    }
    let sql = "UPDATE file_batches SET status = ending, ended_at = $2, finalizing_at = $2 \
               WHERE id = $1 AND ended_at IS NULL AND ending IS NOT NULL";
    let params = params![id, write.now()];
    if write.execute(sql, params).await? > 0 {
        add_result_files(write, id).await?;
    }
    Ok(true)
}

/// Completes a batch of which all calls were made.
pub(super) async fn complete(write: &mut JobsWrite, id: &str) -> Result<(), StoreError> {
    let sql = "UPDATE file_batches SET status = $3, ended_at = $2, finalizing_at = $2 \
               WHERE id = $1 AND ended_at IS NULL AND ending IS NULL AND completed + failed >= total";
    let params = params![id, write.now(), BatchStatus::Completed.as_str()];
    if write.execute(sql, params).await? > 0 {
        add_result_files(write, id).await?;
    }
    Ok(())
}

/// Creates the files with the results and the errors of a batch, those that are not empty.
async fn add_result_files(write: &mut JobsWrite, id: &str) -> Result<(), StoreError> {
    for errors in [false, true] {
        let created_in = files::created_in(write, 1 + i64::from(errors));
        let params = params![id, errors, created_in, write.now()];
        let added = write.fetch(ADD_FILE, params).await?;
        for row in added {
            count_file(write, row).await?;
        }
    }
    Ok(())
}

async fn count_file(write: &mut JobsWrite, mut row: Row) -> Result<(), StoreError> {
    let (caller, stored) = (row.text()?, row.int()?);
    let delta = crate::store::jobs::Delta { stored, unended: 0 };
    write.count(&[(caller, delta)].into()).await
}

const ADD_FILE: &str = "
INSERT INTO files (id, created_in, caller, filename, purpose, bytes, is_complete, batch, of_errors, created_at,
  touched_at, expires_at)
SELECT CASE WHEN $2 = 1 THEN error_file ELSE output_file END, $3, caller,
  id || CASE WHEN $2 = 1 THEN '_error.jsonl' ELSE '_output.jsonl' END, 'batch_output',
  CASE WHEN $2 = 1 THEN error_bytes ELSE output_bytes END, 1, id, $2, $4, $4, $4 + keep_results
FROM file_batches WHERE id = $1 AND CASE WHEN $2 = 1 THEN failed ELSE completed END > 0
RETURNING caller, bytes";

/// Deletes batches whose results are kept no longer.
pub(in crate::store) async fn forget(write: &mut JobsWrite) -> Result<(), StoreError> {
    let sql = "SELECT id, output_file, error_file FROM file_batches \
               WHERE ended_at IS NOT NULL AND ended_at + keep_results <= $1 LIMIT $2";
    let params = params![write.now(), MAX_FORGOTTEN];
    let (mut rows, mut files) = (Vec::new(), Vec::new());
    for mut row in write.fetch(sql, params).await? {
        rows.push(json!({ "id": row.text()? }));
        files.extend([row.text()?, row.text()?]);
    }
    files::delete(write, &files).await?;
    for sql in [
        "DELETE FROM batch_results WHERE batch IN (SELECT r.value->>'id' FROM {rows} AS r)",
        "DELETE FROM file_batches WHERE id IN (SELECT r.value->>'id' FROM {rows} AS r)",
    ] {
        write.execute_rows(sql, rows.clone(), vec![]).await?;
    }
    Ok(())
}
