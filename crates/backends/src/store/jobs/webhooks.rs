//! Announcements of jobs' ends. A job's end makes its announcement due (`webhook_at`) in the statement that ends it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{
    ClaimedWebhook, JobStatus, StoreError, WEBHOOK_LEASE, WebhookOutcome, WebhookResult,
    WebhookState,
};
use serde_json::{Value, json};

use super::read::name;
use super::transaction::JobsWrite;
use crate::store::convert::{count, text, time};
use crate::store::sql::{Row, Transaction, params, unexpected};

/// The hosts for which announcements are due.
pub(in crate::store) async fn due_webhook_hosts(
    transaction: &mut dyn Transaction,
) -> Result<Vec<Arc<str>>, StoreError> {
    let rows = transaction.fetch(DUE_HOSTS, vec![]).await?;
    rows.into_iter()
        .map(|mut row| Ok(row.text()?.into()))
        .collect()
}

/// Looks into the index once or twice for each host, however many announcements are due.
const DUE_HOSTS: &str = "
WITH RECURSIVE hosts (host) AS (
  SELECT MIN(webhook_host) FROM jobs WHERE webhook_at IS NOT NULL
  UNION ALL
  SELECT (SELECT MIN(j.webhook_host) FROM jobs AS j WHERE j.webhook_at IS NOT NULL AND j.webhook_host > h.host)
  FROM hosts AS h WHERE h.host IS NOT NULL)
SELECT h.host FROM hosts AS h, (SELECT {now} AS now) AS t WHERE h.host IS NOT NULL AND EXISTS
  (SELECT 1 FROM jobs AS j WHERE j.webhook_host = h.host AND j.webhook_at IS NOT NULL AND j.webhook_at <= t.now)";

/// Claims announcements for each of these hosts, up to this number.
pub(in crate::store) async fn claim_webhooks(
    write: &mut JobsWrite,
    wanted: &[(Arc<str>, usize)],
) -> Result<Vec<ClaimedWebhook>, StoreError> {
    let now = write.now;
    let until = now.saturating_add(millis(WEBHOOK_LEASE));
    let mut claimed = Vec::new();
    for (host, number) in wanted {
        let params = params![text(host), count(*number as u64), until, now];
        for row in write.fetch(CLAIM, params).await? {
            claimed.push(webhook(row, host, now)?);
        }
    }
    Ok(claimed)
}

const CLAIM: &str = "
UPDATE jobs SET webhook_at = $3, webhook_attempts = webhook_attempts + 1
WHERE id IN (SELECT id FROM jobs WHERE webhook_host = $1 AND webhook_at IS NOT NULL AND webhook_at <= $4
  ORDER BY webhook_at LIMIT $2)
RETURNING id, webhook_attempts, caller, webhook, status, ended_at";

fn webhook(mut row: Row, host: &Arc<str>, now: i64) -> Result<ClaimedWebhook, StoreError> {
    let job = row.text()?.into();
    let attempt = u32::try_from(row.int()?).map_err(|_| unexpected())?;
    let caller = name(row.text()?);
    let url = row.text()?;
    let status = JobStatus::of(&row.text()?).ok_or_else(unexpected)?;
    let ended_at = row.int()?;
    Ok(ClaimedWebhook {
        job,
        attempt,
        caller,
        url,
        host: Arc::clone(host),
        status,
        ended_at: time(ended_at),
        age: Duration::from_millis(u64::try_from(now - ended_at).unwrap_or(0)),
    })
}

/// Stores what became of claimed announcements. False for those whose claim has been lost.
pub(in crate::store) async fn settle_webhooks(
    write: &mut JobsWrite,
    results: &[WebhookResult],
) -> Result<Vec<bool>, StoreError> {
    let rows = results.iter().map(|result| row(result, write.now));
    let rows = rows.collect();
    let mut settled = HashSet::new();
    for mut row in write.fetch_rows(SETTLE, rows, vec![]).await? {
        settled.insert(row.text()?);
    }
    let outcomes = results.iter().map(|result| settled.contains(&*result.job));
    Ok(outcomes.collect())
}

const SETTLE: &str = "
UPDATE jobs SET webhook_at = CAST(r.value->>'at' AS BIGINT), webhook_state = r.value->>'state',
  webhook_error = r.value->>'error'
FROM {rows} AS r WHERE jobs.id = (r.value->>'job') AND jobs.webhook_at IS NOT NULL
  AND jobs.webhook_attempts = CAST(r.value->>'attempt' AS BIGINT)
RETURNING jobs.id";

fn row(result: &WebhookResult, now: i64) -> Value {
    let mut row = json!({ "job": text(&result.job), "attempt": i64::from(result.attempt) });
    match &result.outcome {
        WebhookOutcome::Delivered => row["state"] = json!(WebhookState::Delivered.as_str()),
        WebhookOutcome::Retry { after, error } => {
            row["at"] = json!(now.saturating_add(millis(*after)));
            row["error"] = json!(text(error));
        }
        WebhookOutcome::GivenUp { error } => {
            row["state"] = json!(WebhookState::GivenUp.as_str());
            row["error"] = json!(text(error));
        }
    }
    row
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
