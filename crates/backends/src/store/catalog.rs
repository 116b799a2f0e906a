//! Reads everything that the admin API manages.

use keypool_core::secret::Secret;
use keypool_core::store::{Catalog, Revision, StoreError, StoredKey, StoredPool, StoredVirtualKey};

use super::convert::{next_hash, next_time, time};
use super::envelope::Keys;
use super::key_changes::secret_place;
use super::sql::{Row, Transaction, unexpected};
use super::virtual_key_changes::webhook_secret_place;

/// The number of the newest change.
pub(super) async fn revision(transaction: &mut dyn Transaction) -> Result<Revision, StoreError> {
    let rows = transaction
        .fetch("SELECT revision FROM meta", vec![])
        .await?;
    rows.into_iter().next().ok_or_else(unexpected)?.count()
}

/// Everything that the admin API manages.
pub(super) async fn read(
    transaction: &mut dyn Transaction,
    keys: &Keys,
) -> Result<Catalog, StoreError> {
    let sql = "SELECT revision, has_held_virtual_key, key_id FROM meta";
    let mut meta = transaction
        .fetch(sql, vec![])
        .await?
        .into_iter()
        .next()
        .ok_or_else(unexpected)?;
    let (revision, has_held_virtual_key) = (meta.count()?, meta.flag()?);
    keys.check(&meta.text()?)?;

    let sql = "SELECT name, settings, version, created_at, updated_at FROM pools ORDER BY name";
    let pools = transaction.fetch(sql, vec![]).await?;
    let sql = "SELECT pool, name, secret, bound_to, settings, version, created_at, updated_at, secret_set_at \
               FROM keys ORDER BY pool, created_in, place";
    let stored_keys = transaction.fetch(sql, vec![]).await?;
    let sql = "SELECT name, hash, hint, previous_hash, previous_until, settings, version, created_at, updated_at, \
               secret_set_at, webhook_secret FROM virtual_keys ORDER BY name";
    let virtual_keys = transaction.fetch(sql, vec![]).await?;

    Ok(Catalog {
        revision,
        pools: pools.into_iter().map(pool).collect::<Result<_, _>>()?,
        keys: stored_keys
            .into_iter()
            .map(|row| key(row, keys))
            .collect::<Result<_, _>>()?,
        virtual_keys: virtual_keys
            .into_iter()
            .map(|row| virtual_key(row, keys))
            .collect::<Result<_, _>>()?,
        has_held_virtual_key,
        hash_key: keys.hash.clone(),
    })
}

fn pool(mut row: Row) -> Result<StoredPool, StoreError> {
    Ok(StoredPool {
        name: row.text()?.into(),
        settings: row.text()?,
        version: row.count()?,
        created_at: next_time(&mut row)?,
        updated_at: next_time(&mut row)?,
    })
}

fn key(mut row: Row, keys: &Keys) -> Result<StoredKey, StoreError> {
    let (pool, name, secret, bound_to) = (row.text()?, row.text()?, row.text()?, row.text()?);
    let secret = keys.decrypt(&secret, &secret_place(&pool, &name, &bound_to))?;
    Ok(StoredKey {
        pool: pool.into(),
        name: name.into(),
        secret: Secret::new(secret),
        bound_to,
        settings: row.text()?,
        version: row.count()?,
        created_at: next_time(&mut row)?,
        updated_at: next_time(&mut row)?,
        secret_set_at: next_time(&mut row)?,
    })
}

fn virtual_key(mut row: Row, keys: &Keys) -> Result<StoredVirtualKey, StoreError> {
    let (name, hash, hint) = (row.text()?, next_hash(&mut row)?, row.text()?);
    let previous = match (row.optional_text()?, row.optional_int()?) {
        (Some(hash), Some(until)) => {
            let hash = keypool_core::secret::Digest256::from_hex(&hash).ok_or_else(unexpected)?;
            Some((hash, time(until)))
        }
        _ => None,
    };
    let settings = row.text()?;
    let version = row.count()?;
    let (created_at, updated_at) = (next_time(&mut row)?, next_time(&mut row)?);
    let secret_set_at = next_time(&mut row)?;
    let webhook_secret = row.optional_text()?;
    let decrypt = |stored: String| keys.decrypt(&stored, &webhook_secret_place(&name));
    let webhook_secret = webhook_secret.map(decrypt).transpose()?;
    Ok(StoredVirtualKey {
        name: name.into(),
        hash,
        hint,
        previous,
        webhook_secret: webhook_secret.map(Secret::new),
        settings,
        version,
        created_at,
        updated_at,
        secret_set_at,
    })
}
