//! The store as the gateway uses it: what it manages is put into the configuration, changes of other nodes are followed, and
//! what is counted while serving is stored every few seconds. Serving never waits for it.

mod flush;
mod follow;
mod merge;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keypool_core::pool::KeyRecords;
use keypool_core::store::{
    AuditEntry, Catalog, Change, KeyStateChange, Revision, Store, StoreError, StoreErrorKind,
};
use parking_lot::Mutex;

pub(crate) use flush::{Flusher, compact_regularly, flush_regularly};
pub(crate) use follow::follow_regularly;
pub(crate) use merge::{Inactive, StoredVirtualKeys, merge, surroundings};
pub(crate) use usage::{GroupOf, UsageCounter};

use crate::context::{Gateway, HeldVirtualKey};

/// The store, and what is known of its contents.
pub(crate) struct Stored {
    /// `None` in a gateway that stores nothing.
    store: Option<Arc<dyn Store>>,
    /// What is known of keys, whatever pools they are in.
    pub(crate) records: Arc<KeyRecords>,
    pub(crate) usage: UsageCounter,
    contents: Mutex<Contents>,
    /// Held while what was read is put in force.
    applying: Mutex<()>,
    /// Held while something is changed, so that a change is checked against what is stored.
    pub(crate) changing: tokio::sync::Mutex<()>,
    flusher: Flusher,
    held_virtual_key: HeldVirtualKey,
    has_remembered: AtomicBool,
    /// The last attempt to read the store failed.
    reads_fail: AtomicBool,
    /// The last attempt to write to it failed.
    writes_fail: AtomicBool,
}

/// How the store was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Default)]
struct Contents {
    /// `None` until it was loaded.
    catalog: Option<Arc<Catalog>>,
    /// The newest change that is followed.
    followed: Revision,
    inactive: Arc<Vec<Inactive>>,
}

impl Access {
    /// The stable name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// What a failure means.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Read => "what is in force stays, and changes of other nodes are not seen",
            Self::Write => "nothing can be changed, and what is counted waits in memory",
        }
    }
}

impl Stored {
    pub(crate) fn new(store: Option<Arc<dyn Store>>, held_virtual_key: HeldVirtualKey) -> Self {
        Self {
            has_remembered: AtomicBool::new(held_virtual_key.is_known),
            held_virtual_key,
            reads_fail: AtomicBool::new(false),
            writes_fail: AtomicBool::new(false),
            store,
            records: Arc::default(),
            usage: UsageCounter::default(),
            contents: Mutex::default(),
            applying: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            flusher: Flusher::default(),
        }
    }

    /// The store.
    ///
    /// # Errors
    /// If this gateway has none.
    pub(crate) fn store(&self) -> Result<&Arc<dyn Store>, StoreError> {
        self.store.as_ref().ok_or_else(|| {
            StoreError::new(StoreErrorKind::Unavailable, "this gateway has no store")
        })
    }

    /// Whether there is a store.
    pub(crate) fn is_there(&self) -> bool {
        self.store.is_some()
    }

    /// Whether the store could not be read or written when that was last tried.
    pub(crate) fn is_degraded(&self) -> bool {
        self.reads_fail.load(Ordering::Relaxed) || self.writes_fail.load(Ordering::Relaxed)
    }

    /// Whether the store could not be read when that was last tried.
    pub(crate) fn reads_fail(&self) -> bool {
        self.reads_fail.load(Ordering::Relaxed)
    }

    /// What the store manages; `None` until it was loaded.
    pub(crate) fn catalog(&self) -> Option<Arc<Catalog>> {
        self.contents.lock().catalog.clone()
    }

    /// What the store manages, for a change that is checked against it.
    ///
    /// # Errors
    /// If it was never loaded.
    pub(crate) fn loaded(&self) -> Result<Arc<Catalog>, StoreError> {
        self.catalog().ok_or_else(|| {
            let message = "the store has not responded since this server started, so nothing can be changed: see the log";
            StoreError::new(StoreErrorKind::Unavailable, message)
        })
    }

    /// Remembers that the store has held a virtual key, once.
    pub(crate) fn remember_held(&self, virtual_keys: &StoredVirtualKeys) {
        if virtual_keys.has_held() && !self.has_remembered.swap(true, Ordering::Relaxed) {
            (self.held_virtual_key.remember)();
        }
    }

    /// The newest change that is followed.
    fn followed(&self) -> Revision {
        self.contents.lock().followed
    }

    /// Notes that this node has made a change that need not be followed here, unless changes of others came before it.
    fn note_followed(&self, revision: Revision) {
        let mut contents = self.contents.lock();
        if contents.followed + 1 == revision {
            contents.followed = revision;
        }
    }

    /// What is stored and not in force.
    pub(crate) fn inactive(&self) -> Arc<Vec<Inactive>> {
        Arc::clone(&self.contents.lock().inactive)
    }

    pub(crate) fn set_inactive(&self, inactive: Vec<Inactive>) {
        self.contents.lock().inactive = Arc::new(inactive);
    }

    /// Notes whether the store responded. Returns whether that is news.
    fn note_outcome<T>(&self, access: Access, outcome: &Result<T, StoreError>) -> bool {
        let flag = match access {
            Access::Read => &self.reads_fail,
            Access::Write => &self.writes_fail,
        };
        let fails = match outcome {
            Ok(_) => false,
            // The store responded, and refused.
            Err(error) => !matches!(
                error.kind,
                StoreErrorKind::NameTaken
                    | StoreErrorKind::SecretTaken
                    | StoreErrorKind::Missing
                    | StoreErrorKind::VersionMismatch
            ),
        };
        flag.swap(fails, Ordering::Relaxed) != fails
    }
}

impl Gateway {
    /// Notes and logs whether the store responded.
    pub(crate) fn note_store<T>(
        &self,
        access: Access,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_news = self.stored.note_outcome(access, &outcome);
        match &outcome {
            Err(error) if is_news => self.telemetry.store_failed(access, error),
            Ok(_) if is_news => self.telemetry.store_recovered(access),
            _ => {}
        }
        outcome
    }

    /// Makes a change of the catalog, and puts it in force.
    pub(crate) async fn change_catalog(
        self: &Arc<Self>,
        change: &Change,
        audit: &AuditEntry,
    ) -> Result<(), StoreError> {
        let changed = self.stored.store()?.change(change, audit).await;
        self.note_store(Access::Write, changed)?;
        self.follow_store().await.map_err(|error| {
            let message = format!(
                "the change was stored, and comes into force when the store can be read again: {error}"
            );
            StoreError::new(StoreErrorKind::Unavailable, message)
        })
    }

    /// Makes changes of what is known of keys. Other nodes follow them; this one must do the same to its keys.
    pub(crate) async fn change_key_states(
        &self,
        changes: &[KeyStateChange],
        audit: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        if !self.stored.is_there() {
            return Ok(());
        }
        let now = self.clock.wall();
        let store = self.stored.store()?;
        let changed = store.change_key_states(changes, audit, now).await;
        let revision = self.note_store(Access::Write, changed)?;
        // Following it later would repeat it: a reset would end cooldowns that began since.
        self.stored.note_followed(revision);
        Ok(())
    }
}
