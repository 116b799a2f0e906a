//! What happens to jobs by time alone.

use std::collections::BTreeMap;
use std::time::Duration;

use keypool_core::store::{JobFailure, StoreError};
use serde_json::json;

use super::transaction::{Delta, JobsWrite};
use crate::store::sql::{Row, Transaction, params};

/// Maximum number of jobs deleted at once.
const MAX_DELETED: i64 = 500;

/// Whether a sweep would change anything.
pub(in crate::store) async fn has_work(
    transaction: &mut dyn Transaction,
    all: bool,
) -> Result<bool, StoreError> {
    Ok(!transaction.fetch(HAS_WORK, params![all]).await?.is_empty())
}

const HAS_WORK: &str = "
SELECT 1 FROM (SELECT {now} AS now) AS t WHERE
  EXISTS (SELECT 1 FROM jobs WHERE status = 'running' AND ($1 = 1 OR claimed_until <= t.now))
  OR EXISTS (SELECT 1 FROM jobs WHERE status = 'queued' AND is_due = 0 AND retry_at <= t.now)
  OR EXISTS (SELECT 1 FROM jobs WHERE status = 'queued' AND deadline_at <= t.now)
  OR EXISTS (SELECT 1 FROM jobs WHERE expires_at IS NOT NULL AND expires_at <= t.now)
  OR EXISTS (SELECT 1 FROM file_batches WHERE ended_at IS NULL AND ending IS NULL AND expires_at <= t.now)
  OR EXISTS (SELECT 1 FROM file_batches WHERE ended_at IS NOT NULL AND ended_at + keep_results <= t.now)
  OR EXISTS (SELECT 1 FROM files WHERE expires_at IS NOT NULL AND expires_at <= t.now)
  OR EXISTS (SELECT 1 FROM files WHERE is_complete = 0 AND touched_at + 3600000 <= t.now)";

/// Returns whether there is more to claim than before.
pub(in crate::store) async fn sweep(
    write: &mut JobsWrite,
    all: bool,
    keep: Duration,
) -> Result<bool, StoreError> {
    let (now, revision) = (write.now, write.revision);
    let expires_at = now.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
    let returned = write.execute(RETURN, params![now, all, revision]).await?;
    let due = write.execute(MAKE_DUE, params![now]).await?;
    let code = JobFailure::OutcomeUnknown.as_str();
    let unknown = params![now, revision, expires_at, all, code, JobFailure::UNKNOWN];
    let mut ended = write.fetch(END_UNKNOWN, unknown).await?;
    let late = params![now, revision, expires_at];
    ended.extend(write.fetch(END_LATE, late).await?);
    end(write, ended).await?;
    delete(write).await?;
    Ok(returned + due > 0)
}

/// The claim has run out, and the call may be made again.
const RETURN: &str = "
UPDATE jobs SET status = 'queued', is_due = 1, node = NULL, claimed_until = NULL, changed_in = $3
WHERE status = 'running' AND ($2 = 1 OR claimed_until <= $1) AND (is_repeatable = 1 OR was_sent = 0)";

/// The time of the next try has come.
const MAKE_DUE: &str = "
UPDATE jobs SET is_due = 1, retry_at = NULL WHERE status = 'queued' AND is_due = 0 AND retry_at <= $1";

/// The claim has run out, and the provider may have run a call that must not be made twice.
const END_UNKNOWN: &str = "
UPDATE jobs SET status = 'failed', node = NULL, claimed_until = NULL, changed_in = $2, ended_at = $1, expires_at = $3,
  webhook_at = CASE WHEN webhook IS NOT NULL THEN $1 END,
  error_code = $5, error_message = $6
WHERE status = 'running' AND ($4 = 1 OR claimed_until <= $1) RETURNING id, caller, request_bytes";

const END_LATE: &str = "
UPDATE jobs SET status = 'failed', is_due = 0, retry_at = NULL, changed_in = $2, ended_at = $1, expires_at = $3,
  webhook_at = CASE WHEN webhook IS NOT NULL THEN $1 END,
  error_code = COALESCE(error_code, 'queue_timeout'),
  error_message = COALESCE('the deadline of this job passed; at its last try: ' || error_message,
    'the deadline of this job passed before a key was free for it: add keys, or give jobs more time ([jobs] deadline)')
WHERE status = 'queued' AND deadline_at <= $1 RETURNING id, caller, request_bytes";

/// Forgets the requests of jobs that have ended.
async fn end(write: &mut JobsWrite, ended: Vec<Row>) -> Result<(), StoreError> {
    let (mut rows, mut deltas) = (Vec::new(), BTreeMap::<String, Delta>::new());
    for mut row in ended {
        rows.push(json!({ "job": row.text()? }));
        let (caller, bytes) = (row.text()?, row.int()?);
        let delta = deltas.entry(caller).or_default();
        delta.unended -= 1;
        delta.stored -= bytes;
    }
    write.execute_rows(DELETE_BODIES, rows, vec![]).await?;
    write.count(&deltas).await
}

/// Deletes jobs that are kept no longer.
async fn delete(write: &mut JobsWrite) -> Result<(), StoreError> {
    let params = params![write.now, MAX_DELETED];
    let (mut rows, mut deltas) = (Vec::new(), BTreeMap::<String, Delta>::new());
    for mut row in write.fetch(DELETE, params).await? {
        rows.push(json!({ "job": row.text()? }));
        let (caller, bytes) = (row.text()?, row.int()?);
        deltas.entry(caller).or_default().stored -= bytes;
    }
    if rows.is_empty() {
        return Ok(());
    }
    write.execute_rows(DELETE_BODIES, rows, vec![]).await?;
    write.count(&deltas).await?;
    // What says nothing that is not known without it.
    for sql in [
        "DELETE FROM job_callers WHERE unended = 0 AND stored = 0",
        "DELETE FROM job_flows WHERE turn <= (SELECT turn FROM job_pools AS p WHERE p.pool = job_flows.pool) \
         AND NOT EXISTS (SELECT 1 FROM jobs AS j WHERE j.status = 'queued' AND j.pool = job_flows.pool)",
    ] {
        write.execute(sql, vec![]).await?;
    }
    Ok(())
}

const DELETE: &str = "
DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE expires_at IS NOT NULL AND expires_at <= $1 LIMIT $2)
RETURNING id, caller, response_bytes";

const DELETE_BODIES: &str =
    "DELETE FROM job_bodies WHERE job IN (SELECT r.value->>'job' FROM {rows} AS r)";
