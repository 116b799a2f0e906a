//! Claiming jobs, and what a node says of its claims before they end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use keypool_core::store::{ClaimedJob, JOB_LEASE, JobClaim, StoreError};
use serde_json::json;

use super::REQUEST;
use super::kind::kind;
use super::read::name;
use super::transaction::JobsWrite;
use crate::store::convert::{count, text};
use crate::store::sql::{Row, params, unexpected};

/// A body up to this size comes with its job, in bytes.
const SMALL: i64 = 64 * 1024;

/// Claims jobs of each of these pools, up to this number.
pub(in crate::store) async fn claim(
    write: &mut JobsWrite,
    node: u64,
    wanted: &[(Arc<str>, usize)],
) -> Result<Vec<ClaimedJob>, StoreError> {
    let (now, revision) = (write.now, write.revision);
    let until = now + lease();
    let mut claimed = Vec::new();
    for (pool, number) in wanted {
        let params = params![
            text(pool),
            count(*number as u64),
            node_id(node),
            now,
            until,
            revision
        ];
        let rows = write.fetch(CLAIM, params).await?;
        let mut of_pool: Vec<(Turn, ClaimedJob)> = Vec::new();
        for row in rows {
            of_pool.push(job(row, pool)?);
        }
        of_pool.sort_by_key(|(turn, _)| *turn);
        if let Some((turn, _)) = of_pool.last() {
            write.execute(SET_TURN, params![text(pool), turn.0]).await?;
        }
        claimed.extend(of_pool.into_iter().map(|(_, job)| job));
    }
    add_small_bodies(write, &mut claimed).await?;
    Ok(claimed)
}

/// A job's turn, the change that added it, and its place in that.
type Turn = (i64, i64, i64);

fn lease() -> i64 {
    i64::try_from(JOB_LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// A node's number as databases keep it.
pub(super) fn node_id(node: u64) -> i64 {
    node.cast_signed()
}

const CLAIM: &str = "
UPDATE jobs SET status = 'running', is_due = 0, retry_at = NULL, node = $3, claims = claims + 1,
  attempts = attempts + 1, was_sent = 0, started_at = COALESCE(started_at, $4), claimed_until = $5, changed_in = $6
WHERE id IN (SELECT id FROM
  (SELECT id, SUM(weight) OVER (ORDER BY turn, created_in, place) - weight AS weight_before FROM
    (SELECT id, weight, turn, created_in, place FROM jobs WHERE status = 'queued' AND pool = $1 AND is_due = 1
      ORDER BY turn, created_in, place LIMIT $2) AS first) AS summed
  WHERE weight_before < $2)
RETURNING turn, created_in, place, kind, batch, weight, id, claims, attempts, caller, request, request_bytes,
  CASE WHEN webhook IS NULL THEN 0 ELSE 1 END";

const SET_TURN: &str = "
INSERT INTO job_pools (pool, turn) VALUES ($1, $2)
ON CONFLICT (pool) DO UPDATE SET turn = CASE WHEN excluded.turn > job_pools.turn THEN excluded.turn ELSE job_pools.turn END";

fn job(mut row: Row, pool: &Arc<str>) -> Result<(Turn, ClaimedJob), StoreError> {
    let turn = (row.int()?, row.int()?, row.int()?);
    let (kind_name, batch) = (row.text()?, row.optional_text()?);
    let weight = row.count()?;
    let job = ClaimedJob {
        id: row.text()?.into(),
        kind: kind(&kind_name, batch)?,
        weight,
        attempt: u32::try_from(row.int()?).map_err(|_| unexpected())?,
        tries: u32::try_from(row.int()?).map_err(|_| unexpected())?,
        caller: name(row.text()?),
        pool: Arc::clone(pool),
        request: row.text()?,
        body_bytes: row.count()?,
        body: None,
        has_webhook: row.flag()?,
    };
    Ok((turn, job))
}

async fn add_small_bodies(
    write: &mut JobsWrite,
    claimed: &mut [ClaimedJob],
) -> Result<(), StoreError> {
    let is_small = |job: &&ClaimedJob| job.body_bytes <= SMALL.unsigned_abs();
    let rows = claimed.iter().filter(is_small);
    let rows = rows.map(|job| json!({ "job": &*job.id })).collect();
    let sql = "SELECT b.job, b.data FROM {rows} AS r JOIN job_bodies AS b ON b.job = (r.value->>'job') \
               AND b.claim = $2 AND b.piece = 0";
    let rows = write.fetch_rows(sql, rows, params![REQUEST]).await?;
    let mut bodies = HashMap::new();
    for mut row in rows {
        bodies.insert(row.text()?, Bytes::from(row.bytes()?));
    }
    for job in claimed {
        job.body = match job.body_bytes {
            0 => Some(Bytes::new()),
            _ => bodies.remove(&*job.id),
        };
    }
    Ok(())
}

/// Notes that the provider may have got the call of this claim.
pub(in crate::store) async fn note_sent(
    write: &mut JobsWrite,
    node: u64,
    claim: &JobClaim,
) -> Result<bool, StoreError> {
    let sql = "UPDATE jobs SET was_sent = 1 WHERE id = $1 AND claims = $2 AND node = $3 AND status = 'running'";
    let params = params![&*claim.id, i64::from(claim.attempt), node_id(node)];
    Ok(write.execute(sql, params).await? > 0)
}

/// Renews all claims of the node, and returns those that it has.
pub(in crate::store) async fn renew(
    write: &mut JobsWrite,
    node: u64,
) -> Result<Vec<JobClaim>, StoreError> {
    let sql = "UPDATE jobs SET claimed_until = $2 WHERE node = $1 AND status = 'running' RETURNING id, claims";
    let until = write.now + lease();
    let rows = write.fetch(sql, params![node_id(node), until]).await?;
    rows.into_iter().map(claim_of).collect()
}

fn claim_of(mut row: Row) -> Result<JobClaim, StoreError> {
    Ok(JobClaim {
        id: row.text()?.into(),
        attempt: u32::try_from(row.int()?).map_err(|_| unexpected())?,
    })
}

/// Whether the node has this claim.
pub(in crate::store) async fn is_claimed(
    write: &mut JobsWrite,
    (node, claim): (u64, &JobClaim),
) -> Result<bool, StoreError> {
    let held = claimed_among(write, node, &BTreeSet::from([claim])).await?;
    Ok(!held.is_empty())
}

/// The jobs of those claims that the node has.
pub(in crate::store) async fn claimed_among(
    write: &mut JobsWrite,
    node: u64,
    claims: &BTreeSet<&JobClaim>,
) -> Result<HashSet<String>, StoreError> {
    let rows = claims
        .iter()
        .map(|claim| json!({ "id": &*claim.id, "claim": claim.attempt }));
    let sql = "SELECT j.id FROM {rows} AS r JOIN jobs AS j ON j.id = (r.value->>'id') \
               AND j.claims = CAST(r.value->>'claim' AS BIGINT) WHERE j.node = $2 AND j.status = 'running'";
    let rows = write
        .fetch_rows(sql, rows.collect(), params![node_id(node)])
        .await?;
    rows.into_iter().map(|mut row| row.text()).collect()
}
