//! A pool as the admin API and the store write it.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::proxy_url::ProxySetting;
use keypool_core::settings::{
    BreakerSettings, KeyDefaults, PoolSettings, QueueSettings, RetrySettings, STORE, Strategy,
    TimeoutSettings,
};
use keypool_core::values;
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::text::{self, one_of};
use super::{Mistakes, Surroundings};

/// The settings of a pool. What is left out has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = PoolSettings)]
pub(crate) struct PoolFields {
    /// The provider's name.
    #[schema(schema_with = provider_names)]
    pub(crate) provider: String,
    /// How the next key is selected. Default: `round_robin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<StrategyName>,
    /// Where calls go. Default: the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://api.example.com/v1")]
    pub(crate) base_url: Option<String>,
    /// Names and patterns of the models that the pool serves. Default: the provider's own families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<Vec<String>>,
    /// The outbound proxy, or `none`. Default: the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<String>,
    /// Whether a refusal that may be about the account is tried once on another quota group. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) second_opinion: Option<bool>,
    /// Maximum number of calls in flight for each key. Default: the provider's own, else no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) max_concurrent_per_key: Option<u32>,
    /// How requests are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetryFields>,
    /// When keys are ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<BreakerFields>,
    /// How requests wait for a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<QueueFields>,
    /// How long each phase may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeouts: Option<TimeoutFields>,
}

/// The names of all providers.
fn provider_names() -> Object {
    let names = catalogue::ALL.iter().map(|dialect| dialect.name);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .build()
}

/// `strategy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Strategy)]
pub(crate) enum StrategyName {
    RoundRobin,
    LeastLoaded,
    Random,
    Affinity,
}

/// `retry`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetrySettings)]
pub(crate) struct RetryFields {
    /// Maximum number of retries of a request. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    retries: Option<u32>,
    /// Minimum time before a key that has just failed is tried again by the same request. Default: `1s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "1s", pattern = r"^\d{1,5}(ms|s|m|h)$")]
    backoff: Option<Duration>,
}

/// `breaker`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BreakerSettings)]
pub(crate) struct BreakerFields {
    /// The failure rate above which a key is ejected. Default: 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    failure_rate: Option<f64>,
    /// Minimum number of requests in the window for the rate to count. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    min_requests: Option<u32>,
    /// The period over which the rate is measured. Default: `60s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "60s", pattern = r"^[1-9]\d{0,4}(ms|s|m|h)$")]
    window: Option<Duration>,
    /// How long a key stays ejected. Default: `5m`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "5m", pattern = r"^\d{1,5}(ms|s|m|h)$")]
    cooldown: Option<Duration>,
    /// Share of the pool's keys that may be ejected. Default: 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    max_ejected: Option<f64>,
}

/// `queue`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QueueSettings)]
pub(crate) struct QueueFields {
    /// Maximum number of requests that wait for a key. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    max_waiting: Option<u32>,
    /// Maximum time that each of them waits. Default: `60s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "60s", pattern = r"^\d{1,5}(ms|s|m|h)$")]
    timeout: Option<Duration>,
}

/// `timeouts`
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TimeoutSettings)]
pub(crate) struct TimeoutFields {
    /// Until a connection is open. Default: `5s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "5s", pattern = r"^[1-9]\d{0,4}(ms|s|m|h)$")]
    connect: Option<Duration>,
    /// Until the first byte of a stream. Default: `300s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "300s", pattern = r"^[1-9]\d{0,4}(ms|s|m|h)$")]
    first_byte: Option<Duration>,
    /// Between two bytes of a response. Default: `120s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "120s", pattern = r"^[1-9]\d{0,4}(ms|s|m|h)$")]
    idle: Option<Duration>,
    /// Until the first byte of the response, over all attempts and waits. Default: `600s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "600s", pattern = r"^[1-9]\d{0,4}(ms|s|m|h)$")]
    total: Option<Duration>,
}

impl PoolFields {
    /// What the fields mean for the pool of that name, which has no keys yet.
    pub(crate) fn settings(
        &self,
        name: &Arc<str>,
        around: Surroundings<'_>,
    ) -> Result<PoolSettings, Mistakes> {
        let mut mistakes = Mistakes::new();
        if let Some(mistake) = values::pool_name_mistake(name) {
            mistakes.push(format!("the pool's name {mistake}"));
        }
        let Some(dialect) = catalogue::find(&self.provider) else {
            let names: Vec<&str> = catalogue::ALL.iter().map(|dialect| dialect.name).collect();
            mistakes.push(format!("`provider` is not known: {}", one_of(&names)));
            return Err(mistakes);
        };
        let base_url = match &self.base_url {
            Some(text) => text::base_url(text, dialect, around, &mut mistakes),
            None => default_base_url(dialect, &mut mistakes),
        };
        let proxy = text::proxy(self.proxy.as_deref(), &mut mistakes);
        for model in self.models.iter().flatten() {
            text::label("models", Some(model), &mut mistakes);
        }
        text::limit(
            "max_concurrent_per_key",
            self.max_concurrent_per_key,
            &mut mistakes,
        );
        let own = dialect
            .default_models
            .iter()
            .map(|model| (*model).to_owned());
        let settings = PoolSettings {
            name: Arc::clone(name),
            provider: dialect.name,
            strategy: self.strategy.map_or(Strategy::default(), Strategy::from),
            models: self.models.clone().unwrap_or_else(|| own.collect()),
            second_opinion: self.second_opinion.unwrap_or(true),
            keys: Vec::new(),
            key_defaults: KeyDefaults {
                base_url,
                proxy,
                max_concurrent: self
                    .max_concurrent_per_key
                    .or(dialect.default_max_concurrent),
            },
            retry: self.retry.unwrap_or_default().settings(&mut mistakes),
            breaker: self.breaker.unwrap_or_default().settings(&mut mistakes),
            queue: self.queue.unwrap_or_default().settings(&mut mistakes),
            timeouts: self.timeouts.unwrap_or_default().settings(&mut mistakes),
            source: STORE.into(),
        };
        match mistakes.is_empty() {
            true => Ok(settings),
            false => Err(mistakes),
        }
    }

    /// The fields of a pool in use, wherever it was configured.
    pub(crate) fn of(pool: &PoolSettings) -> Self {
        let defaults = &pool.key_defaults;
        Self {
            provider: pool.provider.to_owned(),
            strategy: Some(pool.strategy.into()),
            base_url: defaults
                .base_url
                .as_ref()
                .map(|url| format!("{}{}", url.origin(), url.path())),
            models: Some(pool.models.clone()),
            proxy: match &defaults.proxy {
                ProxySetting::Unset => None,
                ProxySetting::Direct => Some("none".to_owned()),
                // Without its user and password.
                ProxySetting::Proxy(url) => Some(url.to_string()),
            },
            second_opinion: Some(pool.second_opinion),
            max_concurrent_per_key: defaults.max_concurrent,
            retry: Some(RetryFields::of(&pool.retry)),
            breaker: Some(BreakerFields::of(&pool.breaker)),
            queue: Some(QueueFields::of(&pool.queue)),
            timeouts: Some(TimeoutFields::of(&pool.timeouts)),
        }
    }
}

fn default_base_url(
    dialect: &Dialect,
    mistakes: &mut Mistakes,
) -> Option<keypool_core::base_url::BaseUrl> {
    let own = dialect.default_base_url.and_then(|url| url.parse().ok());
    if own.is_none() {
        mistakes.push(format!(
            "`base_url` is missing: the provider \"{}\" has no default",
            dialect.name
        ));
    }
    own
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::RoundRobin => Self::RoundRobin,
            StrategyName::LeastLoaded => Self::LeastLoaded,
            StrategyName::Random => Self::Random,
            StrategyName::Affinity => Self::Affinity,
        }
    }
}

impl From<Strategy> for StrategyName {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::RoundRobin => Self::RoundRobin,
            Strategy::LeastLoaded => Self::LeastLoaded,
            Strategy::Random => Self::Random,
            Strategy::Affinity => Self::Affinity,
        }
    }
}

/// Reports a duration of nothing where there must be some time.
fn not_zero(field: &str, time: Option<Duration>, mistakes: &mut Mistakes) {
    if time.is_some_and(|time| time.is_zero()) {
        mistakes.push(format!("`{field}` must be longer than 0"));
    }
}

impl RetryFields {
    fn settings(self, mistakes: &mut Mistakes) -> RetrySettings {
        let defaults = RetrySettings::default();
        text::range("retry.retries", self.retries, (0, 100), mistakes);
        RetrySettings {
            retries: self.retries.unwrap_or(defaults.retries),
            backoff: self.backoff.unwrap_or(defaults.backoff),
        }
    }

    fn of(settings: &RetrySettings) -> Self {
        Self {
            retries: Some(settings.retries),
            backoff: Some(settings.backoff),
        }
    }
}

impl BreakerFields {
    fn settings(self, mistakes: &mut Mistakes) -> BreakerSettings {
        let defaults = BreakerSettings::default();
        text::range(
            "breaker.failure_rate",
            self.failure_rate,
            (0.0, 1.0),
            mistakes,
        );
        text::range(
            "breaker.max_ejected",
            self.max_ejected,
            (0.0, 1.0),
            mistakes,
        );
        text::limit("breaker.min_requests", self.min_requests, mistakes);
        not_zero("breaker.window", self.window, mistakes);
        BreakerSettings {
            failure_rate: self.failure_rate.unwrap_or(defaults.failure_rate),
            min_requests: self.min_requests.unwrap_or(defaults.min_requests),
            window: self.window.unwrap_or(defaults.window),
            cooldown: self.cooldown.unwrap_or(defaults.cooldown),
            max_ejected: self.max_ejected.unwrap_or(defaults.max_ejected),
        }
    }

    fn of(settings: &BreakerSettings) -> Self {
        Self {
            failure_rate: Some(settings.failure_rate),
            min_requests: Some(settings.min_requests),
            window: Some(settings.window),
            cooldown: Some(settings.cooldown),
            max_ejected: Some(settings.max_ejected),
        }
    }
}

impl QueueFields {
    fn settings(self, mistakes: &mut Mistakes) -> QueueSettings {
        let defaults = QueueSettings::default();
        text::range(
            "queue.max_waiting",
            self.max_waiting,
            (0, 1_000_000),
            mistakes,
        );
        QueueSettings {
            max_waiting: self
                .max_waiting
                .map_or(defaults.max_waiting, |number| number as usize),
            timeout: self.timeout.unwrap_or(defaults.timeout),
        }
    }

    fn of(settings: &QueueSettings) -> Self {
        Self {
            max_waiting: u32::try_from(settings.max_waiting).ok(),
            timeout: Some(settings.timeout),
        }
    }
}

impl TimeoutFields {
    fn settings(self, mistakes: &mut Mistakes) -> TimeoutSettings {
        let defaults = TimeoutSettings::default();
        for (field, time) in [
            ("timeouts.connect", self.connect),
            ("timeouts.first_byte", self.first_byte),
            ("timeouts.idle", self.idle),
            ("timeouts.total", self.total),
        ] {
            not_zero(field, time, mistakes);
        }
        TimeoutSettings {
            connect: self.connect.unwrap_or(defaults.connect),
            first_byte: self.first_byte.unwrap_or(defaults.first_byte),
            idle: self.idle.unwrap_or(defaults.idle),
            total: self.total.unwrap_or(defaults.total),
        }
    }

    fn of(settings: &TimeoutSettings) -> Self {
        Self {
            connect: Some(settings.connect),
            first_byte: Some(settings.first_byte),
            idle: Some(settings.idle),
            total: Some(settings.total),
        }
    }
}
