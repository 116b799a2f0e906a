//! What becomes of claimed jobs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use keypool_core::store::{
    AuditEntry, Cancelled, JobClaim, JobOutcome, JobResponse, JobResult, StoreError,
};
use serde_json::{Value, json};

use super::claim::node_id;
use super::transaction::{Delta, JobsWrite};
use super::{PIECE, REQUEST};
use crate::store::audit;
use crate::store::convert::{count, text};
use crate::store::sql::{Param, Transaction, params};

/// Stores a piece of the response to a claimed job. False if the claim is lost.
pub(in crate::store) async fn add_piece(
    transaction: &mut dyn Transaction,
    claim: &JobClaim,
    piece: u32,
    data: Bytes,
) -> Result<bool, StoreError> {
    let params = params![
        &*claim.id,
        i64::from(claim.attempt),
        i64::from(piece),
        Param::Bytes(data.into())
    ];
    Ok(transaction.execute(ADD_PIECE, params).await? > 0)
}

const ADD_PIECE: &str = "
INSERT INTO job_bodies (job, claim, piece, data) SELECT $1, $2, $3, $4
WHERE EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND claims = $2 AND status = 'running')
ON CONFLICT (job, claim, piece) DO UPDATE SET data = excluded.data";

/// Stores what became of claimed jobs. False for those whose claim the node does not have any more.
pub(in crate::store) async fn settle(
    write: &mut JobsWrite,
    node: u64,
    results: &[JobResult],
) -> Result<Vec<bool>, StoreError> {
    let rows = results
        .iter()
        .map(|result| row(result, write.now))
        .collect();
    let params = params![node_id(node), write.revision];
    let mut settled: HashMap<String, (String, i64, i64)> = HashMap::new();
    for mut row in write.fetch_rows(SETTLE, rows, params).await? {
        settled.insert(row.text()?, (row.text()?, row.int()?, row.int()?));
    }
    let mut deltas: BTreeMap<String, Delta> = BTreeMap::new();
    let (mut outcomes, mut kept) = (Vec::new(), Vec::new());
    for result in results {
        let id = &*result.claim.id;
        let found = settled.remove(id);
        outcomes.push(found.is_some());
        let Some((caller, request_bytes, unended)) = found else {
            kept.push(json!({ "job": id, "keep": -1, "lost": i64::from(result.claim.attempt) }));
            continue;
        };
        match &result.outcome {
            JobOutcome::Ended { response, .. } => {
                let bytes = response
                    .as_ref()
                    .map_or(0, |response| count(response.bytes));
                let delta = deltas.entry(caller).or_default();
                delta.unended -= unended;
                delta.stored += bytes - request_bytes;
                let keep = response
                    .as_ref()
                    .map_or(-1, |_| i64::from(result.claim.attempt));
                kept.push(json!({ "job": id, "keep": keep }));
            }
            JobOutcome::Retry { .. } | JobOutcome::Released => {
                kept.push(json!({ "job": id, "keep": REQUEST }));
            }
        }
    }
    write.execute_rows(DELETE_BODIES, kept, vec![]).await?;
    for (result, is_settled) in results.iter().zip(&outcomes) {
        if let (
            true,
            JobOutcome::Ended {
                response: Some(response),
                ..
            },
        ) = (*is_settled, &result.outcome)
        {
            add_rest(write, &result.claim, response).await?;
        }
    }
    write.count(&deltas).await?;
    Ok(outcomes)
}

/// Of a job whose claim was lost, only the pieces of that claim are deleted, unless this result was stored before; of others, all bodies but the one to keep.
const DELETE_BODIES: &str = "
DELETE FROM job_bodies WHERE (job, claim) IN (SELECT b.job, b.claim FROM {rows} AS r
  JOIN job_bodies AS b ON b.job = (r.value->>'job') WHERE CASE WHEN (r.value->>'lost') IS NOT NULL
    THEN b.claim = CAST(r.value->>'lost' AS BIGINT)
      AND NOT EXISTS (SELECT 1 FROM jobs AS j WHERE j.id = b.job AND j.response_claim = b.claim)
    ELSE b.claim <> CAST(r.value->>'keep' AS BIGINT) END)";

/// When the job has ended in the same transaction.
const ADD_LAST: &str = "INSERT INTO job_bodies (job, claim, piece, data) VALUES ($1, $2, $3, $4)";

/// Stores what is left of a response.
async fn add_rest(
    write: &mut JobsWrite,
    claim: &JobClaim,
    response: &JobResponse,
) -> Result<(), StoreError> {
    for (number, piece) in response.rest.chunks(PIECE).enumerate() {
        let number = i64::from(response.pieces) + count(number as u64);
        let params = params![
            &*claim.id,
            i64::from(claim.attempt),
            number,
            Param::Bytes(piece.to_vec())
        ];
        write.execute(ADD_LAST, params).await?;
    }
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn row(result: &JobResult, now: i64) -> Value {
    let mut row = json!({
        "id": &*result.claim.id,
        "claim": i64::from(result.claim.attempt),
        "status": "queued",
        "response_bytes": 0,
        "is_due": 1,
        "was_tried": 1,
    });
    let error = match &result.outcome {
        JobOutcome::Ended {
            succeeded,
            response,
            error,
            keep,
        } => {
            row["status"] = json!(if *succeeded { "succeeded" } else { "failed" });
            row["is_due"] = json!(0);
            row["ended_at"] = json!(now);
            row["expires_at"] = json!(now.saturating_add(millis(*keep)));
            if let Some(response) = response {
                row["response"] = json!(text(&response.head));
                row["response_bytes"] = json!(count(response.bytes));
                row["response_claim"] = row["claim"].clone();
            }
            error.as_ref()
        }
        JobOutcome::Retry { after, error } => {
            row["is_due"] = json!(0);
            row["retry_at"] = json!(now.saturating_add(millis(*after)));
            Some(error)
        }
        JobOutcome::Released => {
            row["was_tried"] = json!(0);
            None
        }
    };
    if let Some(error) = error {
        row["error_code"] = json!(text(&error.code));
        row["error_message"] = json!(text(&error.message));
    }
    row
}

const SETTLE: &str = "
UPDATE jobs SET status = r.value->>'status', is_due = CAST(r.value->>'is_due' AS BIGINT),
  retry_at = CAST(r.value->>'retry_at' AS BIGINT), node = NULL, claimed_until = NULL, was_sent = 0,
  attempts = attempts + CAST(r.value->>'was_tried' AS BIGINT) - 1,
  response = r.value->>'response', response_bytes = CAST(r.value->>'response_bytes' AS BIGINT),
  response_claim = CAST(r.value->>'response_claim' AS BIGINT),
  error_code = CASE WHEN CAST(r.value->>'was_tried' AS BIGINT) = 1 THEN r.value->>'error_code' ELSE error_code END,
  error_message = CASE WHEN CAST(r.value->>'was_tried' AS BIGINT) = 1 THEN r.value->>'error_message' ELSE error_message END,
  ended_at = CAST(r.value->>'ended_at' AS BIGINT), expires_at = CAST(r.value->>'expires_at' AS BIGINT),
  webhook_at = CASE WHEN webhook IS NOT NULL THEN CAST(r.value->>'ended_at' AS BIGINT) END, changed_in = $3
FROM {rows} AS r WHERE jobs.id = (r.value->>'id') AND jobs.claims = CAST(r.value->>'claim' AS BIGINT)
  AND jobs.node = $2 AND jobs.status = 'running'
RETURNING jobs.id, jobs.caller, jobs.request_bytes, CASE WHEN jobs.kind = 'call' THEN 1 ELSE 0 END";

/// Ends a job.
pub(in crate::store) async fn cancel(
    write: &mut JobsWrite,
    id: &str,
    keep: Duration,
    audit: Option<&AuditEntry>,
) -> Result<Cancelled, StoreError> {
    let expires_at = write.now.saturating_add(millis(keep));
    let params = params![id, write.now, expires_at, write.revision];
    let rows = write.fetch(CANCEL, params).await?;
    let Some(mut row) = rows.into_iter().next() else {
        let known = write
            .fetch(
                "SELECT id FROM jobs WHERE id = $1 AND kind = 'call'",
                params![id],
            )
            .await?;
        return Ok(match known.is_empty() {
            true => Cancelled::Missing,
            false => Cancelled::HadEnded,
        });
    };
    let (caller, request_bytes) = (row.text()?, row.int()?);
    let sql = "DELETE FROM job_bodies WHERE job = $1";
    write.execute(sql, params![id]).await?;
    let delta = Delta {
        unended: -1,
        stored: -request_bytes,
    };
    write.count(&BTreeMap::from([(caller, delta)])).await?;
    if let Some(entry) = audit {
        let (sql, params) = audit::statement(entry);
        write.execute(sql, params).await?;
    }
    Ok(Cancelled::Now)
}

const CANCEL: &str = "
UPDATE jobs SET status = 'cancelled', is_due = 0, retry_at = NULL, node = NULL, claimed_until = NULL, ended_at = $2,
  expires_at = $3, webhook_at = CASE WHEN webhook IS NOT NULL THEN $2 END, changed_in = $4
WHERE id = $1 AND kind = 'call' AND status IN ('queued', 'running') RETURNING caller, request_bytes";
