//! Batches: files of calls that are made when there is room for them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::JobClaim;

/// Where a batch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStatus {
    /// Its file is checked.
    Validating,
    /// Its file has mistakes.
    Failed,
    /// Its calls are made.
    InProgress,
    /// Its results are put together.
    Finalizing,
    /// All calls were made.
    Completed,
    /// It was not done in time.
    Expired,
    /// Its calls in flight come to an end.
    Cancelling,
    /// Its caller called it off.
    Cancelled,
}

/// What becomes of a batch before all its calls were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEnding {
    /// [`BatchStatus::Expired`].
    Expired,
    /// [`BatchStatus::Cancelled`].
    Cancelled,
}

/// A batch to be created.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Its id, which nobody can guess.
    pub id: Arc<str>,
    /// The virtual key that creates it; `None`: no virtual key was required.
    pub caller: Option<Arc<str>>,
    /// The path of its calls.
    pub endpoint: String,
    /// The file with its calls.
    pub input_file: Arc<str>,
    /// The ids of the files with its results and with its errors.
    pub result_files: [Arc<str>; 2],
    /// What the caller noted, as JSON.
    pub metadata: Option<String>,
    /// Time until it expires.
    pub window: Duration,
    /// How long its results are kept.
    pub keep_results: Duration,
    /// What its calls have in common, as JSON that the gateway wrote.
    pub request: String,
}

/// A part of a batch: lines that one job calls one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPart {
    /// The pool to which its first line goes.
    pub pool: Arc<str>,
    /// Number of its lines that are calls.
    pub calls: u64,
    /// Where it is in the file, as JSON that the gateway wrote.
    pub request: String,
}

/// The result of one line.
#[derive(Clone, Debug)]
pub struct LineResult {
    /// The claim of the part that it belongs to.
    pub claim: JobClaim,
    /// The batch.
    pub batch: Arc<str>,
    /// The line's number in the file, from 1.
    pub line: u64,
    /// Whether the response is no error.
    pub succeeded: bool,
    /// The line of the file with results, without a line break.
    pub text: String,
    /// The tokens that it used.
    pub usage: BatchUsage,
}

/// Tokens that calls used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchUsage {
    /// Input tokens.
    pub input_tokens: u64,
    /// Those of them that came from a cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Those of them that were reasoning.
    pub reasoning_tokens: u64,
}

/// What became of the result of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultStored {
    /// It is stored, or was before.
    Stored,
    /// It is stored, and no further line is to be called: the batch was cancelled, or has expired.
    StoredLast,
    /// The claim was lost, so that nothing is stored.
    Lost,
}

/// What is known of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    /// Its id.
    pub id: Arc<str>,
    /// The virtual key that created it.
    pub caller: Option<Arc<str>>,
    /// The path of its calls.
    pub endpoint: String,
    /// The file with its calls.
    pub input_file: Arc<str>,
    /// The files with its results and with its errors, if there are any.
    pub result_files: [Option<Arc<str>>; 2],
    /// Where it is in its life.
    pub status: BatchStatus,
    /// What is to become of it.
    pub ending: Option<BatchEnding>,
    /// What the caller noted, as JSON.
    pub metadata: Option<String>,
    /// The model, if all its calls name the same one.
    pub model: Option<String>,
    /// The mistakes in its file, as JSON that the gateway wrote.
    pub errors: Option<String>,
    /// Number of its calls.
    pub total: u64,
    /// Number of its calls that succeeded.
    pub completed: u64,
    /// Number of its calls that failed.
    pub failed: u64,
    /// Tokens that it used.
    pub usage: BatchUsage,
    /// When it was created.
    pub created_at: SystemTime,
    /// When its file was found to be valid.
    pub in_progress_at: Option<SystemTime>,
    /// When it expires.
    pub expires_at: SystemTime,
    /// When its last call had ended.
    pub finalizing_at: Option<SystemTime>,
    /// When it was called off.
    pub cancelling_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
}

/// Which batches are listed, newest first.
#[derive(Clone, Debug, Default)]
pub struct BatchQuery {
    /// Whose.
    pub caller: Option<Arc<str>>,
    /// Only those created before this one.
    pub after: Option<Arc<str>>,
    /// Maximum number.
    pub limit: usize,
}

/// What is known of a line before it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    /// It has a result.
    Done,
    /// It was sent, and must not be sent twice.
    Sent,
}

impl BatchStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The stable name, as in OpenAI's Batch API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl BatchEnding {
    /// The status of a batch that has ended so.
    pub fn status(self) -> BatchStatus {
        match self {
            Self::Expired => BatchStatus::Expired,
            Self::Cancelled => BatchStatus::Cancelled,
        }
    }
}
