//! Changes of the catalog.

use std::time::SystemTime;

use keypool_core::store::{Change, Expected, StoreError};

use super::convert::millis;
use super::expected::{check, version};
use super::sql::params;
use super::transaction::Write;
use super::{key_changes, virtual_key_changes};

/// Makes a change.
pub(super) async fn apply(
    write: &mut Write,
    change: &Change,
    at: SystemTime,
) -> Result<(), StoreError> {
    let at = millis(at);
    match change {
        Change::PutPool {
            name,
            settings,
            expected,
        } => put_pool(write, name, settings, *expected, at).await,
        Change::DeletePool { name, expected } => delete_pool(write, name, *expected).await,
        Change::AddKeys {
            pool,
            pool_is_stored,
            keys,
        } => {
            if *pool_is_stored {
                check_pool(write, pool, Expected::Present, false).await?;
            }
            key_changes::add(write, pool, keys, at).await
        }
        Change::UpdateKey {
            pool,
            key,
            has_new_secret,
            expected,
        } => {
            key_changes::check_stored(write, pool, &key.name, *expected).await?;
            match has_new_secret {
                true => key_changes::replace(write, pool, key, at).await,
                false => key_changes::update(write, pool, key, at).await,
            }
        }
        Change::DeleteKey {
            pool,
            name,
            expected,
        } => key_changes::delete(write, pool, name, *expected).await,
        Change::AddVirtualKey { key } => virtual_key_changes::add(write, key, at).await,
        Change::UpdateVirtualKey {
            name,
            settings,
            expected,
        } => virtual_key_changes::update(write, name, settings, *expected, at).await,
        Change::RotateVirtualKey {
            key,
            previous_until,
            expected,
        } => {
            virtual_key_changes::check_stored(write, &key.name, *expected).await?;
            virtual_key_changes::rotate(write, key, previous_until.map(millis), at).await
        }
        Change::DeleteVirtualKey { name, expected } => {
            virtual_key_changes::delete(write, name, *expected).await
        }
    }
}

/// Refuses a change unless what is stored of the pool is as expected.
async fn check_pool(
    write: &mut Write,
    name: &str,
    expected: Expected,
    may_create: bool,
) -> Result<(), StoreError> {
    let row = write
        .first("SELECT version FROM pools WHERE name = $1", params![name])
        .await?;
    check(
        &format!("pool `{name}`"),
        expected,
        version(row)?,
        may_create,
    )
}

async fn put_pool(
    write: &mut Write,
    name: &str,
    settings: &str,
    expected: Expected,
    at: i64,
) -> Result<(), StoreError> {
    check_pool(write, name, expected, true).await?;
    let sql = "INSERT INTO pools (name, settings, version, created_at, updated_at) VALUES ($1, $2, 1, $3, $3) \
               ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, version = pools.version + 1, \
               updated_at = excluded.updated_at";
    write
        .execute(sql, params![name, settings, at])
        .await
        .map(drop)
}

async fn delete_pool(write: &mut Write, name: &str, expected: Expected) -> Result<(), StoreError> {
    check_pool(write, name, expected, false).await?;
    write
        .execute("DELETE FROM keys WHERE pool = $1", params![name])
        .await?;
    write
        .execute("DELETE FROM pools WHERE name = $1", params![name])
        .await
        .map(drop)
}
