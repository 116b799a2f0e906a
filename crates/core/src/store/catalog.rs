//! Everything that the admin API manages.

use std::sync::Arc;
use std::time::SystemTime;

use super::Revision;
use crate::secret::{Digest256, HashKey, Secret};

/// Everything that the admin API manages, as of one revision. Secrets are decrypted.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The number of the newest change in it.
    pub revision: Revision,
    /// Sorted by name.
    pub pools: Vec<StoredPool>,
    /// Sorted by pool and time of creation.
    pub keys: Vec<StoredKey>,
    /// Sorted by name.
    pub virtual_keys: Vec<StoredVirtualKey>,
    /// A virtual key was stored at some time. It may be deleted by now.
    pub has_held_virtual_key: bool,
    /// Turns a secret's digest into the hash by which stored secrets are found.
    pub hash_key: HashKey,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPool {
    /// Unique among stored pools.
    pub name: Arc<str>,
    /// Its settings, as JSON.
    pub settings: String,
    /// Counts its changes from 1.
    pub version: u64,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

/// A key of a stored or declared pool.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredKey {
    /// The pool's name.
    pub pool: Arc<str>,
    /// Unique among the stored keys of its pool.
    pub name: Arc<str>,
    /// The credential sent upstream.
    pub secret: Secret,
    /// Where the secret may be sent: scheme, host and port, and a proxy that could read it. Set together with the secret.
    pub bound_to: String,
    /// Its further settings, as JSON.
    pub settings: String,
    /// Counts its changes from 1.
    pub version: u64,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
    /// When its secret was set.
    pub secret_set_at: SystemTime,
}

/// A virtual key. The secret that callers present is not stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredVirtualKey {
    /// Unique among stored virtual keys.
    pub name: Arc<str>,
    /// The keyed hash of the secret's digest.
    pub hash: Digest256,
    /// What may be shown of the secret.
    pub hint: String,
    /// The hash of the secret before the last rotation, and until when that is accepted.
    pub previous: Option<(Digest256, SystemTime)>,
    /// What announcements of its jobs' ends are signed with, in the form of Standard Webhooks; `None`: none was made yet.
    pub webhook_secret: Option<Secret>,
    /// Its further settings, as JSON.
    pub settings: String,
    /// Counts its changes from 1.
    pub version: u64,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
    /// When its secret was set.
    pub secret_set_at: SystemTime,
}
