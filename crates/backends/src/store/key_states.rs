//! What is known of upstream keys.

use std::collections::BTreeMap;
use std::time::SystemTime;

use keypool_core::store::{
    Flush, KeyCooldown, KeyMarks, KeyRecord, KeyStateChange, KeyUse, MarksChange, Quota,
    QuotaChange, Revision, StoreError, UpstreamKeyId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::convert::{count, millis, next_time, text, time};
use super::envelope::Keys;
use super::identity;
use super::schema;
use super::sql::{Row, Transaction, params, unexpected};
use super::transaction::{Write, with_rows};

/// A cooldown as it is stored.
#[derive(Serialize, Deserialize)]
struct Cooldown {
    model: String,
    until: i64,
    class: String,
    of_group: bool,
}

/// The records changed after `since`; with 0, all of them.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    keys: &Keys,
    since: Revision,
) -> Result<Vec<KeyRecord>, StoreError> {
    schema::check_keys(transaction, keys).await?;
    let sql = "SELECT hash, identity, first_seen, total, failed, last_used, disabled, invalid, has_served, \
               exhausted_until, cooldowns, reset_at, revision, quota_remaining, quota_limit, quota_unit, \
               quota_refreshed_at, quota_error FROM key_states WHERE revision >= $1";
    let first = if since == 0 {
        0
    } else {
        count(since.saturating_add(1))
    };
    let rows = transaction.fetch(sql, params![first]).await?;
    rows.into_iter().map(|row| record(row, keys)).collect()
}

fn record(mut row: Row, keys: &Keys) -> Result<KeyRecord, StoreError> {
    let hash = row.text()?;
    Ok(KeyRecord {
        key: identity::decrypt(keys, &row.text()?, &hash)?,
        first_seen: next_time(&mut row)?,
        total: row.count()?,
        failed: row.count()?,
        last_used: row.optional_int()?.map(time),
        disabled: row.flag()?,
        marks: KeyMarks {
            invalid: row.flag()?,
            has_served: row.flag()?,
            exhausted_until: row.optional_int()?.map(time),
            cooldowns: cooldowns(&row.text()?)?,
        },
        reset_at: row.count()?,
        revision: row.count()?,
        quota: quota(&mut row)?,
    })
}

fn quota(row: &mut Row) -> Result<Option<Quota>, StoreError> {
    let (remaining, limit) = (row.optional_real()?, row.optional_real()?);
    let (unit, refreshed_at, error) = (
        row.optional_text()?,
        row.optional_int()?,
        row.optional_text()?,
    );
    let told = unit.zip(refreshed_at);
    Ok(told.map(|(unit, refreshed_at)| Quota {
        remaining,
        limit,
        unit: unit.into(),
        refreshed_at: time(refreshed_at),
        error: error.map(Into::into),
    }))
}

/// Makes these changes, which other nodes follow.
pub(super) async fn change(
    write: &mut Write,
    changes: &[KeyStateChange],
    now: SystemTime,
) -> Result<(), StoreError> {
    // A statement changes a row once. Of several changes of a key, each takes what is new in the later ones.
    let mut by_hash: BTreeMap<String, KeyStateChange> = BTreeMap::new();
    for change in changes {
        let hash = identity::hash(&write.keys, &change.key);
        by_hash
            .entry(hash)
            .and_modify(|known| merge_change(known, change))
            .or_insert_with(|| change.clone());
    }
    let rows = by_hash
        .iter()
        .map(|(hash, change)| change_row(&write.keys, hash, change));
    let rows = rows.collect::<Result<_, _>>()?;
    let params = params![millis(now), write.revision()];
    write.execute_rows(CHANGE, rows, params).await.map(drop)
}

const CHANGE: &str = "
INSERT INTO key_states (hash, identity, first_seen, total, failed, disabled, invalid, has_served, exhausted_until,
  cooldowns, reset_at, revision, quota_remaining, quota_limit, quota_unit, quota_refreshed_at, quota_error, quota_calls)
SELECT r.value->>'hash', r.value->>'identity', $2, 0, 0,
  COALESCE(CAST(r.value->>'disabled' AS BIGINT), old.disabled, 0),
  CASE r.value->>'marks' WHEN 'keep' THEN COALESCE(old.invalid, 0) WHEN 'invalid' THEN 1 ELSE 0 END,
  COALESCE(old.has_served, 0),
  CASE WHEN (r.value->>'marks') IN ('recovered', 'cleared') THEN NULL ELSE old.exhausted_until END,
  CASE WHEN (r.value->>'marks') = 'cleared' THEN '[]' ELSE COALESCE(old.cooldowns, '[]') END,
  CASE WHEN (r.value->>'marks') = 'cleared' THEN $3 ELSE COALESCE(old.reset_at, 0) END,
  $3,
  CASE r.value->>'quota' WHEN 'told' THEN CAST(r.value->>'remaining' AS DOUBLE PRECISION) ELSE old.quota_remaining END,
  CASE r.value->>'quota' WHEN 'told' THEN CAST(r.value->>'limit' AS DOUBLE PRECISION) ELSE old.quota_limit END,
  CASE r.value->>'quota' WHEN 'told' THEN r.value->>'unit' ELSE old.quota_unit END,
  CASE r.value->>'quota' WHEN 'told' THEN CAST(r.value->>'refreshed_at' AS BIGINT) ELSE old.quota_refreshed_at END,
  CASE r.value->>'quota' WHEN 'none' THEN old.quota_error ELSE r.value->>'error' END,
  SUBSTR(COALESCE((r.value->>'asked_at') || ',', '') || COALESCE(old.quota_calls, ''), 1, 280)
FROM {rows} AS r LEFT JOIN key_states AS old ON old.hash = (r.value->>'hash') WHERE TRUE
ON CONFLICT (hash) DO UPDATE SET disabled = excluded.disabled, invalid = excluded.invalid,
  exhausted_until = excluded.exhausted_until, cooldowns = excluded.cooldowns, reset_at = excluded.reset_at,
  revision = excluded.revision, quota_remaining = excluded.quota_remaining, quota_limit = excluded.quota_limit,
  quota_unit = excluded.quota_unit, quota_refreshed_at = excluded.quota_refreshed_at,
  quota_error = excluded.quota_error, quota_calls = excluded.quota_calls";

fn merge_change(known: &mut KeyStateChange, later: &KeyStateChange) {
    known.disabled = later.disabled.or(known.disabled);
    if later.marks != MarksChange::Keep {
        known.marks = later.marks;
    }
    if later.quota.is_some() {
        known.quota = later.quota.clone();
    }
}

fn change_row(keys: &Keys, hash: &str, change: &KeyStateChange) -> Result<Value, StoreError> {
    let mut row = json!({
        "hash": hash,
        "identity": identity::encrypt(keys, &change.key, hash)?,
        "disabled": change.disabled.map(i64::from),
        "marks": match change.marks {
            MarksChange::Keep => "keep",
            MarksChange::Recovered => "recovered",
            MarksChange::Valid => "valid",
            MarksChange::Invalid => "invalid",
            MarksChange::Cleared => "cleared",
        },
        "quota": "none",
    });
    if let Some(QuotaChange { outcome, asked_at }) = &change.quota {
        // All have the same length, so that the statement can cut the list.
        row["asked_at"] = json!(asked_at.map(|at| format!("{:013}", millis(at))));
        match outcome {
            Ok(quota) => {
                row["quota"] = json!("told");
                row["remaining"] = json!(quota.remaining);
                row["limit"] = json!(quota.limit);
                row["unit"] = json!(text(&quota.unit));
                row["refreshed_at"] = json!(millis(quota.refreshed_at));
                row["error"] = json!(quota.error.as_deref());
            }
            Err(code) => {
                row["quota"] = json!("failed");
                row["error"] = json!(&**code);
            }
        }
    }
    Ok(row)
}

/// When these keys' providers were last asked for their quota; oldest first.
pub(super) async fn quota_calls(
    transaction: &mut dyn Transaction,
    keys: &Keys,
    wanted: &[UpstreamKeyId],
) -> Result<Vec<(UpstreamKeyId, Vec<SystemTime>)>, StoreError> {
    let hashes: Vec<String> = wanted.iter().map(|key| identity::hash(keys, key)).collect();
    let rows = hashes.iter().map(|hash| json!({ "hash": hash })).collect();
    // The name of the master key comes with them: a refresh takes at most eight statements.
    let sql = "SELECT m.key_id, COALESCE(k.hash, ''), COALESCE(k.quota_calls, '') FROM {rows} AS r CROSS JOIN meta AS m \
               LEFT JOIN key_states AS k ON k.hash = (r.value->>'hash')";
    let mut calls = BTreeMap::new();
    for mut row in transaction.fetch(sql, with_rows(rows, vec![])).await? {
        keys.check(&row.text()?)?;
        calls.insert(row.text()?, times(&row.text()?)?);
    }
    let calls = hashes
        .iter()
        .map(|hash| calls.get(hash).cloned().unwrap_or_default());
    Ok(wanted.iter().cloned().zip(calls).collect())
}

fn times(list: &str) -> Result<Vec<SystemTime>, StoreError> {
    let times = list
        .split_terminator(',')
        .map(|millis| millis.parse().map(time));
    let mut times: Vec<SystemTime> = times.collect::<Result<_, _>>().map_err(|_| unexpected())?;
    times.sort();
    Ok(times)
}

/// Adds what a node has counted and noted of keys. A change of a key that the node has not followed yet stays. Makes records of those too through which it created objects.
pub(super) async fn add_use(write: &mut Write, flush: &Flush) -> Result<(), StoreError> {
    let unused = flush.objects.iter().map(|object| KeyUse {
        key: object.key.clone(),
        total: 0,
        failed: 0,
        last_used: None,
        marks: None,
    });
    let mut by_hash: BTreeMap<String, KeyUse> = BTreeMap::new();
    for key_use in flush.keys.iter().cloned().chain(unused) {
        let hash = identity::hash(&write.keys, &key_use.key);
        by_hash
            .entry(hash)
            .and_modify(|known| merge_use(known, &key_use))
            .or_insert(key_use);
    }
    let rows = by_hash
        .iter()
        .map(|(hash, key_use)| use_row(&write.keys, hash, key_use));
    let rows = rows.collect::<Result<_, _>>()?;
    let now = write.now;
    write
        .execute_rows(ADD_USE, rows, params![now, count(flush.followed)])
        .await
        .map(drop)
}

const ADD_USE: &str = "
INSERT INTO key_states (hash, identity, first_seen, total, failed, last_used, disabled, invalid, has_served,
  exhausted_until, cooldowns, reset_at, revision, quota_calls)
SELECT r.value->>'hash', r.value->>'identity', $2,
  COALESCE(old.total, 0) + CAST(r.value->>'total' AS BIGINT),
  COALESCE(old.failed, 0) + CAST(r.value->>'failed' AS BIGINT),
  CASE WHEN old.last_used > CAST(r.value->>'last_used' AS BIGINT) THEN old.last_used
    ELSE COALESCE(CAST(r.value->>'last_used' AS BIGINT), old.last_used) END,
  0,
  CASE WHEN old.revision > $3 THEN old.invalid ELSE COALESCE(CAST(r.value->>'invalid' AS BIGINT), old.invalid, 0) END,
  COALESCE(CAST(r.value->>'has_served' AS BIGINT), old.has_served, 0),
  CASE WHEN (r.value->>'exhausted') = 'new' AND COALESCE(old.revision, 0) <= $3
    THEN CAST(r.value->>'exhausted_until' AS BIGINT) ELSE old.exhausted_until END,
  CASE WHEN old.reset_at > $3 THEN old.cooldowns ELSE COALESCE(r.value->>'cooldowns', old.cooldowns, '[]') END,
  0, 0, ''
FROM {rows} AS r LEFT JOIN key_states AS old ON old.hash = (r.value->>'hash') WHERE TRUE
ON CONFLICT (hash) DO UPDATE SET total = excluded.total, failed = excluded.failed, last_used = excluded.last_used,
  invalid = excluded.invalid, has_served = excluded.has_served, exhausted_until = excluded.exhausted_until,
  cooldowns = excluded.cooldowns";

fn merge_use(known: &mut KeyUse, later: &KeyUse) {
    known.total = known.total.saturating_add(later.total);
    known.failed = known.failed.saturating_add(later.failed);
    known.last_used = known.last_used.max(later.last_used);
    match (&mut known.marks, &later.marks) {
        (Some(known), Some(later)) => known.merge(later),
        (known, Some(later)) => *known = Some(later.clone()),
        (_, None) => {}
    }
}

fn use_row(keys: &Keys, hash: &str, key_use: &KeyUse) -> Result<Value, StoreError> {
    let mut row = json!({
        "hash": hash,
        "identity": identity::encrypt(keys, &key_use.key, hash)?,
        "total": count(key_use.total),
        "failed": count(key_use.failed),
        "last_used": key_use.last_used.map(millis),
    });
    if let Some(marks) = &key_use.marks {
        row["invalid"] = json!(marks.invalid.map(i64::from));
        row["has_served"] = json!(marks.has_served.map(i64::from));
        row["cooldowns"] = json!(marks.cooldowns.as_deref().map(stored_cooldowns));
        if let Some(until) = marks.exhausted_until {
            // No time is a value of it, so that another field says whether it is new.
            row["exhausted"] = json!("new");
            row["exhausted_until"] = json!(until.map(millis));
        }
    }
    Ok(row)
}

fn stored_cooldowns(cooldowns: &[KeyCooldown]) -> String {
    let cooldowns = cooldowns.iter().map(|cooldown| {
        json!(Cooldown {
            model: text(&cooldown.model),
            until: millis(cooldown.until),
            class: cooldown.class.to_string(),
            of_group: cooldown.of_group,
        })
    });
    Value::Array(cooldowns.collect()).to_string()
}

fn cooldowns(stored: &str) -> Result<Vec<KeyCooldown>, StoreError> {
    let cooldowns: Vec<Cooldown> = serde_json::from_str(stored).map_err(|_| unexpected())?;
    let cooldown = |cooldown: Cooldown| KeyCooldown {
        model: cooldown.model.into(),
        until: time(cooldown.until),
        class: cooldown.class.into(),
        of_group: cooldown.of_group,
    };
    Ok(cooldowns.into_iter().map(cooldown).collect())
}
