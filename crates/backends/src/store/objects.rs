//! Who created an object at a provider, and through which key.

use std::collections::BTreeMap;
use std::time::SystemTime;

use keypool_core::store::{ObjectChange, ObjectRecord, StoreError};
use serde_json::json;

use super::convert::{count, millis, next_time, text};
use super::envelope::Keys;
use super::identity;
use super::schema;
use super::sql::{Row, Transaction, params};
use super::transaction::Write;

/// Notes objects that were created or deleted.
pub(super) async fn add(write: &mut Write, objects: &[ObjectChange]) -> Result<(), StoreError> {
    // A statement changes a row once, so of several changes of an object, the last one counts.
    let mut rows = BTreeMap::new();
    for object in objects {
        let hash = identity::hash(&write.keys, &object.key);
        let (id, owner) = (
            text(&object.id),
            text(object.owner.as_deref().unwrap_or_default()),
        );
        let row = json!({
            "id": id,
            "hash": hash,
            "owner": owner,
            "group": object.group.as_deref().map(text),
            "deleted": i64::from(object.deleted),
        });
        rows.insert((id, hash, owner), row);
    }
    let sql = "INSERT INTO objects (id, key_hash, owner, quota_group, deleted, recorded_at) \
               SELECT r.value->>'id', r.value->>'hash', r.value->>'owner', r.value->>'group', \
               CAST(r.value->>'deleted' AS BIGINT), $2 FROM {rows} AS r WHERE TRUE \
               ON CONFLICT (id, key_hash, owner) DO UPDATE SET quota_group = excluded.quota_group, \
               deleted = excluded.deleted, recorded_at = excluded.recorded_at";
    let now = write.now;
    write
        .execute_rows(sql, rows.into_values().collect(), params![now])
        .await
        .map(drop)
}

/// Objects created or deleted since then; `None`: the newest that are not deleted. Oldest first. Those recorded at the same
/// time as the last one are returned beyond the limit.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    keys: &Keys,
    since: Option<SystemTime>,
    limit: usize,
) -> Result<Vec<ObjectRecord>, StoreError> {
    schema::check_keys(transaction, keys).await?;
    let rows = match since {
        Some(since) => {
            let last = count(limit.saturating_sub(1) as u64);
            transaction
                .fetch(SINCE, params![millis(since), last])
                .await?
        }
        None => {
            let mut rows = transaction
                .fetch(NEWEST, params![count(limit as u64)])
                .await?;
            rows.reverse();
            rows
        }
    };
    rows.into_iter().map(|row| record(row, keys)).collect()
}

const SINCE: &str = "
SELECT o.id, o.key_hash, k.identity, o.owner, o.quota_group, o.deleted, o.recorded_at
FROM objects AS o JOIN key_states AS k ON k.hash = o.key_hash
WHERE o.recorded_at >= $1 AND o.recorded_at <= COALESCE(
  (SELECT last.recorded_at FROM objects AS last WHERE last.recorded_at >= $1
   ORDER BY last.recorded_at LIMIT 1 OFFSET $2), 9223372036854775807)
ORDER BY o.recorded_at, o.id";

const NEWEST: &str = "
SELECT o.id, o.key_hash, k.identity, o.owner, o.quota_group, o.deleted, o.recorded_at
FROM objects AS o JOIN key_states AS k ON k.hash = o.key_hash
WHERE o.deleted = 0 ORDER BY o.recorded_at DESC, o.id DESC LIMIT $1";

fn record(mut row: Row, keys: &Keys) -> Result<ObjectRecord, StoreError> {
    let (id, hash) = (row.text()?, row.text()?);
    let key = identity::decrypt(keys, &row.text()?, &hash)?;
    let owner = row.text()?;
    Ok(ObjectRecord {
        object: ObjectChange {
            id: id.into(),
            key,
            owner: Some(owner)
                .filter(|owner| !owner.is_empty())
                .map(Into::into),
            group: row.optional_text()?.map(Into::into),
            deleted: row.flag()?,
        },
        at: next_time(&mut row)?,
    })
}
