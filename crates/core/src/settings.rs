//! The settings of pools and keys, as plain values with their defaults.

use std::sync::Arc;
use std::time::Duration;

use crate::base_url::BaseUrl;
use crate::limit::Limits;
use crate::proxy_url::{ProxySetting, ProxyUrl};
use crate::secret::Secret;

/// `[pools.<name>]`
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// The pool's name.
    pub name: Arc<str>,
    /// The provider's name.
    pub provider: &'static str,
    /// How the next key is selected.
    pub strategy: Strategy,
    /// Names and patterns of the models that this pool serves.
    pub models: Vec<String>,
    /// Whether a refusal that may be about the account is tried once on another quota group.
    pub second_opinion: bool,
    /// The keys, in order.
    pub keys: Vec<KeySettings>,
    /// What a key takes from the pool if it does not set it.
    pub key_defaults: KeyDefaults,
    /// `[pools.<name>.retry]`
    pub retry: RetrySettings,
    /// `[pools.<name>.breaker]`
    pub breaker: BreakerSettings,
    /// `[pools.<name>.queue]`
    pub queue: QueueSettings,
    /// `[pools.<name>.timeouts]`
    pub timeouts: TimeoutSettings,
    /// Where the pool comes from, and so where it is changed: the configuration file's name, `environment` or [`STORE`].
    pub source: Arc<str>,
}

/// The source of pools and keys that the admin API manages.
pub const STORE: &str = "store";

/// What a key takes from its pool if it does not set it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyDefaults {
    /// The pool's base URL, or its provider's; `None`: there is none.
    pub base_url: Option<BaseUrl>,
    /// `proxy`
    pub proxy: ProxySetting,
    /// `max_concurrent_per_key`
    pub max_concurrent: Option<u32>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            name: Arc::default(),
            provider: "",
            strategy: Strategy::default(),
            models: Vec::new(),
            second_opinion: true,
            keys: Vec::new(),
            key_defaults: KeyDefaults::default(),
            retry: RetrySettings::default(),
            breaker: BreakerSettings::default(),
            queue: QueueSettings::default(),
            timeouts: TimeoutSettings::default(),
            source: Arc::default(),
        }
    }
}

/// One key of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySettings {
    /// The key's name, unique in its pool.
    pub name: Arc<str>,
    /// The credential sent upstream.
    pub secret: Secret,
    /// Where the key's calls go.
    pub base_url: BaseUrl,
    /// The proxy that its calls go through; `None`: no proxy.
    pub proxy: Option<ProxyUrl>,
    /// The model sent upstream instead of the one that the client named; `None`: the client's.
    pub model: Option<Arc<str>>,
    /// The quota group; `None`: the key has one of its own.
    pub group: Option<Arc<str>>,
    /// The key's share of the traffic relative to the other keys, 1 to 100.
    pub weight: u32,
    /// Maximum number of calls in flight; `None`: no cap.
    pub max_concurrent: Option<u32>,
    /// `rpm`, `input_tpm` and `output_tpm`. Its `concurrent` is always `None`: see `max_concurrent`.
    pub limits: Limits,
    /// The admin API manages it. Otherwise its source is that of its pool.
    pub is_stored: bool,
}

impl KeySettings {
    /// A key with the default settings: no proxy, the client's model, a quota group of its own, weight 1, no cap, no limits.
    pub fn new(name: impl Into<Arc<str>>, secret: Secret, base_url: BaseUrl) -> Self {
        Self {
            name: name.into(),
            secret,
            base_url,
            proxy: None,
            model: None,
            group: None,
            weight: 1,
            max_concurrent: None,
            limits: Limits::default(),
            is_stored: false,
        }
    }
}

/// `strategy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Keys in turn, by weight.
    #[default]
    RoundRobin,
    /// The key with the fewest calls in flight for its weight.
    LeastLoaded,
    /// A random key, by weight.
    Random,
    /// The same conversation goes to the same quota group while that has room. Other requests go as with
    /// `LeastLoaded`.
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
    /// Maximum number of retries of a request: it gets min(retries + 1, 2 × keys) attempts.
    pub retries: u32,
    /// How long a key that failed in a request is not tried again by the same request.
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
    /// The failure rate above which a key is ejected, 0 to 1.
    pub failure_rate: f64,
    /// Minimum number of requests in the window for the rate to count.
    pub min_requests: u32,
    /// The length of the window over which the rate is measured.
    pub window: Duration,
    /// How long a key is ejected before a probe.
    pub cooldown: Duration,
    /// The share of the pool's keys that may be ejected (rounded down, at least 1), 0 to 1.
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
    /// Maximum number of requests that wait for a key.
    pub max_waiting: usize,
    /// How long each of them waits at most.
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
    /// Until a connection is open.
    pub connect: Duration,
    /// Until the first byte of a stream.
    pub first_byte: Duration,
    /// Between two bytes of a response.
    pub idle: Duration,
    /// Until the first byte of the response, over all attempts and waits.
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
