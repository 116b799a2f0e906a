//! The settings of pools and keys, as plain values with their defaults.

use std::sync::Arc;
use std::time::Duration;

use crate::base_url::BaseUrl;
use crate::proxy_url::ProxyUrl;
use crate::secret::Secret;

/// `[pools.<name>]`
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// The pool's name.
    pub name: Arc<str>,
    /// The provider's name: one of the dialects'.
    pub provider: &'static str,
    /// How the next key is chosen.
    pub strategy: Strategy,
    /// Model names and patterns that this pool serves.
    pub models: Vec<String>,
    /// The keys, in order.
    pub keys: Vec<KeySettings>,
    /// `[pools.<name>.retry]`
    pub retry: RetrySettings,
    /// `[pools.<name>.breaker]`
    pub breaker: BreakerSettings,
    /// `[pools.<name>.queue]`
    pub queue: QueueSettings,
    /// `[pools.<name>.timeouts]`
    pub timeouts: TimeoutSettings,
    /// Where the pool was declared, for messages: `keypool.toml`, `environment`.
    pub source: Arc<str>,
}

/// One key of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySettings {
    /// Unique in its pool.
    pub name: Arc<str>,
    /// The credential sent upstream.
    pub secret: Secret,
    /// Where this key's calls go.
    pub base_url: BaseUrl,
    /// The proxy that its calls go through; `None`: they go there directly.
    pub proxy: Option<ProxyUrl>,
    /// The model sent upstream in index of the one that the client named.
    pub model: Option<Arc<str>>,
    /// The quota group; `None`: the key alone.
    pub group: Option<Arc<str>>,
    /// Share of the traffic, 1 to 100.
    pub weight: u32,
    /// Most concurrent calls; `None`: no cap.
    pub max_concurrent: Option<u32>,
}

/// `strategy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Keys in turn, by weight.
    #[default]
    RoundRobin,
    /// The key with the fewest calls in flight for its weight.
    LeastLoaded,
    /// Any key, by weight.
    Random,
    /// The same conversation goes to the same quota group while that has room; other requests as `LeastLoaded`.
    Affinity,
}

impl Strategy {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
            Self::Random => "random",
            Self::Affinity => "affinity",
        }
    }
}

/// `[pools.<name>.retry]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts of a request = min(retries + 1, 2 × keys).
    pub retries: u32,
    /// Waited before a key that has just failed is tried again in the same request.
    pub backoff: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            retries: 5,
            backoff: Duration::from_secs(1),
        }
    }
}

/// `[pools.<name>.breaker]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// The share of failures above which a key is set aside, 0 to 1.
    pub failure_rate: f64,
    /// The fewest requests in the window for the rate to count.
    pub min_requests: u32,
    /// The window over which the rate is taken.
    pub window: Duration,
    /// How long a key is set aside before a probe.
    pub cooldown: Duration,
    /// The share of the pool's keys that may be set aside (rounded down, at least 1), 0 to 1.
    pub max_ejected: f64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_rate: 0.5,
            min_requests: 10,
            window: Duration::from_secs(60),
            cooldown: Duration::from_secs(300),
            max_ejected: 0.5,
        }
    }
}

/// `[pools.<name>.queue]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Requests that may wait for a key.
    pub max_waiting: usize,
    /// How long each may wait.
    pub timeout: Duration,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            max_waiting: 1000,
            timeout: Duration::from_secs(60),
        }
    }
}

/// `[pools.<name>.timeouts]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// To an open connection.
    pub connect: Duration,
    /// To the first byte of a stream.
    pub first_byte: Duration,
    /// Between two bytes of an answer.
    pub idle: Duration,
    /// To the first byte of the answer, over all attempts and waits.
    pub total: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(600),
        }
    }
}
