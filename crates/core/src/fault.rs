//! What an attempt's outcome means, in classes that are the same for all providers.
//!
//! A dialect decides the class and the pool acts on it. Nothing else needs to know a provider's codes.

use std::time::Duration;

/// The meaning of an upstream response, or of its absence, to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The call went well.
    Success,
    /// The request itself is at fault: the response is relayed, never retried, and blames no key.
    CallerFault,
    /// The quota group is rate-limited for the model: it cools down as long as the response says, else 60 s.
    RateLimited,
    /// The quota group has no quota or balance left: it cools down as long as the response says, else 1 h.
    Exhausted,
    /// The provider does not accept the key: it is `invalid` until an operator acts.
    Rejected,
    /// The key may not use this model or feature: it cools down for the model, for 10 min.
    Forbidden,
    /// The provider or the way to it is in trouble: this counts against the key's breaker.
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

/// A classified outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it means.
    pub class: Class,
    /// How long the provider asked to wait; `None`: it did not say, and the class's default applies.
    pub wait: Option<Duration>,
    /// The provider's own code or type, if it gave one: `insufficient_quota`, `RESOURCE_EXHAUSTED`.
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
