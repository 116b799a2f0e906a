//! Accepting jobs.

use std::collections::{BTreeMap, HashMap};

use keypool_core::store::{Idempotency, JobLimit, JobLimits, NewJob, StoreError, Submitted};
use serde_json::json;

use super::transaction::{Delta, JobsWrite};
use super::turns::{Flow, Turns};
use super::{PIECE, REQUEST};
use crate::store::convert::{count, hex, text};
use crate::store::sql::{Param, params};

/// Queues these jobs, each unless it repeats another one or would exceed a limit.
pub(in crate::store) async fn add(
    write: &mut JobsWrite,
    jobs: &[NewJob],
    limits: &JobLimits,
) -> Result<Vec<Submitted>, StoreError> {
    let mut known = submitted_before(write, jobs).await?;
    let mut usage = Usage::read(write, jobs).await?;
    let mut turns = Turns::read(write, jobs.iter().map(flow_of).collect()).await?;
    let (mut outcomes, mut accepted, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (place, job) in jobs.iter().enumerate() {
        if let Some(Idempotency { scope, content }) = &job.idempotency
            && let Some((id, before)) = known.get(&hex(scope))
        {
            outcomes.push(match *before == hex(content) {
                true => Submitted::Repeated(id.as_str().into()),
                false => Submitted::ContentDiffers,
            });
            continue;
        }
        if let Some(limit) = usage.exceeded(job, limits) {
            outcomes.push(Submitted::Refused(limit));
            continue;
        }
        usage.add(job);
        if let Some(Idempotency { scope, content }) = &job.idempotency {
            known.insert(hex(scope), (job.id.to_string(), hex(content)));
        }
        let turn = turns.next(flow_of(job), job.priority.cost());
        rows.push(row(job, place, turn, write.now));
        accepted.push(job);
        outcomes.push(Submitted::Accepted);
    }
    let now = write.now;
    let revision = write.revision;
    write
        .execute_rows(INSERT, rows, params![now, revision])
        .await?;
    for job in accepted {
        add_body(write, job).await?;
    }
    turns.store(write).await?;
    write.count(&usage.added).await?;
    Ok(outcomes)
}

fn caller_of(job: &NewJob) -> String {
    text(job.caller.as_deref().unwrap_or_default())
}

fn bytes_of(job: &NewJob) -> i64 {
    count(job.body.len() as u64)
}

/// The jobs that earlier submissions with the same keys made: by scope, the job's id and the hash of what was asked.
async fn submitted_before(
    write: &mut JobsWrite,
    jobs: &[NewJob],
) -> Result<HashMap<String, (String, String)>, StoreError> {
    let scopes = jobs.iter().filter_map(|job| job.idempotency.as_ref());
    let rows = scopes.map(|one| json!({ "scope": hex(&one.scope) }));
    let sql = "SELECT j.idempotency_scope, j.id, j.idempotency_content FROM {rows} AS r \
               JOIN jobs AS j ON j.idempotency_scope = (r.value->>'scope')";
    let rows = write.fetch_rows(sql, rows.collect(), vec![]).await?;
    let known = rows
        .into_iter()
        .map(|mut row| Ok((row.text()?, (row.text()?, row.text()?))));
    known.collect()
}

/// What callers have queued and stored, with what this change adds.
struct Usage {
    unended: i64,
    stored: i64,
    by_caller: HashMap<String, Delta>,
    added: BTreeMap<String, Delta>,
}

impl Usage {
    async fn read(write: &mut JobsWrite, jobs: &[NewJob]) -> Result<Self, StoreError> {
        let callers: std::collections::BTreeSet<String> = jobs.iter().map(caller_of).collect();
        let rows = callers.iter().map(|caller| json!({ "caller": caller }));
        let sql = "SELECT c.caller, c.unended, c.stored FROM {rows} AS r \
                   JOIN job_callers AS c ON c.caller = (r.value->>'caller')";
        let rows = write.fetch_rows(sql, rows.collect(), vec![]).await?;
        let by_caller = rows.into_iter().map(|mut row| {
            let caller = row.text()?;
            let (unended, stored) = (row.int()?, row.int()?);
            Ok((caller, Delta { unended, stored }))
        });
        Ok(Self {
            unended: write.unended,
            stored: write.stored,
            by_caller: by_caller.collect::<Result<_, StoreError>>()?,
            added: BTreeMap::new(),
        })
    }

    fn exceeded(&self, job: &NewJob, limits: &JobLimits) -> Option<JobLimit> {
        let own = self.by_caller.get(&caller_of(job));
        let own = own.copied().unwrap_or_default();
        let bytes = bytes_of(job);
        // The caller's own limits first: they say what the caller can do about it.
        if own.unended >= count(limits.max_queued_per_caller) {
            Some(JobLimit::QueuedPerCaller)
        } else if own.stored + bytes > count(limits.max_stored_per_caller) {
            Some(JobLimit::StoredPerCaller)
        } else if self.unended >= count(limits.max_queued) {
            Some(JobLimit::Queued)
        } else if self.stored + bytes > count(limits.max_stored) {
            Some(JobLimit::Stored)
        } else {
            None
        }
    }

    fn add(&mut self, job: &NewJob) {
        let bytes = bytes_of(job);
        self.unended += 1;
        self.stored += bytes;
        let caller = caller_of(job);
        let own = self.by_caller.entry(caller.clone()).or_default();
        for delta in [own, self.added.entry(caller).or_default()] {
            delta.unended += 1;
            delta.stored += bytes;
        }
    }
}

fn flow_of(job: &NewJob) -> Flow {
    (text(&job.pool), caller_of(job), job.priority.as_str())
}

fn row(job: &NewJob, place: usize, turn: i64, now: i64) -> serde_json::Value {
    let deadline = i64::try_from(job.deadline.as_millis()).unwrap_or(i64::MAX);
    json!({
        "id": &*job.id,
        "place": place,
        "caller": caller_of(job),
        "pool": text(&job.pool),
        "priority": job.priority.as_str(),
        "turn": turn,
        "is_repeatable": i64::from(job.is_repeatable),
        "request": text(&job.request),
        "request_bytes": bytes_of(job),
        "webhook": job.webhook.as_ref().map(|one| text(&one.url)),
        "webhook_host": job.webhook.as_ref().map(|one| text(&one.host)),
        "scope": job.idempotency.map(|one| hex(&one.scope)),
        "content": job.idempotency.map(|one| hex(&one.content)),
        "deadline_at": now.saturating_add(deadline),
    })
}

const INSERT: &str = "
INSERT INTO jobs (id, kind, weight, created_in, place, caller, pool, priority, turn, status, is_due, attempts, claims, is_repeatable,
  was_sent, request, request_bytes, response_bytes, webhook, webhook_host, idempotency_scope, idempotency_content,
  created_at, deadline_at, changed_in)
SELECT r.value->>'id', 'call', 1, $3, CAST(r.value->>'place' AS BIGINT), r.value->>'caller', r.value->>'pool',
  r.value->>'priority', CAST(r.value->>'turn' AS BIGINT), 'queued', 1, 0, 0,
  CAST(r.value->>'is_repeatable' AS BIGINT), 0, r.value->>'request', CAST(r.value->>'request_bytes' AS BIGINT), 0,
  r.value->>'webhook', r.value->>'webhook_host', r.value->>'scope', r.value->>'content', $2, CAST(r.value->>'deadline_at' AS BIGINT), $3
FROM {rows} AS r WHERE TRUE";

/// Stores the body of a request.
async fn add_body(write: &mut JobsWrite, job: &NewJob) -> Result<(), StoreError> {
    for (number, piece) in job.body.chunks(PIECE).enumerate() {
        let sql = "INSERT INTO job_bodies (job, claim, piece, data) VALUES ($1, $2, $3, $4)";
        let params = params![
            &*job.id,
            REQUEST,
            count(number as u64),
            Param::Bytes(piece.to_vec())
        ];
        write.execute(sql, params).await?;
    }
    Ok(())
}
