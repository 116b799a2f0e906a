//! Reading jobs.

use std::sync::Arc;

use bytes::Bytes;
use keypool_core::store::{
    ChangedJob, JobError, JobId, JobPriority, JobQuery, JobRecord, JobRevision, JobStatus,
    StoreError, WebhookRecord, WebhookState,
};
use serde_json::json;

use super::REQUEST;
use crate::store::convert::{count, next_time, text, time};
use crate::store::sql::{Row, Transaction, params, unexpected};
use crate::store::transaction::with_rows;

/// A caller as it is stored; empty: no virtual key was required.
pub(in crate::store) fn name(text: String) -> Option<Arc<str>> {
    Some(text).filter(|name| !name.is_empty()).map(Into::into)
}

pub(super) fn priority(name: &str) -> Result<JobPriority, StoreError> {
    JobPriority::of(name).ok_or_else(unexpected)
}

fn status(name: &str) -> Result<JobStatus, StoreError> {
    JobStatus::of(name).ok_or_else(unexpected)
}

/// What is known of these jobs.
pub(in crate::store) async fn by_id(
    transaction: &mut dyn Transaction,
    ids: &[JobId],
) -> Result<Vec<JobRecord>, StoreError> {
    let rows = ids.iter().map(|id| json!({ "id": text(id) })).collect();
    let rows = transaction.fetch(BY_ID, with_rows(rows, vec![])).await?;
    rows.into_iter().map(record).collect()
}

const BY_ID: &str = concat!(
    "SELECT j.id, j.caller, j.pool, j.priority, j.status, j.attempts, j.request, j.response, j.response_bytes, ",
    "j.error_code, j.error_message, j.webhook, j.webhook_state, j.webhook_attempts, j.webhook_at, j.webhook_error, j.created_at, j.started_at, j.ended_at, j.deadline_at, j.expires_at, ",
    "CASE WHEN j.status = 'queued' THEN 1 + (SELECT COUNT(*) FROM (SELECT 1 FROM jobs AS o ",
    "WHERE o.status = 'queued' AND o.pool = j.pool AND (o.turn < j.turn OR (o.turn = j.turn AND (o.created_in < j.created_in ",
    "OR (o.created_in = j.created_in AND o.place < j.place)))) LIMIT 10000) AS ahead) END ",
    "FROM {rows} AS r JOIN jobs AS j ON j.id = (r.value->>'id') AND j.kind = 'call'"
);

fn record(mut row: Row) -> Result<JobRecord, StoreError> {
    Ok(JobRecord {
        id: row.text()?.into(),
        caller: name(row.text()?),
        pool: row.text()?.into(),
        priority: priority(&row.text()?)?,
        status: status(&row.text()?)?,
        attempts: u32::try_from(row.int()?).map_err(|_| unexpected())?,
        request: row.text()?,
        response: row.optional_text()?,
        response_bytes: row.count()?,
        error: match (row.optional_text()?, row.optional_text()?) {
            (Some(code), message) => Some(JobError {
                code,
                message: message.unwrap_or_default(),
            }),
            _ => None,
        },
        webhook: webhook(&mut row)?,
        created_at: next_time(&mut row)?,
        started_at: row.optional_int()?.map(time),
        ended_at: row.optional_int()?.map(time),
        deadline_at: next_time(&mut row)?,
        expires_at: row.optional_int()?.map(time),
        position: row.optional_int()?.map(i64::unsigned_abs),
    })
}

fn webhook(row: &mut Row) -> Result<Option<WebhookRecord>, StoreError> {
    let (url, state) = (row.optional_text()?, row.optional_text()?);
    let attempts = u32::try_from(row.int()?).map_err(|_| unexpected())?;
    let next_at = row.optional_int()?.map(time);
    let error = row.optional_text()?;
    let state = match state {
        None => WebhookState::Pending,
        Some(name) => WebhookState::of(&name).ok_or_else(unexpected)?,
    };
    Ok(url.map(|url| WebhookRecord {
        url,
        state,
        attempts,
        next_at,
        error,
    }))
}

/// Jobs, newest first.
pub(in crate::store) async fn list(
    transaction: &mut dyn Transaction,
    query: &JobQuery,
) -> Result<Vec<JobRecord>, StoreError> {
    let (mut created_in, mut place) = (i64::MAX, i64::MAX);
    if let Some(after) = &query.after {
        let sql = "SELECT created_in, place FROM jobs WHERE id = $1";
        let rows = transaction.fetch(sql, params![text(after)]).await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(Vec::new());
        };
        (created_in, place) = (row.int()?, row.int()?);
    }
    let caller = query.caller.as_ref();
    let caller = caller.map(|caller| text(caller.as_deref().unwrap_or_default()));
    let sql = match caller {
        Some(_) => LIST_OF_CALLER,
        None => LIST,
    };
    let params = params![
        created_in,
        place,
        query.status.map_or("", JobStatus::as_str),
        count(query.limit as u64),
        caller.unwrap_or_default(),
    ];
    let mut ids: Vec<JobId> = Vec::new();
    for mut row in transaction.fetch(sql, params).await? {
        ids.push(row.text()?.into());
    }
    let mut records = by_id(transaction, &ids).await?;
    let place = |record: &JobRecord| ids.iter().position(|id| *id == record.id);
    records.sort_by_key(place);
    Ok(records)
}

const LIST: &str = "
SELECT id FROM jobs WHERE kind = 'call' AND (created_in, place) < ($1, $2) AND ($3 = '' OR status = $3) AND $5 = ''
ORDER BY created_in DESC, place DESC LIMIT $4";

const LIST_OF_CALLER: &str = "
SELECT id FROM jobs WHERE kind = 'call' AND caller = $5 AND (created_in, place) < ($1, $2) AND ($3 = '' OR status = $3)
ORDER BY created_in DESC, place DESC LIMIT $4";

/// Whose body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum BodyOf {
    Request,
    Response,
}

/// A piece of a body; empty after the last one.
pub(in crate::store) async fn piece(
    transaction: &mut dyn Transaction,
    id: &str,
    of: BodyOf,
    piece: u32,
) -> Result<Bytes, StoreError> {
    let sql = match of {
        BodyOf::Request => {
            "SELECT data FROM job_bodies WHERE job = $1 AND claim = $3 AND piece = $2"
        }
        BodyOf::Response => {
            "SELECT b.data FROM jobs AS j JOIN job_bodies AS b ON b.job = j.id AND b.claim = j.response_claim \
             WHERE j.id = $1 AND b.piece = $2 AND b.claim <> $3"
        }
    };
    let params = params![text(id), i64::from(piece), REQUEST];
    match transaction.fetch(sql, params).await?.into_iter().next() {
        Some(mut row) => Ok(row.bytes()?.into()),
        None => Ok(Bytes::new()),
    }
}

/// The pools with jobs that can be claimed.
pub(in crate::store) async fn due_pools(
    transaction: &mut dyn Transaction,
) -> Result<Vec<Arc<str>>, StoreError> {
    let rows = transaction.fetch(DUE_POOLS, vec![]).await?;
    rows.into_iter()
        .map(|mut row| Ok(row.text()?.into()))
        .collect()
}

/// From pool to pool in the index: there are few pools, and many jobs.
const DUE_POOLS: &str = "
WITH RECURSIVE queued (pool) AS (
  SELECT MIN(pool) FROM jobs WHERE status = 'queued'
  UNION ALL
  SELECT (SELECT MIN(j.pool) FROM jobs AS j WHERE j.status = 'queued' AND j.pool > q.pool) FROM queued AS q
  WHERE q.pool IS NOT NULL)
SELECT pool FROM queued AS q WHERE pool IS NOT NULL
  AND EXISTS (SELECT 1 FROM jobs AS j WHERE j.status = 'queued' AND j.pool = q.pool AND j.is_due = 1)";

/// The jobs that were changed after `since`, oldest change first, and the newest change that is among them.
pub(in crate::store) async fn changed(
    transaction: &mut dyn Transaction,
    since: Option<JobRevision>,
) -> Result<(JobRevision, Vec<ChangedJob>), StoreError> {
    let Some(since) = since else {
        let rows = transaction
            .fetch("SELECT revision FROM job_queue", vec![])
            .await?;
        let mut row = rows.into_iter().next().ok_or_else(unexpected)?;
        return Ok((row.count()?, Vec::new()));
    };
    let sql = "SELECT changed_in, id, status, attempts FROM jobs WHERE changed_in > $1 ORDER BY changed_in";
    let rows = transaction.fetch(sql, params![count(since)]).await?;
    let (mut newest, mut changes) = (since, Vec::new());
    for mut row in rows {
        newest = row.count()?;
        changes.push(ChangedJob {
            id: row.text()?.into(),
            status: status(&row.text()?)?,
            attempts: u32::try_from(row.int()?).map_err(|_| unexpected())?,
        });
    }
    Ok((newest, changes))
}
