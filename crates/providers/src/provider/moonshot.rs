//! Moonshot (Kimi): OpenAI's form without codes. The type decides, since three kinds of error have status 429.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::openai::{self, OPENAI_COMPATIBLE};
use super::paths;
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, retry_after};
use crate::quota::{
    QuotaCall, QuotaError, QuotaFigures, amount, currency_of_host, optional_amount,
};

const HOST: &str = "api.moonshot.ai";
const HOST_IN_CHINA: &str = "api.moonshot.cn";
/// Response headers that name the account.
const ACCOUNT_HEADERS: &[&str] = &["msh-org-id", "msh-project-id", "msh-uid", "msh-gid"];
/// Meaning of its types, whatever the status.
const NAMES: &[(&str, Class)] = &[
    ("exceeded_current_quota_error", Class::Exhausted),
    ("rate_limit_reached_error", Class::RateLimited),
    ("engine_overloaded_error", Class::UpstreamTrouble),
];

/// api.moonshot.ai, the platform outside China.
pub(crate) static MOONSHOT: Dialect = Dialect {
    name: "moonshot",
    env_keys: &["MOONSHOT_API_KEY"],
    env_base_url: Some("MOONSHOT_BASE_URL"),
    default_base_url: Some("https://api.moonshot.ai/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &[HOST, HOST_IN_CHINA],
        path: "/v1",
    }),
    default_models: &["moonshot-*", "kimi-*"],
    // In the choice of the last chunk.
    needs_include_usage: false,
    request_id_headers: &["msh-request-id", "x-request-id", "x-msh-trace-id"],
    is_private_header: |name| ACCOUNT_HEADERS.contains(&name) || paths::is_private_everywhere(name),
    quota: Some(QuotaCall {
        path: |base_path| paths::versioned_path(base_path, "/v1/users/me/balance"),
        refreshed_as: None,
        allowance: None,
        read: read_balance,
    }),
    classify,
    ..OPENAI_COMPATIBLE
};

/// Reads the balance that calls are paid from, vouchers included. Each of the two platforms has its currency.
fn read_balance(body: &Value, authority: &str) -> Result<QuotaFigures, QuotaError> {
    if optional_amount(&body["code"])?.is_some_and(|code| code != 0.0) {
        return Err(QuotaError::ErrorInBody);
    }
    let left = amount(&body["data"]["available_balance"])?;
    QuotaFigures::balance(left, currency_of_host(authority, HOST_IN_CHINA, HOST))
}

/// Classifies an error response of Moonshot.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    let (body, fault) = openai::judge(response, own_class);
    let wait = match fault.class {
        Class::RateLimited => fault
            .wait
            .or_else(|| body.unstated_day())
            // Documented elsewhere, and said to be about requests.
            .or_else(|| retry_after::reset_header(response.headers, response.now)),
        _ => fault.wait,
    };
    fault.with_wait(wait)
}

fn own_class(response: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    match response.status {
        403 | 429 if is_unpaid(body) => Some(Class::Exhausted),
        _ => body.named(NAMES),
    }
}

/// Whether the account is suspended for lack of money, or its plan is used up.
fn is_unpaid(body: &ErrorBody) -> bool {
    body.begins("insufficient balance")
        || body.begins("you've reached your usage limit")
        || (body.begins("your account") && body.says("insufficient balance"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(authority: &str, body: Value) -> Result<(f64, String), QuotaError> {
        let figures = MOONSHOT.parse_quota(authority, body.to_string().as_bytes())?;
        assert_eq!(figures.limit, None);
        Ok((figures.remaining.unwrap(), figures.unit.to_string()))
    }

    #[test]
    fn the_balance_is_in_the_currency_of_its_platform() {
        let body = json!({"code": 0, "scode": "0x0", "status": true,
            "data": {"available_balance": 49.58, "voucher_balance": 46.58, "cash_balance": 3.0}});
        for (authority, unit) in [
            ("api.moonshot.ai", "USD"),
            ("api.moonshot.cn", "CNY"),
            ("proxy.example:8443", "account_currency"),
        ] {
            let figures = read(authority, body.clone());
            assert_eq!(figures, Ok((49.58, unit.to_owned())));
        }
        let debts = json!({"code": 0, "data": {"available_balance": -2.5, "cash_balance": -2.5}});
        assert_eq!(read(HOST, debts), Ok((0.0, "USD".to_owned())));
    }

    #[test]
    fn a_balance_with_another_code_than_0_is_an_error() {
        let body = json!({"code": 5, "scode": "0x5", "status": false, "data": null});
        assert_eq!(read(HOST, body), Err(QuotaError::ErrorInBody));
        let body = json!({"error": {"type": "server_error", "message": "no"}});
        assert_eq!(read(HOST, body), Err(QuotaError::ErrorInBody));
        for body in [
            json!({"code": 0}),
            json!({"code": 0, "data": [49.58]}),
            json!({"code": 0, "data": {"available_balance": null}}),
            json!({"code": {}, "data": {"available_balance": 1}}),
        ] {
            let figures = read(HOST, body.clone());
            assert_eq!(figures, Err(QuotaError::NoFigures), "{body}");
        }
    }
}
