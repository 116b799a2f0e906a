//! A key of a pool as the admin API and the store write it, without its name and its secret.

use std::sync::Arc;

use keypool_core::base_url::BaseUrl;
use keypool_core::limit::Limits;
use keypool_core::proxy_url::{ProxyScheme, ProxySetting, ProxyUrl};
use keypool_core::secret::Secret;
use keypool_core::settings::{KeySettings, PoolSettings};
use keypool_providers::catalogue;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text;
use super::{Mistakes, Surroundings};

/// The settings of a key. What is left out comes from its pool, or has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = KeySettings)]
pub(crate) struct KeyFields {
    /// Where the key's calls go. Default: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base_url: Option<String>,
    /// The outbound proxy, or `none`. Default: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<String>,
    /// The model sent upstream instead of the one that the client named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// The quota group: keys of one account share its limits. Default: the key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// The key's share of the traffic relative to the other keys. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub(crate) weight: Option<u32>,
    /// Maximum number of calls in flight. Default: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) max_concurrent: Option<u32>,
    /// Maximum number of requests in every 60 seconds. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) rpm: Option<u32>,
    /// Maximum number of input tokens in every 60 seconds. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) input_tpm: Option<u32>,
    /// Maximum number of output tokens in every 60 seconds. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) output_tpm: Option<u32>,
}

/// Where a key's calls go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyPlace {
    pub(crate) base_url: BaseUrl,
    pub(crate) proxy: Option<ProxyUrl>,
    /// What a secret that is sent there is bound to.
    pub(crate) binding: String,
}

impl KeyFields {
    /// Where the key's calls go if it is in `pool`.
    pub(crate) fn place(
        &self,
        pool: &PoolSettings,
        around: Surroundings<'_>,
        mistakes: &mut Mistakes,
    ) -> Option<KeyPlace> {
        let own = text::proxy(self.proxy.as_deref(), mistakes);
        let defaults = &pool.key_defaults;
        let base_url = match &self.base_url {
            Some(text) => text::base_url(text, catalogue::find(pool.provider)?, around, mistakes)?,
            None => match &defaults.base_url {
                Some(url) => url.clone(),
                None => {
                    mistakes.push(format!(
                        "`base_url` is missing: neither the pool nor the provider \"{}\" has one",
                        pool.provider
                    ));
                    return None;
                }
            },
        };
        let configured = match (&own, &defaults.proxy) {
            (ProxySetting::Unset, of_pool) => of_pool,
            (own, _) => own,
        };
        Some(KeyPlace {
            binding: binding(&base_url, configured),
            proxy: around.proxies.resolve(&own, &defaults.proxy, &base_url),
            base_url,
        })
    }

    /// What the fields mean for the key of that name and secret in `pool`.
    pub(crate) fn settings(
        &self,
        (name, secret): (&Arc<str>, &Secret),
        pool: &PoolSettings,
        around: Surroundings<'_>,
    ) -> Result<(KeySettings, KeyPlace), Mistakes> {
        let mut mistakes = Mistakes::new();
        self.check(&mut mistakes);
        let place = self.place(pool, around, &mut mistakes);
        let Some(place) = place.filter(|_| mistakes.is_empty()) else {
            return Err(mistakes);
        };
        let settings = KeySettings {
            proxy: place.proxy.clone(),
            model: self.model.as_deref().map(Arc::from),
            group: self.group.as_deref().map(Arc::from),
            weight: self.weight.unwrap_or(1),
            max_concurrent: self.max_concurrent.or(pool.key_defaults.max_concurrent),
            limits: Limits {
                requests: self.rpm,
                input_tokens: self.input_tpm,
                output_tokens: self.output_tpm,
                concurrent: None,
            },
            is_stored: true,
            ..KeySettings::new(Arc::clone(name), secret.clone(), place.base_url.clone())
        };
        Ok((settings, place))
    }

    fn check(&self, mistakes: &mut Mistakes) {
        text::label("model", self.model.as_deref(), mistakes);
        text::label("group", self.group.as_deref(), mistakes);
        text::range("weight", self.weight, (1, 100), mistakes);
        text::limit("max_concurrent", self.max_concurrent, mistakes);
        text::limit("rpm", self.rpm, mistakes);
        text::limit("input_tpm", self.input_tpm, mistakes);
        text::limit("output_tpm", self.output_tpm, mistakes);
    }

    /// The fields of a key in use, wherever it was configured.
    pub(crate) fn of(key: &KeySettings) -> Self {
        Self {
            base_url: Some(format!("{}{}", key.base_url.origin(), key.base_url.path())),
            proxy: key.proxy.as_ref().map(ToString::to_string),
            model: key.model.as_deref().map(str::to_owned),
            group: key.group.as_deref().map(str::to_owned),
            weight: Some(key.weight),
            max_concurrent: key.max_concurrent,
            rpm: key.limits.requests,
            input_tpm: key.limits.input_tokens,
            output_tpm: key.limits.output_tokens,
        }
    }
}

/// What a secret is bound to: scheme, host and port of where it is sent, and a configured proxy that is reached by plain
/// HTTP or could read what passes through it. The environment's proxies are the operator's own, as the process is.
pub(crate) fn binding(base_url: &BaseUrl, proxy: &ProxySetting) -> String {
    match proxy {
        ProxySetting::Proxy(url) if url.scheme() == ProxyScheme::Http || !base_url.is_https() => {
            format!("{} via {url}", base_url.origin())
        }
        _ => base_url.origin().to_string(),
    }
}
