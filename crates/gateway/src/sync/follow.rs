//! Loads what is stored, and follows what other nodes change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keypool_core::clock::Moment;
use keypool_core::key::KeyId;
use keypool_core::pool::ObjectOrigin;
use keypool_core::store::{Catalog, KeyRecord, ObjectRecord, Revision, StoreError, UpstreamKeyId};
use keypool_providers::catalogue;

use crate::context::Gateway;
use crate::objects;
use crate::stored::Access;

/// How often the store is asked: a shared one for changes of other nodes, another one only after a failure.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How far polls of objects overlap: what was stored before the last poll may become visible after it.
const OVERLAP: Duration = Duration::from_secs(10);

/// What was read of the store in one go.
struct Read {
    /// The newest change that was followed when the reading began.
    after: Option<Revision>,
    revision: Revision,
    catalog: Catalog,
    records: Vec<KeyRecord>,
}

impl Gateway {
    /// Loads everything that is stored and applies it. Call it before serving.
    ///
    /// # Errors
    /// What the store says. If it does not respond, [`follow_regularly`] goes on trying.
    pub async fn load_store(self: &Arc<Self>) -> Result<(), StoreError> {
        if !self.stored.has_store() {
            return Ok(());
        }
        self.follow_store().await?;
        self.load_objects(None).await.map(|_| ())
    }

    /// Reads what has changed in the store, and applies it.
    pub(crate) async fn follow_store(self: &Arc<Self>) -> Result<(), StoreError> {
        let read = self.read_changes().await;
        let Some(read) = self.note_store(Access::Read, read)? else {
            return Ok(());
        };
        let gw = Arc::clone(self);
        // Off the tasks that serve requests: many keys take some time.
        let applying = tokio::task::spawn_blocking(move || gw.apply_read(read));
        if applying.await.is_err() {
            self.telemetry.store_not_applied();
        }
        Ok(())
    }

    async fn read_changes(&self) -> Result<Option<Read>, StoreError> {
        let store = self.stored.store()?;
        let followed = self.stored.followed();
        let revision = store.revision().await?;
        if followed == Some(revision) {
            return Ok(None);
        }
        let since = followed.filter(|followed| *followed < revision);
        // The catalog may be newer than the revision; then it is read once more than needed.
        Ok(Some(Read {
            after: followed,
            revision,
            records: store.key_records(since.unwrap_or_default()).await?,
            catalog: store.catalog().await?,
        }))
    }

    fn apply_read(self: &Arc<Self>, read: Read) {
        let _one_at_a_time = self.stored.applying.lock();
        let taken = self
            .stored
            .take_read(read.after, read.revision, read.catalog);
        let Some(since) = taken else {
            return;
        };
        self.stored.records.put(read.records.iter().cloned());
        self.rebuild();
        // What the first load says is not followed, but restored.
        let since = read.after.map(|_| since);
        self.follow_records(&read.records, since);
        self.stored.set_followed(read.revision);
    }

    /// Applies records to the keys in use: changes since that one are followed.
    fn follow_records(&self, records: &[KeyRecord], since: Option<Revision>) {
        let by_key: HashMap<&UpstreamKeyId, &KeyRecord> =
            records.iter().map(|record| (&record.key, record)).collect();
        if by_key.is_empty() {
            return;
        }
        let moment = Moment::of(&*self.clock);
        for entry in &self.snapshot().pools {
            for member in entry.pool.keys().all() {
                let Some(record) = by_key.get(&UpstreamKeyId::from(&member.key.id)) else {
                    continue;
                };
                member.restore(record, &moment);
                if let Some(since) = since.filter(|since| record.revision > *since) {
                    member.follow(record, record.reset_at > since, &moment);
                }
            }
        }
    }

    /// Loads the owners of objects: those recorded since then, or the newest. Returns when the newest of them was recorded, by
    /// the store's clock; `None`: there is none.
    pub(crate) async fn load_objects(
        &self,
        since: Option<SystemTime>,
    ) -> Result<Option<SystemTime>, StoreError> {
        let store = self.stored.store()?;
        let objects = store.objects(since, objects::CAPACITY).await;
        let mut newest = None;
        for record in self.note_store(Access::Read, objects)? {
            newest = Some(record.at);
            if let Some(origin) = origin(&record) {
                let object = &record.object;
                self.objects
                    .import(&object.id, &origin, &object.owner, object.deleted);
            }
        }
        Ok(newest)
    }
}

fn origin(record: &ObjectRecord) -> Option<ObjectOrigin> {
    let UpstreamKeyId {
        provider,
        origin,
        digest,
    } = &record.object.key;
    Some(ObjectOrigin {
        key: KeyId {
            provider: catalogue::find(provider)?.name,
            origin: Arc::clone(origin),
            digest: *digest,
        },
        group: record.object.group.clone(),
    })
}

/// Follows the changes of other nodes, and loads a store that did not respond at first.
pub(crate) async fn follow_regularly(gw: &Arc<Gateway>) -> std::convert::Infallible {
    let Ok(store) = gw.stored.store() else {
        return std::future::pending().await;
    };
    let is_shared = store.is_shared();
    // When the newest object that is known was recorded.
    let mut newest = None;
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let is_loaded = gw.stored.catalog().is_some();
        // Of a write that failed, it may be unknown whether it was made.
        if is_loaded && !is_shared && !gw.stored.is_degraded() {
            continue;
        }
        // Errors are noted; this tries again.
        if gw.follow_store().await.is_err() {
            continue;
        }
        let since = newest.map(|at: SystemTime| at - OVERLAP);
        if let Ok(last) = gw.load_objects(since).await {
            newest = last.or(newest);
        }
    }
}
