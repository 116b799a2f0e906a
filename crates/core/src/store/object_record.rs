//! Who created an object at a provider, and through which key.

use std::sync::Arc;
use std::time::SystemTime;

use super::UpstreamKeyId;

/// An object that was created or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// The object's id, as the provider spells it.
    pub id: Arc<str>,
    /// The key through which it was created.
    pub key: UpstreamKeyId,
    /// The name of the key's quota group then; `None`: the key alone.
    pub group: Option<Arc<str>>,
    /// The virtual key that created it; `None`: no virtual key was required.
    pub owner: Option<Arc<str>>,
    /// It is gone.
    pub deleted: bool,
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// What is known of it.
    pub object: ObjectChange,
    /// When it was recorded as created or deleted, by the store's clock.
    pub at: SystemTime,
}
