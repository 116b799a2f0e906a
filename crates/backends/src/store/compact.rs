//! Adds up old usage, and deletes what is older than is kept.

use std::time::{Duration, SystemTime};

use keypool_core::store::StoreError;

use super::convert::millis;
use super::sql::params;
use super::transaction::Write;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long single minutes of usage are kept.
const MINUTES_KEPT: Duration = Duration::from_secs(48 * 3600);
/// How long single hours of usage are kept.
const HOURS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long usage is kept.
const DAYS_KEPT: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How long entries of the audit log are kept.
const AUDIT_KEPT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long other nodes may learn that an object was deleted.
const DELETED_OBJECTS_KEPT: Duration = DAY;
/// How long a flush may be repeated.
const FLUSHES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Adds up old usage into hours and days, and deletes what is older than is kept.
pub(super) async fn run(write: &mut Write, now: SystemTime) -> Result<(), StoreError> {
    let ago = |kept: Duration| millis(now.checked_sub(kept).unwrap_or(SystemTime::UNIX_EPOCH));
    add_up(write, Duration::from_secs(60), HOUR, ago(MINUTES_KEPT)).await?;
    add_up(write, HOUR, DAY, ago(HOURS_KEPT)).await?;
    let sql = "DELETE FROM usage WHERE step = 86400 AND begins_at < $1";
    write.execute(sql, params![ago(DAYS_KEPT)]).await?;
    write
        .execute(
            "DELETE FROM audit WHERE made_at < $1",
            params![ago(AUDIT_KEPT)],
        )
        .await?;
    let sql = "DELETE FROM objects WHERE deleted = 1 AND recorded_at < $1";
    write
        .execute(sql, params![ago(DELETED_OBJECTS_KEPT)])
        .await?;
    write
        .execute(
            "DELETE FROM flushes WHERE stored_at < $1",
            params![ago(FLUSHES_KEPT)],
        )
        .await?;
    Ok(())
}

/// Replaces usage of single `from` that is older than `before` by usage of whole `to`.
async fn add_up(
    write: &mut Write,
    from: Duration,
    to: Duration,
    before: i64,
) -> Result<(), StoreError> {
    let (from, to) = (from.as_secs().cast_signed(), to.as_secs().cast_signed());
    // Whole steps only, so that no part of a step is left.
    let before = before / (to * 1000) * (to * 1000);
    write.execute(ADD_UP, params![from, to, before]).await?;
    let sql = "DELETE FROM usage WHERE step = $1 AND begins_at < $2";
    write.execute(sql, params![from, before]).await.map(drop)
}

const ADD_UP: &str = "
INSERT INTO usage (step, begins_at, pool, key, model, virtual_key, requests, attempts, failures, input_tokens,
  output_tokens)
SELECT $2, begins_at / ($2 * 1000) * ($2 * 1000), pool, key, model, virtual_key,
  CAST(SUM(requests) AS BIGINT), CAST(SUM(attempts) AS BIGINT), CAST(SUM(failures) AS BIGINT),
  CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT)
FROM usage WHERE step = $1 AND begins_at < $3
GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (step, begins_at, pool, key, model, virtual_key) DO UPDATE SET
  requests = usage.requests + excluded.requests, attempts = usage.attempts + excluded.attempts,
  failures = usage.failures + excluded.failures, input_tokens = usage.input_tokens + excluded.input_tokens,
  output_tokens = usage.output_tokens + excluded.output_tokens";
