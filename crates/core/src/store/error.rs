//! Why the store could not do something.

use std::fmt;

/// A failure of the store.
#[derive(Debug)]
pub struct StoreError {
    /// What kind of failure.
    pub kind: StoreErrorKind,
    /// A sentence for the operator that says what to do. Never contains a secret or the store's URL.
    pub message: String,
}

/// What kind of failure: one for each thing that callers do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store does not respond. It may return.
    Unavailable,
    /// The store does not accept writes: a full disk, a read-only file or server.
    NotWritable,
    /// The change asks for a name that is taken.
    NameTaken,
    /// The change brings a secret that another key of the pool, or another virtual key, has.
    SecretTaken,
    /// The change is about something that is not stored.
    Missing,
    /// The resource has another version than the change expects.
    VersionMismatch,
    /// The master key is not the one with which the store was written.
    WrongMasterKey,
    /// The database was written by a newer version of keypool.
    NewerSchema,
    /// Another server uses the database.
    InUse,
    /// Anything else: the database is damaged, a statement is wrong.
    Internal,
}

impl StoreError {
    /// A failure of this kind, with a sentence for the operator.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Whether the same call may succeed later although nobody mends anything here.
    pub fn may_pass(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl StoreErrorKind {
    /// The stable name in logs and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "store_unavailable",
            Self::NotWritable => "store_not_writable",
            Self::NameTaken => "name_taken",
            Self::SecretTaken => "duplicate_key",
            Self::Missing => "not_found",
            Self::VersionMismatch => "version_mismatch",
            Self::WrongMasterKey => "wrong_master_key",
            Self::NewerSchema => "newer_schema",
            Self::InUse => "store_in_use",
            Self::Internal => "store_failed",
        }
    }
}
