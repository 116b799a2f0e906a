//! Creates and updates the schema, and opens the keys of a store.

use keypool_core::store::{StoreError, StoreErrorKind};

use super::envelope::{Envelope, Keys, MasterKey};
use super::sql::{Database, Transaction, params, unexpected};

/// How a store may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The schema is created and updated.
    Full,
    /// Nothing is written.
    ReadOnly,
}

/// What was found.
enum Found {
    /// All that is needed.
    Store(Envelope),
    /// No schema, an older one, or no keys.
    Unprepared,
}

/// Opens the keys of a store. Creates what is missing, in one transaction.
///
/// # Errors
/// [`StoreErrorKind::NewerSchema`] and [`StoreErrorKind::WrongMasterKey`]; nothing is written then.
pub(super) async fn prepare(
    database: &dyn Database,
    master_key: &MasterKey,
    access: Access,
) -> Result<Keys, StoreError> {
    let mut read = database.read().await?;
    if let Found::Store(envelope) = find(database, &mut *read).await? {
        return envelope.open(master_key);
    }
    drop(read);
    if access == Access::ReadOnly {
        return Err(StoreError::new(
            StoreErrorKind::Missing,
            "the database holds no keys of this version of keypool; start `keypool serve` with it once",
        ));
    }
    create(database, master_key).await
}

async fn create(database: &dyn Database, master_key: &MasterKey) -> Result<Keys, StoreError> {
    let mut transaction = database.migrate().await?;
    let version = version(database, &mut *transaction).await?;
    if version == 0 {
        transaction.script("CREATE TABLE keypool_schema (version BIGINT NOT NULL); INSERT INTO keypool_schema VALUES (0)").await?;
    }
    let migrations = database.migrations();
    for migration in migrations.iter().skip(version) {
        transaction.script(migration).await?;
    }
    transaction
        .execute(
            "UPDATE keypool_schema SET version = $1",
            params![migrations.len() as i64],
        )
        .await?;
    let keys = match envelope(&mut *transaction).await? {
        Some(envelope) => envelope.open(master_key)?,
        None => {
            let (envelope, keys) = Envelope::create(master_key)?;
            insert(&mut *transaction, envelope).await?;
            keys
        }
    };
    transaction.commit().await?;
    Ok(keys)
}

/// Whether the database holds keys, so that their master key is needed.
pub(super) async fn holds_keys(database: &dyn Database) -> Result<bool, StoreError> {
    let mut read = database.read().await?;
    Ok(version(database, &mut *read).await? > 0 && envelope(&mut *read).await?.is_some())
}

async fn find(
    database: &dyn Database,
    transaction: &mut dyn Transaction,
) -> Result<Found, StoreError> {
    if version(database, transaction).await? < database.migrations().len() {
        return Ok(Found::Unprepared);
    }
    Ok(envelope(transaction)
        .await?
        .map_or(Found::Unprepared, Found::Store))
}

/// The number of changes of the schema that were made.
pub(super) async fn version(
    database: &dyn Database,
    transaction: &mut dyn Transaction,
) -> Result<usize, StoreError> {
    if transaction
        .fetch(database.has_schema(), vec![])
        .await?
        .is_empty()
    {
        return Ok(0);
    }
    let rows = transaction
        .fetch("SELECT version FROM keypool_schema", vec![])
        .await?;
    let version = match rows.into_iter().next() {
        Some(mut row) => usize::try_from(row.count()?).unwrap_or(usize::MAX),
        None => 0,
    };
    if version > database.migrations().len() {
        return Err(StoreError::new(
            StoreErrorKind::NewerSchema,
            format!(
                "the database has schema {version}, and this version of keypool knows schemas up to {}; start the version \
                 of keypool that wrote it, or restore a backup from before",
                database.migrations().len()
            ),
        ));
    }
    Ok(version)
}

/// The keys as they are stored.
pub(super) async fn envelope(
    transaction: &mut dyn Transaction,
) -> Result<Option<Envelope>, StoreError> {
    let sql = "SELECT key_id, salt, data_key, hash_key FROM meta";
    let Some(mut row) = transaction.fetch(sql, vec![]).await?.into_iter().next() else {
        return Ok(None);
    };
    Ok(Some(Envelope {
        key_id: row.text()?,
        salt: row.text()?,
        data_key: row.text()?,
        hash_key: row.text()?,
    }))
}

/// Refuses to go on if the store was given another master key since its keys were opened.
pub(super) async fn check_keys(
    transaction: &mut dyn Transaction,
    keys: &Keys,
) -> Result<(), StoreError> {
    let rows = transaction.fetch("SELECT key_id FROM meta", vec![]).await?;
    keys.check(&rows.into_iter().next().ok_or_else(unexpected)?.text()?)
}

async fn insert(transaction: &mut dyn Transaction, envelope: Envelope) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (id, revision, has_held_virtual_key, key_id, salt, data_key, hash_key) \
               VALUES (1, 0, 0, $1, $2, $3, $4)";
    let params = params![
        envelope.key_id,
        envelope.salt,
        envelope.data_key,
        envelope.hash_key
    ];
    transaction.execute(sql, params).await.map(drop)
}
