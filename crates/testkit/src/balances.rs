//! The endpoints that report what a key has left at DeepSeek, OpenRouter, Moonshot and SiliconFlow.
//!
//! This module must never know of sockets, scripts or steps.

use http::Method;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::call::Call;
use crate::quota::{Quota, number};

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
