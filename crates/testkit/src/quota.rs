//! What a key has left, as plain data.
//!
//! This module must never know a provider.

use serde::Deserialize;
use serde_json::{Value, json};

/// The balance of a key without limit, where a provider has nothing but balances.
const UNLIMITED_BALANCE: f64 = 1_000_000.0;

/// What a key has left, as every quota endpoint reports it. No call changes it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Credits, or an amount of money; `None`: unlimited.
    pub remaining: Option<f64>,
    /// What there was at first. Balances have none.
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

    /// The balance as JSON.
    pub(crate) fn balance(self) -> Value {
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
