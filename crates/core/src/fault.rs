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
    /// The request costs more than the key has left: a smaller one would be served, so nothing cools down, and another
    /// group may serve this one.
    TooExpensive,
    /// The quota group is rate-limited for the model: it cools down as long as the response says, else 60 s.
    RateLimited,
    /// The quota group has no quota or balance left: it cools down as long as the response says, else 1 h.
    Exhausted,
    /// The provider does not accept the key: it is `invalid` until an operator acts.
    Rejected,
    /// The key may not use this model or feature: it cools down for the model, for 10 min.
    Forbidden,
    /// The provider or the way to it is in trouble: this may count against the key's breaker.
    UpstreamTrouble,
    /// Something between us and the provider, such as a CDN, refused the call: no key is blamed.
    IntermediaryTrouble,
}

impl Class {
    /// The stable name used in logs, the API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::CallerFault => "caller_fault",
            Self::TooExpensive => "too_expensive",
            Self::RateLimited => "rate_limited",
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Forbidden => "forbidden",
            Self::UpstreamTrouble => "upstream_trouble",
            Self::IntermediaryTrouble => "intermediary_trouble",
        }
    }

    /// The class of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    const ALL: [Self; 9] = [
        Self::Success,
        Self::CallerFault,
        Self::TooExpensive,
        Self::RateLimited,
        Self::Exhausted,
        Self::Rejected,
        Self::Forbidden,
        Self::UpstreamTrouble,
        Self::IntermediaryTrouble,
    ];

    /// Whether another key may do better. The response to any other attempt is relayed.
    pub fn allows_failover(self) -> bool {
        !matches!(self, Self::Success | Self::CallerFault)
    }

    /// Whether the attempt counts as failed in the key's statistics.
    pub fn blames_key(self) -> bool {
        self.allows_failover() && !matches!(self, Self::TooExpensive | Self::IntermediaryTrouble)
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
    /// Whether a code, a type or known words decided the class. Otherwise the status alone did, which proves little.
    pub is_recognized: bool,
    /// What a [`Class::Forbidden`] covers.
    pub scope: Scope,
}

/// What a key is forbidden to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The model, at every endpoint.
    #[default]
    Model,
    /// The model at this endpoint: the key lacks a permission that only this endpoint needs.
    Endpoint,
}

impl Fault {
    /// A fault of `class` with no stated wait and no code.
    pub fn of(class: Class) -> Self {
        Self {
            class,
            wait: None,
            code: None,
            is_recognized: true,
            scope: Scope::Model,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_name() {
        for class in Class::ALL {
            // A new class does not compile here until it is in the list.
            match class {
                Class::Success
                | Class::CallerFault
                | Class::TooExpensive
                | Class::RateLimited
                | Class::Exhausted
                | Class::Rejected
                | Class::Forbidden
                | Class::UpstreamTrouble
                | Class::IntermediaryTrouble => {}
            }
            assert_eq!(Class::of_name(class.as_str()), Some(class));
        }
        assert_eq!(Class::of_name("other"), None);
    }
}
