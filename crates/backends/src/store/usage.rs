//! What callers used.

use std::collections::BTreeMap;

use keypool_core::store::{StoreError, UsageCounts, UsageGroup, UsageQuery, UsageRow, UsageTotal};
use serde_json::json;

use super::convert::{count, millis, next_time, text};
use super::sql::{Row, Transaction, params};
use super::transaction::Write;

/// Adds usage of single minutes.
pub(super) async fn add(write: &mut Write, rows: &[UsageRow]) -> Result<(), StoreError> {
    // A statement changes a row once, so rows of the same minute and group are added up before.
    let mut sums: BTreeMap<(i64, &UsageGroup), UsageCounts> = BTreeMap::new();
    for row in rows {
        let sum = sums.entry((millis(row.minute), &row.group)).or_default();
        sum.requests = sum.requests.saturating_add(row.counts.requests);
        sum.attempts = sum.attempts.saturating_add(row.counts.attempts);
        sum.failures = sum.failures.saturating_add(row.counts.failures);
        sum.input_tokens = sum.input_tokens.saturating_add(row.counts.input_tokens);
        sum.output_tokens = sum.output_tokens.saturating_add(row.counts.output_tokens);
    }
    let rows = sums.into_iter().map(|((begins_at, group), counts)| {
        json!({
            "begins_at": begins_at,
            "pool": text(&group.pool),
            "key": text(&group.key),
            "model": text(&group.model),
            "virtual_key": text(&group.virtual_key),
            "requests": count(counts.requests),
            "attempts": count(counts.attempts),
            "failures": count(counts.failures),
            "input_tokens": count(counts.input_tokens),
            "output_tokens": count(counts.output_tokens),
        })
    });
    write
        .execute_rows(ADD, rows.collect(), vec![])
        .await
        .map(drop)
}

const ADD: &str = "
INSERT INTO usage (step, begins_at, pool, key, model, virtual_key, requests, attempts, failures, input_tokens,
  output_tokens)
SELECT 60, CAST(r.value->>'begins_at' AS BIGINT), r.value->>'pool', r.value->>'key', r.value->>'model',
  r.value->>'virtual_key', CAST(r.value->>'requests' AS BIGINT), CAST(r.value->>'attempts' AS BIGINT),
  CAST(r.value->>'failures' AS BIGINT), CAST(r.value->>'input_tokens' AS BIGINT),
  CAST(r.value->>'output_tokens' AS BIGINT)
FROM {rows} AS r WHERE TRUE
ON CONFLICT (step, begins_at, pool, key, model, virtual_key) DO UPDATE SET
  requests = usage.requests + excluded.requests, attempts = usage.attempts + excluded.attempts,
  failures = usage.failures + excluded.failures, input_tokens = usage.input_tokens + excluded.input_tokens,
  output_tokens = usage.output_tokens + excluded.output_tokens";

/// Sums of usage.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    query: &UsageQuery,
) -> Result<Vec<UsageTotal>, StoreError> {
    let (from, to) = (millis(query.from), millis(query.to));
    let step = query
        .step
        .map(|step| i64::try_from(step.as_millis()).unwrap_or(i64::MAX));
    let params = params![
        from,
        to,
        step.unwrap_or(i64::MAX).max(1),
        query.by_key,
        query.by_model,
        query.by_virtual_key,
        count(query.limit as u64),
    ];
    let rows = transaction.fetch(READ, params).await?;
    rows.into_iter().map(total).collect()
}

/// A row belongs to the part of the time in which it begins.
const READ: &str = "
SELECT $1 + (begins_at - $1) / $3 * $3 AS part,
  CASE WHEN $4 = 1 THEN pool ELSE '' END AS by_pool,
  CASE WHEN $4 = 1 THEN key ELSE '' END AS by_key,
  CASE WHEN $5 = 1 THEN model ELSE '' END AS by_model,
  CASE WHEN $6 = 1 THEN virtual_key ELSE '' END AS by_virtual_key,
  CAST(SUM(requests) AS BIGINT), CAST(SUM(attempts) AS BIGINT), CAST(SUM(failures) AS BIGINT),
  CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT)
FROM usage WHERE step IN (60, 3600, 86400) AND begins_at >= $1 AND begins_at < $2
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $7";

fn total(mut row: Row) -> Result<UsageTotal, StoreError> {
    Ok(UsageTotal {
        at: next_time(&mut row)?,
        group: UsageGroup {
            pool: row.text()?.into(),
            key: row.text()?.into(),
            model: row.text()?.into(),
            virtual_key: row.text()?.into(),
        },
        counts: UsageCounts {
            requests: row.count()?,
            attempts: row.count()?,
            failures: row.count()?,
            input_tokens: row.count()?,
            output_tokens: row.count()?,
        },
    })
}
