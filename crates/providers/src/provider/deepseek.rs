//! DeepSeek: OpenAI's form, with statuses that say more than its codes do.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::openai::{self, OPENAI_COMPATIBLE};
use super::paths;
use crate::dialect::Dialect;
use crate::errors::{ErrorBody, ErrorResponse};
use crate::quota::{QuotaCall, QuotaError, QuotaFigures, amount, currency};

/// api.deepseek.com.
pub(crate) static DEEPSEEK: Dialect = Dialect {
    name: "deepseek",
    env_keys: &["DEEPSEEK_API_KEY"],
    env_base_url: Some("DEEPSEEK_BASE_URL"),
    default_base_url: Some("https://api.deepseek.com/v1"),
    default_models: &["deepseek-*"],
    request_id_headers: &["x-ds-trace-id", "x-request-id"],
    quota: Some(QuotaCall {
        path: balance_path,
        refreshed_as: None,
        allowance: None,
        read: read_balance,
    }),
    classify,
    ..OPENAI_COMPATIBLE
};

/// The balance is at the root: beside `/v1`, which other calls may have or not, and `/beta`.
fn balance_path(base_path: &str) -> String {
    let root = base_path
        .strip_suffix("/beta")
        .unwrap_or_else(|| paths::without_version(base_path));
    [root, "/user/balance"].concat()
}

/// Reads the balance, of which there is one for each currency. Most accounts have one; of several, the largest number counts,
/// since the response has no exchange rate. An account that is not available has nothing left, whatever its balance.
fn read_balance(body: &Value, _authority: &str) -> Result<QuotaFigures, QuotaError> {
    let is_unavailable = body["is_available"] == false;
    let mut largest: Option<(f64, &str)> = None;
    for balance in body["balance_infos"].as_array().into_iter().flatten() {
        let total = amount(&balance["total_balance"])?;
        if largest.is_none_or(|(most, _)| total > most) {
            largest = Some((total, currency(balance["currency"].as_str())));
        }
    }
    match largest {
        Some((_, unit)) if is_unavailable => QuotaFigures::balance(0.0, unit),
        Some((total, unit)) => QuotaFigures::balance(total, unit),
        None if is_unavailable => QuotaFigures::balance(0.0, currency(None)),
        None => Err(QuotaError::NoFigures),
    }
}

/// Classifies an error response of DeepSeek.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    openai::judge(response, own_class).1
}

fn own_class(_refusal: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    is_unpaid(body).then_some(Class::Exhausted)
}

/// Under load, blank lines before the body come with a 200, so an empty balance cannot be recognised by its status. The
/// whole message must match: a longer one may quote the caller.
fn is_unpaid(body: &ErrorBody) -> bool {
    let message = body.message.trim();
    message.eq_ignore_ascii_case("insufficient balance")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<(f64, String), QuotaError> {
        let figures = DEEPSEEK.parse_quota("api.deepseek.com", body.to_string().as_bytes())?;
        assert_eq!(figures.limit, None);
        Ok((figures.remaining.unwrap(), figures.unit.to_string()))
    }

    fn balance(currency: &str, total: &str) -> Value {
        json!({"currency": currency, "total_balance": total, "granted_balance": "10.00", "topped_up_balance": "100.00"})
    }

    #[test]
    fn the_balance_has_its_currency() {
        let body = json!({"is_available": true, "balance_infos": [balance("CNY", "110.00")]});
        assert_eq!(read(body), Ok((110.0, "CNY".to_owned())));
        let two = [balance("CNY", "0.00"), balance("USD", "4.50")];
        let body = json!({"is_available": true, "balance_infos": two});
        assert_eq!(read(body), Ok((4.5, "USD".to_owned())));
        let body = json!({"is_available": true, "balance_infos": [balance("CNY", "-3")]});
        assert_eq!(read(body), Ok((0.0, "CNY".to_owned())));
    }

    #[test]
    fn an_account_that_is_not_available_has_nothing_left() {
        let body = json!({"is_available": false, "balance_infos": [balance("USD", "0.02")]});
        assert_eq!(read(body), Ok((0.0, "USD".to_owned())));
        let body = json!({"is_available": false, "balance_infos": []});
        assert_eq!(read(body), Ok((0.0, "account_currency".to_owned())));
    }

    #[test]
    fn a_balance_without_figures_is_no_quota() {
        for body in [
            json!({}),
            json!("x"),
            json!({"is_available": true}),
            json!({"is_available": true, "balance_infos": {}}),
            json!({"balance_infos": [{"currency": "USD"}]}),
            json!({"balance_infos": [balance("USD", "1.0"), balance("CNY", "much")]}),
        ] {
            assert_eq!(read(body.clone()), Err(QuotaError::NoFigures), "{body}");
        }
    }

    #[test]
    fn the_balance_is_at_the_root_whatever_the_base() {
        for base in ["", "/v1", "/beta"] {
            assert_eq!(balance_path(base), "/user/balance", "{base}");
        }
        assert_eq!(balance_path("/proxy/v1"), "/proxy/user/balance");
    }
}
