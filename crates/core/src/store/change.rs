//! Changes of the catalog, and the audit log.

use std::sync::Arc;
use std::time::SystemTime;

use crate::secret::{Digest256, Secret};

/// One change of the catalog.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates a pool, or replaces its settings.
    PutPool {
        /// The pool's name.
        name: Arc<str>,
        /// Its settings, as JSON.
        settings: String,
        /// What must be stored now.
        expected: Expected,
    },
    /// Deletes a pool and its keys.
    DeletePool {
        /// The pool's name.
        name: Arc<str>,
        /// What must be stored now.
        expected: Expected,
    },
    /// Adds keys to a stored or declared pool.
    AddKeys {
        /// The pool's name.
        pool: Arc<str>,
        /// The pool is stored, so it must still be.
        pool_is_stored: bool,
        /// The keys: at least one.
        keys: Vec<NewKey>,
    },
    /// Replaces a key's settings, and its secret if there is one.
    UpdateKey {
        /// The pool's name.
        pool: Arc<str>,
        /// The key, with its new settings.
        key: NewKey,
        /// Whether `key.secret` and `key.bound_to` are new; otherwise the stored ones stay.
        has_new_secret: bool,
        /// What must be stored now.
        expected: Expected,
    },
    /// Deletes a key.
    DeleteKey {
        /// The pool's name.
        pool: Arc<str>,
        /// The key's name.
        name: Arc<str>,
        /// What must be stored now.
        expected: Expected,
    },
    /// Adds a virtual key.
    AddVirtualKey {
        /// The virtual key.
        key: NewVirtualKey,
    },
    /// Replaces a virtual key's settings.
    UpdateVirtualKey {
        /// Its name.
        name: Arc<str>,
        /// Its new settings, as JSON.
        settings: String,
        /// What must be stored now.
        expected: Expected,
    },
    /// Replaces a virtual key's secret.
    RotateVirtualKey {
        /// The virtual key with its new secret; its settings stay.
        key: NewVirtualKey,
        /// Until when the secret before is still accepted; `None`: no longer.
        previous_until: Option<SystemTime>,
        /// What must be stored now.
        expected: Expected,
    },
    /// Deletes a virtual key.
    DeleteVirtualKey {
        /// Its name.
        name: Arc<str>,
        /// What must be stored now.
        expected: Expected,
    },
}

/// What must be stored for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything that the change can be applied to.
    Any,
    /// Nothing of that name.
    Absent,
    /// The resource, in any version.
    Present,
    /// The resource in this version.
    Version(u64),
}

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Unique among the stored keys of its pool.
    pub name: Arc<str>,
    /// The credential sent upstream.
    pub secret: Secret,
    /// Where the secret may be sent.
    pub bound_to: String,
    /// Its further settings, as JSON.
    pub settings: String,
}

/// A virtual key to be stored.
#[derive(Clone, Debug)]
pub struct NewVirtualKey {
    /// Unique among stored virtual keys.
    pub name: Arc<str>,
    /// The keyed hash of the secret's digest.
    pub hash: Digest256,
    /// What may be shown of the secret.
    pub hint: String,
    /// What announcements of its jobs' ends are signed with; `None`: what is stored of that stays.
    pub webhook_secret: Option<Secret>,
    /// Its further settings, as JSON.
    pub settings: String,
}

/// What the audit log says about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was made.
    pub at: SystemTime,
    /// Who made it: `admin`, a holder of the admin token.
    pub actor: &'static str,
    /// The address that it came from.
    pub source: String,
    /// What was done: `key.create`.
    pub action: &'static str,
    /// What it was done to: `pools/p/keys/k`.
    pub target: String,
    /// Further facts, as a JSON object without secrets.
    pub details: String,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number: later entries have greater ones.
    pub id: u64,
    /// When the change was made.
    pub at: SystemTime,
    /// Who made it.
    pub actor: String,
    /// The address that it came from.
    pub source: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// Further facts, as a JSON object.
    pub details: String,
}
