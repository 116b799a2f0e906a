//! What callers used, and through which keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The usage of one group in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// The beginning of the minute.
    pub minute: SystemTime,
    /// Whose usage.
    pub group: UsageGroup,
    /// How much.
    pub counts: UsageCounts,
}

/// Whose usage is counted together. Empty texts where calls name none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageGroup {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The key's name.
    pub key: Arc<str>,
    /// The model that was asked of the provider.
    pub model: Arc<str>,
    /// The virtual key's name.
    pub virtual_key: Arc<str>,
}

/// How much was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Requests of callers. Each counts at the key that served it, or was tried last.
    pub requests: u64,
    /// Calls to the provider.
    pub attempts: u64,
    /// Those of them that failed and blame the key.
    pub failures: u64,
    /// Input tokens that the provider reported.
    pub input_tokens: u64,
    /// Output tokens that the provider reported.
    pub output_tokens: u64,
}

/// What sums of usage are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    /// From this time on.
    pub from: SystemTime,
    /// Before this time.
    pub to: SystemTime,
    /// The length of each part of the time, from `from` on; `None`: one sum for all of it.
    pub step: Option<Duration>,
    /// A sum for each pool and key.
    pub by_key: bool,
    /// A sum for each model.
    pub by_model: bool,
    /// A sum for each virtual key.
    pub by_virtual_key: bool,
    /// Maximum number of sums.
    pub limit: usize,
}

/// The usage of one group in one part of the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTotal {
    /// The beginning of the part.
    pub at: SystemTime,
    /// Whose usage; what was not asked for is empty.
    pub group: UsageGroup,
    /// How much.
    pub counts: UsageCounts,
}
