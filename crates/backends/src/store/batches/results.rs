//! The results of single lines.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keypool_core::store::{JobClaim, LineResult, ResultStored, StoreError};
use serde_json::json;

use super::change::complete;
use crate::store::convert::{count, text};
use crate::store::jobs::{JobsWrite, claimed_among, is_claimed};
use crate::store::sql::params;

/// The line was sent, and must not be sent twice.
pub(super) const SENT: i64 = 2;

/// Notes that the provider may have got the call of a line.
pub(in crate::store) async fn note_sent(
    write: &mut JobsWrite,
    by: (u64, &JobClaim),
    batch: &str,
    line: u64,
) -> Result<bool, StoreError> {
    if !is_claimed(write, by).await? {
        return Ok(false);
    }
    let sql = "INSERT INTO batch_results (batch, line, kind, data) VALUES ($1, $2, $3, '') ON CONFLICT (batch, line) DO NOTHING";
    write
        .execute(sql, params![batch, count(line), SENT])
        .await?;
    Ok(true)
}

/// What new results add to their batch.
#[derive(Default)]
struct Sums {
    completed: i64,
    failed: i64,
    output_bytes: i64,
    error_bytes: i64,
    input_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
}

impl Sums {
    fn add(&mut self, result: &LineResult) {
        let bytes = count(text(&result.text).len() as u64) + 1;
        match result.succeeded {
            true => {
                (self.completed, self.output_bytes) =
                    (self.completed + 1, self.output_bytes + bytes)
            }
            false => (self.failed, self.error_bytes) = (self.failed + 1, self.error_bytes + bytes),
        }
        let usage = &result.usage;
        self.input_tokens += count(usage.input_tokens);
        self.cached_tokens += count(usage.cached_tokens);
        self.output_tokens += count(usage.output_tokens);
        self.reasoning_tokens += count(usage.reasoning_tokens);
    }
}

/// Stores results, each once.
pub(in crate::store) async fn add_results(
    write: &mut JobsWrite,
    node: u64,
    results: &[LineResult],
) -> Result<Vec<ResultStored>, StoreError> {
    let claims: BTreeSet<&JobClaim> = results.iter().map(|result| &result.claim).collect();
    let held = claimed_among(write, node, &claims).await?;
    let is_held = |result: &&LineResult| held.contains(&*result.claim.id);
    let rows = results.iter().filter(is_held).map(|result| {
        json!({
            "batch": &*result.batch,
            "line": count(result.line),
            "kind": i64::from(!result.succeeded),
            "data": text(&result.text),
        })
    });
    let rows = rows.collect();
    let mut new = BTreeSet::new();
    for mut row in write.fetch_rows(ADD, rows, params![SENT]).await? {
        new.insert((row.text()?, row.int()?));
    }
    let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
    for result in results.iter().filter(is_held) {
        if new.remove(&(result.batch.to_string(), count(result.line))) {
            sums.entry(&result.batch).or_default().add(result);
        }
    }
    let ending = add_sums(write, results, &sums).await?;
    let outcome = |result: &LineResult| match held.contains(&*result.claim.id) {
        false => ResultStored::Lost,
        true if ending.get(&*result.batch) == Some(&true) => ResultStored::StoredLast,
        true => ResultStored::Stored,
    };
    Ok(results.iter().map(outcome).collect())
}

const ADD: &str = "
INSERT INTO batch_results (batch, line, kind, data)
SELECT r.value->>'batch', CAST(r.value->>'line' AS BIGINT), CAST(r.value->>'kind' AS BIGINT), r.value->>'data'
FROM {rows} AS r WHERE TRUE
ON CONFLICT (batch, line) DO UPDATE SET kind = excluded.kind, data = excluded.data WHERE batch_results.kind = $2
RETURNING batch, line";

/// Adds the sums to their batches, and completes those that are done. Says of each batch whether no further line of it is to be
/// called.
async fn add_sums(
    write: &mut JobsWrite,
    results: &[LineResult],
    sums: &BTreeMap<&str, Sums>,
) -> Result<HashMap<String, bool>, StoreError> {
    let mut ending = HashMap::new();
    let batches: BTreeSet<&str> = results.iter().map(|result| &*result.batch).collect();
    // Results that come together are of few batches.
    for batch in batches {
        let none = Sums::default();
        let sums = sums.get(batch).unwrap_or(&none);
        let params = params![
            batch,
            sums.completed,
            sums.failed,
            sums.output_bytes,
            sums.error_bytes,
            sums.input_tokens,
            sums.cached_tokens,
            sums.output_tokens,
            sums.reasoning_tokens,
        ];
        let rows = write.fetch(ADD_SUMS, params).await?;
        let Some(mut row) = rows.into_iter().next() else {
            continue;
        };
        let (is_ending, is_done) = (row.flag()?, row.flag()?);
        ending.insert(batch.to_owned(), is_ending);
        if is_done && !is_ending {
            complete(write, batch).await?;
        }
    }
    Ok(ending)
}

const ADD_SUMS: &str = "
UPDATE file_batches SET completed = completed + $2, failed = failed + $3, output_bytes = output_bytes + $4,
  error_bytes = error_bytes + $5, input_tokens = input_tokens + $6, cached_tokens = cached_tokens + $7,
  output_tokens = output_tokens + $8, reasoning_tokens = reasoning_tokens + $9
WHERE id = $1 RETURNING CASE WHEN ending IS NULL THEN 0 ELSE 1 END, CASE WHEN completed + failed >= total THEN 1 ELSE 0 END";
