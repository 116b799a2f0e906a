//! What a key has left, and the endpoints that tell it at DeepSeek, OpenRouter, Moonshot and SiliconFlow.
//!
//! This module must never know of sockets, scripts or steps.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::call::Call;

/// The balance to tell of a key without limit, where a provider has nothing but a balance.
const UNLIMITED_BALANCE: f64 = 1_000_000.0;

/// What a key has left, as every quota endpoint tells it. It changes with no call.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Credits, or an amount of money; `None`: unlimited.
    pub remaining: Option<f64>,
    /// What there was at first. Balances do not tell it.
    #[serde(default)]
    pub limit: Option<f64>,
}

impl Quota {
    /// The limit and what of it is used; `None` if the key is unlimited.
    pub(crate) fn limit_and_used(self) -> Option<(f64, f64)> {
        let remaining = self.remaining?;
        let limit = self.limit.unwrap_or(remaining);
        Some((limit, limit - remaining))
    }

    fn balance(self) -> Value {
        number(self.remaining.unwrap_or(UNLIMITED_BALANCE))
    }
}

/// An amount as JSON. Whole ones have no fraction.
pub(crate) fn number(amount: f64) -> Value {
    match amount.fract() == 0.0 {
        true => json!(amount as i64),
        false => json!(amount),
    }
}

/// A quota endpoint, by the provider that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    DeepSeek,
    OpenRouter,
    Moonshot,
    SiliconFlow,
}

impl Endpoint {
    /// The endpoint of a path. DeepSeek's has no version.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if *method != Method::GET {
            return None;
        }
        Some(match path {
            "/user/balance" => Endpoint::DeepSeek,
            "/api/v1/key" | "/v1/key" | "/key" => Endpoint::OpenRouter,
            "/v1/users/me/balance" | "/users/me/balance" => Endpoint::Moonshot,
            "/v1/user/info" | "/user/info" => Endpoint::SiliconFlow,
            _ => return None,
        })
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: Endpoint, call: &Call<'_>) -> Answer {
    let quota = call.state.quota(call.key);
    let body = match endpoint {
        Endpoint::DeepSeek => deepseek(quota),
        Endpoint::OpenRouter => openrouter(quota),
        Endpoint::Moonshot => json!({
            "code": 0,
            "scode": "0x0",
            "status": true,
            "data": {
                "available_balance": quota.balance(),
                "voucher_balance": 0,
                "cash_balance": quota.balance(),
            },
        }),
        Endpoint::SiliconFlow => json!({
            "code": 20000,
            "message": "OK",
            "status": true,
            "data": {
                "id": "mock",
                "balance": "0.00",
                "chargeBalance": quota.balance().to_string(),
                "totalBalance": quota.balance().to_string(),
                "status": "normal",
            },
        }),
    };
    Answer::json(call.protocol, call.state, body.to_string())
}

fn deepseek(quota: Quota) -> Value {
    let balance = quota.balance();
    json!({
        "is_available": quota.remaining.is_none_or(|left| left > 0.0),
        "balance_infos": [{
            "currency": "USD",
            "total_balance": balance.to_string(),
            "granted_balance": "0.00",
            "topped_up_balance": balance.to_string(),
        }],
    })
}

fn openrouter(quota: Quota) -> Value {
    let (limit, used) = quota.limit_and_used().unzip();
    json!({
        "data": {
            "label": "mock",
            "limit": limit.map(number),
            "limit_remaining": quota.remaining.map(number),
            "limit_reset": null,
            "usage": number(used.unwrap_or(0.0)),
            "is_free_tier": false,
        },
    })
}
