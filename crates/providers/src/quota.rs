//! What a provider reports of a key's quota: how to ask for it, and the figures in its response.
//!
//! Must never know a provider: each dialect says where its endpoint is and which fields hold the figures.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

/// The unit of a balance whose currency the response does not name.
const ACCOUNT_CURRENCY: &str = "account_currency";

/// How to ask a provider for a key's quota (`GET`, without a query), and how to read its response.
#[derive(Clone, Copy, Debug)]
pub struct QuotaCall {
    /// The path sent upstream, given the path of the key's base URL (no slash at its end, may be empty).
    pub path: fn(&str) -> String,
    /// The name under which the quota of all pools of this provider is refreshed together; `None`: there is none.
    pub refreshed_as: Option<&'static str>,
    /// The number of such calls that a key may make; `None` if the provider states no limit.
    pub allowance: Option<Allowance>,
    /// Reads a 2xx body, given the authority of the key's base URL: see [`Dialect::parse_quota`](crate::dialect::Dialect::parse_quota).
    pub(crate) read: fn(&Value, &str) -> Result<QuotaFigures, QuotaError>,
}

/// At most `calls` calls of a key in any time of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Maximum number of calls.
    pub calls: u32,
    /// The time in which they count.
    pub per: Duration,
}

/// What a key has left. Amounts are finite and at least 0.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaFigures {
    /// What is left, in `unit`; `None`: the provider sets this key no limit.
    pub remaining: Option<f64>,
    /// What the plan allows for its period, in `unit`; `None`: unlimited, or not reported.
    pub limit: Option<f64>,
    /// `credits`, a currency such as `USD`, or `account_currency` where the provider does not say which.
    pub unit: Arc<str>,
}

/// Why a 2xx body has no figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// The body is not JSON, or not a single value.
    #[error("the provider's response is not JSON; check the base URL of the pool")]
    NotJson,
    /// A figure is missing, or is not a number.
    #[error(
        "the provider's response has no quota that can be read; check the provider and base URL of the pool"
    )]
    NoFigures,
    /// The body is an error.
    #[error("the provider responded with an error instead of the quota")]
    ErrorInBody,
    /// The dialect has no quota endpoint.
    #[error("this provider does not report the quota of a key")]
    NotOffered,
}

impl QuotaError {
    /// Its code.
    pub fn as_str(self) -> &'static str {
        match self {
            QuotaError::NotJson => "quota_response_not_json",
            QuotaError::NoFigures => "quota_response_without_figures",
            QuotaError::ErrorInBody => "quota_response_is_error",
            QuotaError::NotOffered => "quota_not_offered",
        }
    }
}

impl QuotaFigures {
    /// A negative amount counts as 0. Fails for one that is not finite.
    pub(crate) fn new(
        remaining: Option<f64>,
        limit: Option<f64>,
        unit: &str,
    ) -> Result<Self, QuotaError> {
        Ok(QuotaFigures {
            remaining: remaining.map(at_least_zero).transpose()?,
            limit: limit.map(at_least_zero).transpose()?,
            unit: Arc::from(unit),
        })
    }

    /// A balance without a limit.
    pub(crate) fn balance(left: f64, unit: &str) -> Result<Self, QuotaError> {
        Self::new(Some(left), None, unit)
    }
}

/// `NaN` and the infinities are no amounts, and -0 is 0.
fn at_least_zero(amount: f64) -> Result<f64, QuotaError> {
    match amount.is_finite() {
        true if amount > 0.0 => Ok(amount),
        true => Ok(0.0),
        false => Err(QuotaError::NoFigures),
    }
}

/// A number, or a string that holds one.
pub(crate) fn amount(value: &Value) -> Result<f64, QuotaError> {
    let amount = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    amount
        .filter(|amount| amount.is_finite())
        .ok_or(QuotaError::NoFigures)
}

/// As [`amount`]; `None` where the field is null or missing.
pub(crate) fn optional_amount(value: &Value) -> Result<Option<f64>, QuotaError> {
    match value {
        Value::Null => Ok(None),
        value => amount(value).map(Some),
    }
}

/// The smaller of two limits, of which `None` is no limit.
pub(crate) fn smaller(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// `text` if it is a currency's code in ISO 4217's form, such as `USD`.
pub(crate) fn currency(text: Option<&str>) -> &str {
    let is_code = |text: &&str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
    text.filter(is_code).unwrap_or(ACCOUNT_CURRENCY)
}

/// The currency of a platform with one host in China, which counts in CNY, and one for other countries, which counts in USD.
/// Behind any other host may be either.
pub(crate) fn currency_of_host(authority: &str, china: &str, elsewhere: &str) -> &'static str {
    match authority {
        host if host == china => "CNY",
        host if host == elsewhere => "USD",
        _ => ACCOUNT_CURRENCY,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_numbers_or_strings_that_hold_one() {
        for (value, expect) in [
            (json!(3), 3.0),
            (json!(-0.25), -0.25),
            (json!("110.00"), 110.0),
            (json!(" 5 "), 5.0),
            (json!("-1.5"), -1.5),
        ] {
            assert_eq!(amount(&value), Ok(expect), "{value}");
        }
        for value in [
            json!(null),
            json!(true),
            json!([1]),
            json!({}),
            json!(""),
            json!("1,000.00"),
            json!("$5"),
            json!("NaN"),
            json!("inf"),
            json!("1e999"),
        ] {
            assert_eq!(amount(&value), Err(QuotaError::NoFigures), "{value}");
        }
        assert_eq!(optional_amount(&json!(null)), Ok(None));
        assert_eq!(optional_amount(&json!("x")), Err(QuotaError::NoFigures));
    }

    #[test]
    fn what_is_left_is_never_negative_or_infinite() {
        let figures = QuotaFigures::new(Some(-3.0), Some(-0.0), "credits").unwrap();
        let zero = |amount: Option<f64>| amount.is_some_and(|x| x == 0.0 && x.is_sign_positive());
        assert!(zero(figures.remaining) && zero(figures.limit));
        for amount in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let figures = QuotaFigures::balance(amount, "USD");
            assert_eq!(figures, Err(QuotaError::NoFigures));
        }
    }

    #[test]
    fn a_currency_has_three_capitals() {
        assert_eq!(currency(Some("CNY")), "CNY");
        for text in [None, Some(""), Some("usd"), Some("USDT"), Some("US$")] {
            assert_eq!(currency(text), "account_currency");
        }
    }
}
