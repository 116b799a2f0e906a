//! SiliconFlow: OpenAI's protocol, but errors in a flat form with numbers for codes, or as a bare string.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::openai::{self, OPENAI_COMPATIBLE};
use super::paths;
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse};
use crate::quota::{
    QuotaCall, QuotaError, QuotaFigures, amount, currency_of_host, optional_amount,
};

const HOST_IN_CHINA: &str = "api.siliconflow.cn";
const HOST: &str = "api.siliconflow.com";
/// The code of a response that is not an error.
const OK: f64 = 20_000.0;
/// Meaning of the numeric codes seen so far. An empty balance comes with 402 or 403.
const NAMES: &[(&str, Class)] = &[
    ("30001", Class::Exhausted),
    ("30014", Class::Rejected),
    ("50505", Class::UpstreamTrouble),
    ("50603", Class::UpstreamTrouble),
];

/// api.siliconflow.cn, the platform in China; it offers many makers' models.
pub(crate) static SILICONFLOW: Dialect = Dialect {
    name: "siliconflow",
    env_keys: &["SILICONFLOW_API_KEY"],
    env_base_url: Some("SILICONFLOW_BASE_URL"),
    default_base_url: Some("https://api.siliconflow.cn/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &[HOST_IN_CHINA, HOST],
        path: "/v1",
    }),
    request_id_headers: &["x-siliconcloud-trace-id", "x-request-id"],
    quota: Some(QuotaCall {
        path: |base_path| paths::versioned_path(base_path, "/v1/user/info"),
        refreshed_as: None,
        allowance: None,
        read: read_balance,
    }),
    classify,
    ..OPENAI_COMPATIBLE
};

/// Reads the total balance: what was given and what was paid.
///
/// The endpoint is old. Users report that its figures differ from those of the console, and that it may be withdrawn.
fn read_balance(body: &Value, authority: &str) -> Result<QuotaFigures, QuotaError> {
    if optional_amount(&body["code"])?.is_some_and(|code| code != OK) {
        return Err(QuotaError::ErrorInBody);
    }
    let left = amount(&body["data"]["totalBalance"])?;
    QuotaFigures::balance(left, currency_of_host(authority, HOST_IN_CHINA, HOST))
}

/// Classifies an error response of SiliconFlow.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    let (body, fault) = openai::judge(response, own_class);
    let wait = match fault.class {
        Class::RateLimited => fault.wait.or_else(|| body.unstated_day()),
        _ => fault.wait,
    };
    fault.with_wait(wait)
}

fn own_class(response: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    match response.status {
        403 if body.begins("sorry, your account balance is insufficient") => Some(Class::Exhausted),
        _ => body.named(NAMES),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(authority: &str, body: Value) -> Result<(f64, String), QuotaError> {
        let figures = SILICONFLOW.parse_quota(authority, body.to_string().as_bytes())?;
        assert_eq!(figures.limit, None);
        Ok((figures.remaining.unwrap(), figures.unit.to_string()))
    }

    #[test]
    fn the_balance_is_the_total_in_the_currency_of_its_platform() {
        let body = json!({"code": 20000, "message": "OK", "status": true,
            "data": {"balance": "0.88", "chargeBalance": "88.00", "totalBalance": "88.88", "status": "normal"}});
        for (authority, unit) in [
            ("api.siliconflow.cn", "CNY"),
            ("api.siliconflow.com", "USD"),
            ("127.0.0.1:9000", "account_currency"),
        ] {
            let figures = read(authority, body.clone());
            assert_eq!(figures, Ok((88.88, unit.to_owned())));
        }
    }

    #[test]
    fn a_balance_with_another_code_than_20000_is_an_error() {
        let body = json!({"code": 50000, "message": "no", "data": {"totalBalance": "1"}});
        assert_eq!(read(HOST, body), Err(QuotaError::ErrorInBody));
        for body in [
            json!({"code": 20000}),
            json!({"code": 20000, "data": {"balance": "0.88"}}),
            json!({"code": 20000, "data": {"totalBalance": "--"}}),
        ] {
            let figures = read(HOST, body.clone());
            assert_eq!(figures, Err(QuotaError::NoFigures), "{body}");
        }
    }
}
