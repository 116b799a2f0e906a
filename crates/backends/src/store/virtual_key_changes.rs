//! Changes of stored virtual keys.

use keypool_core::store::{Expected, NewVirtualKey, StoreError, StoreErrorKind};

use super::convert::hex;
use super::expected::{check, version};
use super::sql::params;
use super::transaction::Write;

/// Adds a virtual key.
pub(super) async fn add(write: &mut Write, key: &NewVirtualKey, at: i64) -> Result<(), StoreError> {
    let stored = stored_version(write, &key.name).await?;
    check(&what(&key.name), Expected::Absent, stored, true)?;
    check_free(write, key).await?;
    write
        .execute("UPDATE meta SET has_held_virtual_key = 1", vec![])
        .await?;
    let sql = "INSERT INTO virtual_keys (name, hash, hint, settings, version, created_at, updated_at, secret_set_at, \
               webhook_secret) VALUES ($1, $2, $3, $4, 1, $5, $5, $5, $6)";
    let params = params![
        &*key.name,
        hex(&key.hash),
        &*key.hint,
        &*key.settings,
        at,
        webhook_secret(write, key)?
    ];
    write.execute(sql, params).await.map(drop)
}

/// Replaces a virtual key's settings.
pub(super) async fn update(
    write: &mut Write,
    name: &str,
    settings: &str,
    expected: Expected,
    at: i64,
) -> Result<(), StoreError> {
    check_stored(write, name, expected).await?;
    let sql = "UPDATE virtual_keys SET settings = $2, version = version + 1, updated_at = $3 WHERE name = $1";
    write
        .execute(sql, params![name, settings, at])
        .await
        .map(drop)
}

/// Deletes a virtual key.
pub(super) async fn delete(
    write: &mut Write,
    name: &str,
    expected: Expected,
) -> Result<(), StoreError> {
    check_stored(write, name, expected).await?;
    write
        .execute("DELETE FROM virtual_keys WHERE name = $1", params![name])
        .await
        .map(drop)
}

/// Replaces a virtual key's secret. The one before stays valid until `previous_until`.
pub(super) async fn rotate(
    write: &mut Write,
    key: &NewVirtualKey,
    previous_until: Option<i64>,
    at: i64,
) -> Result<(), StoreError> {
    check_free(write, key).await?;
    let sql = "UPDATE virtual_keys SET previous_hash = CASE WHEN $5 = 1 THEN hash END, \
               previous_until = CASE WHEN $5 = 1 THEN $6 END, hash = $2, hint = $3, version = version + 1, \
               updated_at = $4, secret_set_at = $4, webhook_secret = COALESCE($7, webhook_secret) WHERE name = $1";
    let (has_previous, until) = (previous_until.is_some(), previous_until.unwrap_or_default());
    let params = params![
        &*key.name,
        hex(&key.hash),
        &*key.hint,
        at,
        has_previous,
        until,
        webhook_secret(write, key)?
    ];
    write.execute(sql, params).await.map(drop)
}

/// The webhook secret as it is stored.
fn webhook_secret(write: &Write, key: &NewVirtualKey) -> Result<Option<String>, StoreError> {
    let place = webhook_secret_place(&key.name);
    let secret = key.webhook_secret.as_ref();
    secret
        .map(|secret| write.keys.encrypt(secret.expose(), &place))
        .transpose()
}

/// What the stored webhook secret of a virtual key is bound to.
pub(super) fn webhook_secret_place(name: &str) -> [&str; 3] {
    ["virtual_keys", "webhook_secret", name]
}

/// Refuses a change unless what is stored of the virtual key is as expected.
pub(super) async fn check_stored(
    write: &mut Write,
    name: &str,
    expected: Expected,
) -> Result<(), StoreError> {
    let stored = stored_version(write, name).await?;
    check(&what(name), expected, stored, false)
}

async fn stored_version(write: &mut Write, name: &str) -> Result<Option<u64>, StoreError> {
    version(
        write
            .first(
                "SELECT version FROM virtual_keys WHERE name = $1",
                params![name],
            )
            .await?,
    )
}

fn what(name: &str) -> String {
    format!("virtual key `{name}`")
}

/// Refuses a secret that a stored virtual key has, or had before its last rotation.
async fn check_free(write: &mut Write, key: &NewVirtualKey) -> Result<(), StoreError> {
    let sql = "SELECT name FROM virtual_keys WHERE hash = $1 OR previous_hash = $1";
    let Some(mut row) = write.first(sql, params![hex(&key.hash)]).await? else {
        return Ok(());
    };
    let message = format!(
        "virtual key `{}` has the same secret; choose another one",
        row.text()?
    );
    Err(StoreError::new(StoreErrorKind::SecretTaken, message))
}
