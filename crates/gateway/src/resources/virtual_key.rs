//! A virtual key as the admin API and the store write it, without its name and its secret.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use keypool_core::limit::{Limits, OutputReservation};
use keypool_core::secret::Digest256;
use keypool_core::settings::STORE;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Mistakes;
use super::text;
use crate::settings::{OnLimit, VirtualKeySettings};

/// The settings of a virtual key. What is left out has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = VirtualKeySettings)]
pub(crate) struct VirtualKeyFields {
    /// Names and patterns of the models that it may call. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<Vec<String>>,
    /// Names and patterns of the pools that it may call. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pools: Option<Vec<String>>,
    /// Whether it may use native paths. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) native: Option<bool>,
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
    /// Maximum number of calls in flight. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) max_concurrent: Option<u32>,
    /// How many output tokens a call holds while it is in flight. Default: `learned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output_reservation: Option<ReservationName>,
    /// What a call gets that a limit does not admit now. Default: `reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_limit: Option<OnLimitName>,
    /// Maximum time that a call waits with `on_limit` = `wait`. Default: `10s`.
    #[serde(
        default,
        with = "text::duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "10s", pattern = r"^[1-9]\d{0,4}(ms|s|m)$")]
    pub(crate) limit_wait: Option<Duration>,
    /// When it expires (RFC 3339). Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) expires: Option<Timestamp>,
    /// Whether it is switched off. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disabled: Option<bool>,
}

/// `output_reservation`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OutputReservation)]
pub(crate) enum ReservationName {
    Learned,
    MaxTokens,
}

/// `on_limit`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnLimit)]
pub(crate) enum OnLimitName {
    Reject,
    Wait,
}

impl VirtualKeyFields {
    /// What the fields mean for the virtual key of that name. `digest`: by which its secret is found.
    pub(crate) fn settings(
        &self,
        name: &Arc<str>,
        digest: Digest256,
    ) -> Result<VirtualKeySettings, Mistakes> {
        let mut mistakes = Mistakes::new();
        for model in self.models.iter().flatten() {
            text::label("models", Some(model), &mut mistakes);
        }
        for pool in self.pools.iter().flatten() {
            text::label("pools", Some(pool), &mut mistakes);
        }
        text::limit("rpm", self.rpm, &mut mistakes);
        text::limit("input_tpm", self.input_tpm, &mut mistakes);
        text::limit("output_tpm", self.output_tpm, &mut mistakes);
        text::limit("max_concurrent", self.max_concurrent, &mut mistakes);
        if self.limit_wait.is_some_and(|wait| wait.is_zero()) {
            mistakes.push("`limit_wait` must be longer than 0".to_owned());
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let defaults = VirtualKeySettings::new(Arc::clone(name), digest);
        Ok(VirtualKeySettings {
            models: self.models.clone().unwrap_or(defaults.models),
            pools: self.pools.clone().unwrap_or(defaults.pools),
            native: self.native.unwrap_or_default(),
            expires: self.expires.map(SystemTime::from),
            disabled: self.disabled.unwrap_or_default(),
            limits: Limits {
                requests: self.rpm,
                input_tokens: self.input_tpm,
                output_tokens: self.output_tpm,
                concurrent: self.max_concurrent,
            },
            output_reservation: match self.output_reservation {
                Some(ReservationName::MaxTokens) => OutputReservation::MaxTokens,
                _ => OutputReservation::Learned,
            },
            on_limit: match self.on_limit {
                Some(OnLimitName::Wait) => OnLimit::Wait,
                _ => OnLimit::Reject,
            },
            limit_wait: self.limit_wait.unwrap_or(defaults.limit_wait),
            source: STORE.into(),
            ..defaults
        })
    }

    /// The fields of a virtual key in use, wherever it was configured.
    pub(crate) fn of(key: &VirtualKeySettings) -> Self {
        Self {
            models: Some(key.models.clone()),
            pools: Some(key.pools.clone()),
            native: Some(key.native),
            rpm: key.limits.requests,
            input_tpm: key.limits.input_tokens,
            output_tpm: key.limits.output_tokens,
            max_concurrent: key.limits.concurrent,
            output_reservation: Some(match key.output_reservation {
                OutputReservation::Learned => ReservationName::Learned,
                OutputReservation::MaxTokens => ReservationName::MaxTokens,
            }),
            on_limit: Some(match key.on_limit {
                OnLimit::Reject => OnLimitName::Reject,
                OnLimit::Wait => OnLimitName::Wait,
            }),
            limit_wait: Some(key.limit_wait),
            expires: key.expires.and_then(|at| Timestamp::try_from(at).ok()),
            disabled: Some(key.disabled),
        }
    }
}
