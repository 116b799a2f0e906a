//! The store as the gateway knows it: its newest contents, what they mean together with the declared configuration, and what
//! waits to be stored. This module must never call the store: `sync`, `quota` and `admin` do.

mod merge;
mod pending;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keypool_core::pool::KeyRecords;
use keypool_core::store::{Catalog, Revision, Store, StoreError, StoreErrorKind};
use parking_lot::Mutex;

pub(crate) use merge::{Inactive, Resource, StoredVirtualKeys, merge, surroundings};
pub(crate) use pending::{Pending, PendingFlushes};
pub(crate) use usage::{GroupOf, UsageCounter};

/// The store, and what is known of its contents.
pub(crate) struct Stored {
    /// `None` in a gateway that stores nothing.
    store: Option<Arc<dyn Store>>,
    /// What is known of keys, whatever pools they are in.
    pub(crate) records: Arc<KeyRecords>,
    pub(crate) usage: UsageCounter,
    contents: Mutex<Contents>,
    /// Held while what was read is applied.
    pub(crate) applying: Mutex<()>,
    /// Held while something is changed, so that a change is checked against what is stored.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while an import is read.
    pub(crate) importing: tokio::sync::Mutex<()>,
    /// The flushes that a node sends, one after the other.
    pub(crate) flushes: tokio::sync::Mutex<PendingFlushes>,
    held_virtual_key: HeldVirtualKey,
    has_remembered: AtomicBool,
    /// The last attempt to read the store failed.
    reads_fail: AtomicBool,
    /// The last attempt to write to it failed.
    writes_fail: AtomicBool,
}

/// Whether the store once held a virtual key, remembered elsewhere.
pub struct HeldVirtualKey {
    /// It did.
    pub is_known: bool,
    /// Called when it is found out.
    pub remember: Box<dyn Fn() + Send + Sync>,
}

impl Default for HeldVirtualKey {
    /// Nothing is known or remembered.
    fn default() -> Self {
        Self {
            is_known: false,
            remember: Box::new(|| {}),
        }
    }
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
            Self::Read => "what is in effect stays, and changes of other nodes are not seen",
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
            importing: tokio::sync::Mutex::default(),
            flushes: tokio::sync::Mutex::default(),
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
    pub(crate) fn has_store(&self) -> bool {
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

    /// What the store manages, for a change.
    ///
    /// # Errors
    /// If it was never loaded, or is known not to respond: a shared store is asked every second, so a change need not wait
    /// to find that out.
    pub(crate) fn for_change(&self) -> Result<Arc<Catalog>, StoreError> {
        self.check_reachable()?;
        self.loaded()
    }

    /// Fails if the store is known not to respond.
    pub(crate) fn check_reachable(&self) -> Result<(), StoreError> {
        let is_shared = self.store.as_ref().is_some_and(|store| store.is_shared());
        match is_shared && self.reads_fail() {
            true => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "the store does not respond, so nothing can be changed: see the log",
            )),
            false => Ok(()),
        }
    }

    /// Remembers that the store has held a virtual key, once.
    pub(crate) fn remember_held(&self, virtual_keys: &StoredVirtualKeys) {
        if virtual_keys.has_held() && !self.has_remembered.swap(true, Ordering::Relaxed) {
            (self.held_virtual_key.remember)();
        }
    }

    /// The newest change that is followed; `None` until the store was loaded.
    pub(crate) fn followed(&self) -> Option<Revision> {
        let contents = self.contents.lock();
        contents.catalog.as_ref().map(|_| contents.followed)
    }

    /// Takes the catalog, which was read after this change was followed, as of `revision`. Returns the newest change that is
    /// followed (0: none), or `None` if another task has read something newer meanwhile. To be called while `applying` is held.
    pub(crate) fn take_read(
        &self,
        after: Option<Revision>,
        revision: Revision,
        catalog: Catalog,
    ) -> Option<Revision> {
        let mut contents = self.contents.lock();
        // A lower revision alone tells nothing: the database may have been restored.
        let is_overtaken = after != contents.catalog.as_ref().map(|_| contents.followed);
        if is_overtaken && contents.catalog.is_some() && revision < contents.followed {
            return None;
        }
        contents.catalog = Some(Arc::new(catalog));
        Some(contents.followed)
    }

    /// Everything up to this change is followed. Until that is said, what is noted of keys may be older.
    pub(crate) fn set_followed(&self, revision: Revision) {
        self.contents.lock().followed = revision;
    }

    /// Notes that this node has made a change that need not be followed here, unless changes of others came before it.
    pub(crate) fn note_followed(&self, revision: Revision) {
        let mut contents = self.contents.lock();
        if contents.followed + 1 == revision {
            contents.followed = revision;
        }
    }

    /// What is stored and not in effect.
    pub(crate) fn inactive(&self) -> Arc<Vec<Inactive>> {
        Arc::clone(&self.contents.lock().inactive)
    }

    pub(crate) fn set_inactive(&self, inactive: Vec<Inactive>) {
        self.contents.lock().inactive = Arc::new(inactive);
    }

    /// Notes whether the store responded. Returns whether that is news.
    pub(crate) fn note_outcome<T>(&self, access: Access, outcome: &Result<T, StoreError>) -> bool {
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
