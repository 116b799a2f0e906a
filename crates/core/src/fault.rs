//! What an attempt's outcome means: the classes of CONTRACT's table, as data.
//!
//! A dialect decides the class; the pool acts on it; nothing else needs to know a provider's codes.

use std::time::Duration;

/// The meaning of one upstream answer (or of none) to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 2xx: relayed.
    Success,
    /// The request itself is at fault: relayed, never retried, blames no key.
    CallerFault,
    /// (quota group, model) rests as long as the answer says, else 60 s.
    RateLimited,
    /// The quota group has no quota or balance left: it rests until the time named, else 1 h.
    Exhausted,
    /// The key is not accepted: `invalid` until someone acts.
    Rejected,
    /// The key may not use this model or feature: (key, model) rests 10 min.
    Forbidden,
    /// The provider or the way to it is in trouble: counts against the key's breaker.
    UpstreamTrouble,
}

impl Class {
    /// The stable name used in logs, the API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::CallerFault => "caller_fault",
            Self::RateLimited => "rate_limited",
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Forbidden => "forbidden",
            Self::UpstreamTrouble => "upstream_trouble",
        }
    }

    /// Whether the attempt counts as failed in a key's statistics.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::CallerFault)
    }
}

/// A classified upstream failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it means.
    pub class: Class,
    /// How long the provider asked to wait, where it said; `None` takes the class's default.
    pub wait: Option<Duration>,
    /// The provider's own code or type (`insufficient_quota`, `RESOURCE_EXHAUSTED`), where it gave one.
    pub code: Option<String>,
}

impl Fault {
    /// A fault of `class` with no stated wait and no code.
    pub fn of(class: Class) -> Self {
        Self {
            class,
            wait: None,
            code: None,
        }
    }

    /// The same fault with a stated wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    /// The same fault with the provider's code.
    #[must_use]
    pub fn with_code(mut self, code: Option<String>) -> Self {
        self.code = code;
        self
    }
}
