//! The calls of a batch, as they are stored with its jobs.

use serde::{Deserialize, Serialize};

use super::StoredCall;

/// Size of a stored piece of a file, in bytes. Every piece but the last one has it.
pub(crate) const FILE_PIECE: u64 = 1 << 20;

/// A part of a batch: lines of its file.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StoredPart {
    /// What the calls have in common.
    pub(crate) call: StoredCall,
    /// Number of the first line in the file, from 1.
    pub(crate) first_line: u64,
    /// Number of lines, empty ones included.
    pub(crate) lines: u64,
    /// Where the first line begins in the file, in bytes.
    pub(crate) offset: u64,
    /// Length of all lines, in bytes.
    pub(crate) bytes: u64,
}

impl StoredPart {
    /// Its JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The part of this JSON; `None` if keypool did not write it.
    pub(crate) fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}
