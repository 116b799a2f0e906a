//! Replaces the master key.

use std::time::Duration;

use keypool_core::store::{StoreError, StoreErrorKind};
use serde_json::{Value, json};

use super::envelope::{Envelope, Keys, MasterKey};
use super::key_changes::secret_place;
use super::schema;
use super::sql::{Database, Row, Transaction, params};
use super::sql_store::in_time;
use super::transaction::with_rows;
use super::virtual_key_changes::webhook_secret_place;

/// How long a rotation may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Encrypts everything with a new data key, which only the new master key opens, in one transaction. The schema must be up to
/// date.
pub(super) async fn rotate(
    database: &dyn Database,
    old: &MasterKey,
    new: &MasterKey,
) -> Result<(), StoreError> {
    in_time(DEADLINE, encrypt_again(database, old, new)).await
}

async fn encrypt_again(
    database: &dyn Database,
    old: &MasterKey,
    new: &MasterKey,
) -> Result<(), StoreError> {
    let mut transaction = database.write().await?;
    if schema::version(database, &mut *transaction).await? < database.migrations().len() {
        return Err(nothing_to_rotate());
    }
    // Takes the lock that every writer takes first.
    let sql = "UPDATE meta SET revision = revision RETURNING {now}{limits}";
    transaction.fetch(sql, vec![]).await?;
    let envelope = schema::envelope(&mut *transaction)
        .await?
        .ok_or_else(nothing_to_rotate)?;
    let old = envelope.open(old)?;
    let (envelope, new) = Envelope::renew(new, &old)?;

    let write = &mut *transaction;
    encrypt_rows(write, SECRETS, |row| secret(row, &old, &new)).await?;
    encrypt_rows(write, IDENTITIES, |row| identity(row, &old, &new)).await?;
    encrypt_rows(write, WEBHOOK_SECRETS, |row| {
        webhook_secret(row, &old, &new)
    })
    .await?;

    let sql = "UPDATE meta SET key_id = $1, salt = $2, data_key = $3, hash_key = $4";
    let params = params![
        envelope.key_id,
        envelope.salt,
        envelope.data_key,
        envelope.hash_key
    ];
    transaction.execute(sql, params).await?;
    transaction.commit().await
}

/// The statement that reads encrypted fields, and the one that replaces them.
type Statements = (&'static str, &'static str);

const SECRETS: Statements = (
    "SELECT pool, name, secret, bound_to FROM keys",
    "UPDATE keys SET secret = r.value->>'secret' FROM {rows} AS r \
     WHERE pool = (r.value->>'pool') AND name = (r.value->>'name')",
);
const IDENTITIES: Statements = (
    "SELECT hash, identity FROM key_states",
    "UPDATE key_states SET identity = r.value->>'identity' FROM {rows} AS r WHERE hash = (r.value->>'hash')",
);
const WEBHOOK_SECRETS: Statements = (
    "SELECT name, webhook_secret FROM virtual_keys WHERE webhook_secret IS NOT NULL",
    "UPDATE virtual_keys SET webhook_secret = r.value->>'secret' FROM {rows} AS r WHERE name = (r.value->>'name')",
);

async fn encrypt_rows(
    transaction: &mut dyn Transaction,
    (read, replace): Statements,
    encrypt: impl Fn(Row) -> Result<Value, StoreError>,
) -> Result<(), StoreError> {
    let stored = transaction.fetch(read, vec![]).await?;
    let rows = stored.into_iter().map(encrypt).collect::<Result<_, _>>()?;
    transaction
        .execute(replace, with_rows(rows, vec![]))
        .await
        .map(drop)
}

fn secret(mut row: Row, old: &Keys, new: &Keys) -> Result<Value, StoreError> {
    let (pool, name, stored, bound_to) = (row.text()?, row.text()?, row.text()?, row.text()?);
    let place = secret_place(&pool, &name, &bound_to);
    let secret = new.encrypt(&old.decrypt(&stored, &place)?, &place)?;
    Ok(json!({ "pool": pool, "name": name, "secret": secret }))
}

fn identity(mut row: Row, old: &Keys, new: &Keys) -> Result<Value, StoreError> {
    let (hash, stored) = (row.text()?, row.text()?);
    let place = ["key_states", "identity", &hash];
    let identity = new.encrypt(&old.decrypt(&stored, &place)?, &place)?;
    Ok(json!({ "hash": hash, "identity": identity }))
}

fn webhook_secret(mut row: Row, old: &Keys, new: &Keys) -> Result<Value, StoreError> {
    let (name, stored) = (row.text()?, row.text()?);
    let place = webhook_secret_place(&name);
    let secret = new.encrypt(&old.decrypt(&stored, &place)?, &place)?;
    Ok(json!({ "name": name, "secret": secret }))
}

fn nothing_to_rotate() -> StoreError {
    StoreError::new(
        StoreErrorKind::Missing,
        "the database holds no keys of this version of keypool; start `keypool serve` with it once, then rotate",
    )
}
