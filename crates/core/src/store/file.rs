//! Files that callers keep here: the input of batches, and their results.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A file to be uploaded.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Its id, which nobody can guess.
    pub id: Arc<str>,
    /// The virtual key that uploads it; `None`: no virtual key was required.
    pub caller: Option<Arc<str>>,
    /// The name that the caller gave it.
    pub filename: String,
    /// What it is for, as the caller said.
    pub purpose: String,
    /// How long it is kept.
    pub keep: Duration,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id.
    pub id: Arc<str>,
    /// The virtual key that it belongs to.
    pub caller: Option<Arc<str>>,
    /// Its name.
    pub filename: String,
    /// What it is for: `batch` or `batch_output`.
    pub purpose: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// When it was created.
    pub created_at: SystemTime,
    /// Until when it is kept.
    pub expires_at: Option<SystemTime>,
    /// Of a file with results: whose.
    pub results_of: Option<ResultsOf>,
}

/// Which results of a batch a file has. They are read from the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultsOf {
    /// The batch.
    pub batch: Arc<str>,
    /// Those that are errors; otherwise the others.
    pub errors: bool,
}

/// What a call to delete a file did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDeletion {
    /// It is gone.
    Deleted,
    /// A batch that has not ended reads it.
    InUse,
    /// There is no such file.
    Missing,
}

/// Which files are listed.
#[derive(Clone, Debug, Default)]
pub struct FileQuery {
    /// Whose.
    pub caller: Option<Arc<str>>,
    /// Only with this purpose.
    pub purpose: Option<String>,
    /// Only those that come after this one.
    pub after: Option<Arc<str>>,
    /// Oldest first; otherwise newest first.
    pub oldest_first: bool,
    /// Maximum number.
    pub limit: usize,
}
