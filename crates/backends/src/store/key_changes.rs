//! Changes of stored keys.

use std::collections::HashSet;

use keypool_core::secret::Digest256;
use keypool_core::store::{Expected, NewKey, StoreError, StoreErrorKind};
use serde_json::{Value, json};

use super::convert::hex;
use super::expected::{check, version};
use super::sql::params;
use super::transaction::{Write, with_rows};

/// Adds keys to a pool.
pub(super) async fn add(
    write: &mut Write,
    pool: &str,
    keys: &[NewKey],
    at: i64,
) -> Result<(), StoreError> {
    check_distinct(pool, keys)?;
    let rows = rows(write, pool, keys)?;
    check_free(write, pool, rows.clone()).await?;
    let sql = "INSERT INTO keys (pool, name, secret_hash, secret, bound_to, settings, version, created_at, updated_at, \
               secret_set_at, created_in, place) \
               SELECT $2, r.value->>'name', r.value->>'hash', r.value->>'secret', r.value->>'bound_to', \
               r.value->>'settings', 1, $3, $3, $3, $4, CAST(r.value->>'place' AS BIGINT) FROM {rows} AS r";
    let revision = write.revision();
    write
        .execute_rows(sql, rows, params![pool, at, revision])
        .await
        .map(drop)
}

/// Refuses a change unless what is stored of the key is as expected.
pub(super) async fn check_stored(
    write: &mut Write,
    pool: &str,
    name: &str,
    expected: Expected,
) -> Result<(), StoreError> {
    let sql = "SELECT version FROM keys WHERE pool = $1 AND name = $2";
    let stored = version(write.first(sql, params![pool, name]).await?)?;
    check(&what(pool, name), expected, stored, false)
}

/// Replaces a key's settings.
pub(super) async fn update(
    write: &mut Write,
    pool: &str,
    key: &NewKey,
    at: i64,
) -> Result<(), StoreError> {
    let sql = "UPDATE keys SET settings = $3, version = version + 1, updated_at = $4 WHERE pool = $1 AND name = $2";
    write
        .execute(sql, params![pool, &*key.name, &*key.settings, at])
        .await
        .map(drop)
}

/// Replaces a key's settings and its secret.
pub(super) async fn replace(
    write: &mut Write,
    pool: &str,
    key: &NewKey,
    at: i64,
) -> Result<(), StoreError> {
    let hash = secret_hash(write, key);
    let sql = "SELECT name FROM keys WHERE pool = $1 AND secret_hash = $2 AND name <> $3";
    if let Some(mut row) = write.first(sql, params![pool, &*hash, &*key.name]).await? {
        return Err(secret_taken(&what(pool, &row.text()?)));
    }
    let secret = encrypt(write, pool, key)?;
    let sql = "UPDATE keys SET secret_hash = $3, secret = $4, bound_to = $5, settings = $6, version = version + 1, \
               updated_at = $7, secret_set_at = $7 WHERE pool = $1 AND name = $2";
    let params = params![
        pool,
        &*key.name,
        hash,
        secret,
        &*key.bound_to,
        &*key.settings,
        at
    ];
    write.execute(sql, params).await.map(drop)
}

/// Deletes a key.
pub(super) async fn delete(
    write: &mut Write,
    pool: &str,
    name: &str,
    expected: Expected,
) -> Result<(), StoreError> {
    check_stored(write, pool, name, expected).await?;
    let sql = "DELETE FROM keys WHERE pool = $1 AND name = $2";
    write.execute(sql, params![pool, name]).await.map(drop)
}

/// Refuses keys of one change that have a name or a secret in common.
fn check_distinct(pool: &str, keys: &[NewKey]) -> Result<(), StoreError> {
    let mut names: HashSet<&str> = HashSet::new();
    let mut digests: HashSet<Digest256> = HashSet::new();
    for key in keys {
        if !names.insert(&key.name) {
            return Err(name_taken(&what(pool, &key.name)));
        }
        if !digests.insert(key.secret.digest()) {
            return Err(secret_taken("another of the new keys"));
        }
    }
    Ok(())
}

/// Refuses keys with a name or a secret that a stored key of the pool has.
async fn check_free(write: &mut Write, pool: &str, rows: Vec<Value>) -> Result<(), StoreError> {
    // CROSS JOIN keeps SQLite from reading all the new keys again for each stored one.
    let sql = "SELECT 0, k.name FROM {rows} AS r CROSS JOIN keys AS k \
               WHERE k.pool = $2 AND k.name = (r.value->>'name') \
               UNION ALL \
               SELECT 1, k.name FROM {rows} AS r CROSS JOIN keys AS k \
               WHERE k.pool = $2 AND k.secret_hash = (r.value->>'hash') \
               LIMIT 1";
    let Some(mut row) = write.first(sql, with_rows(rows, params![pool])).await? else {
        return Ok(());
    };
    let is_secret = row.flag()?;
    let what = what(pool, &row.text()?);
    Err(if is_secret {
        secret_taken(&what)
    } else {
        name_taken(&what)
    })
}

fn rows(write: &Write, pool: &str, keys: &[NewKey]) -> Result<Vec<Value>, StoreError> {
    let row = |(place, key): (usize, &NewKey)| {
        Ok(json!({
            "place": place,
            "name": &*key.name,
            "hash": secret_hash(write, key),
            "secret": encrypt(write, pool, key)?,
            "bound_to": key.bound_to,
            "settings": key.settings,
        }))
    };
    keys.iter().enumerate().map(row).collect()
}

fn encrypt(write: &Write, pool: &str, key: &NewKey) -> Result<String, StoreError> {
    let place = secret_place(pool, &key.name, &key.bound_to);
    write.keys.encrypt(key.secret.expose(), &place)
}

/// Where a secret is encrypted for. Who alters where it may be sent makes it unreadable.
pub(super) fn secret_place<'a>(pool: &'a str, name: &'a str, bound_to: &'a str) -> [&'a str; 5] {
    ["keys", "secret", pool, name, bound_to]
}

fn secret_hash(write: &Write, key: &NewKey) -> String {
    hex(&write.keys.hash.hash(&key.secret.digest()))
}

fn what(pool: &str, name: &str) -> String {
    format!("key `{name}` of pool `{pool}`")
}

fn name_taken(what: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::NameTaken,
        format!("{what} is stored already; choose another name"),
    )
}

fn secret_taken(what: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::SecretTaken,
        format!("{what} has the same secret; a pool has each secret once"),
    )
}
