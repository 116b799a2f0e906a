//! Tavily: a search API. It has no models, and only research is streamed.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use std::time::Duration;

use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use super::paths;
use crate::dialect::Dialect;
use crate::errors::{ErrorBody, ErrorResponse, decide, retry_after};
use crate::protocol::Protocol;
use crate::quota::{
    Allowance, QuotaCall, QuotaError, QuotaFigures, amount, optional_amount, smaller,
};
use crate::usage::ImageRule;

/// api.tavily.com.
pub(crate) static TAVILY: Dialect = Dialect {
    name: "tavily",
    env_keys: &["TAVILY_API_KEY"],
    env_base_url: Some("TAVILY_BASE_URL"),
    default_base_url: Some("https://api.tavily.com"),
    openai_base: None,
    default_models: &[],
    default_max_concurrent: None,
    protocols: &[Protocol::Tavily],
    openai_root: None,
    // The access mode asks for service without a key, which contradicts a pool's key.
    account_headers: &["x-tavily-access-mode", "x-tavily-orgid", "x-project-id"],
    needs_include_usage: false,
    image_rule: ImageRule::OpenAi,
    request_id_headers: &["x-request-id"],
    list_models: None,
    quota: Some(QUOTA),
    upstream_path: |_, base_path, path| paths::kept_path(base_path, path),
    credential: |_, secret| paths::bearer(secret),
    is_private_header: |name| name == "x-project-id" || paths::is_private_everywhere(name),
    classify,
};

/// `GET /usage`, for which Tavily documents a rate limit of its own: 10 calls of a key in 10 minutes.
pub(crate) const QUOTA: QuotaCall = QuotaCall {
    path: |base_path| paths::kept_path(base_path, "/usage"),
    refreshed_as: Some("tavily-keys"),
    allowance: Some(Allowance {
        calls: 10,
        per: Duration::from_secs(10 * 60),
    }),
    read: read_quota,
};

/// Reads the credits of the current billing cycle. A key has no more than its own limit leaves it, and no more than its
/// account has. A limit that is null sets no limit.
fn read_quota(body: &Value, _authority: &str) -> Result<QuotaFigures, QuotaError> {
    let (key, account) = (&body["key"], &body["account"]);
    if key.get("limit").is_none() && account.get("plan_limit").is_none() {
        return Err(QuotaError::NoFigures);
    }
    let left = smaller(
        left_below(key, "limit", "usage")?,
        left_in_account(account)?,
    );
    let limit = match optional_amount(&account["plan_limit"])? {
        None => optional_amount(&key["limit"])?,
        limit => limit,
    };
    QuotaFigures::new(left, limit, "credits")
}

/// The plan's credits, then pay-as-you-go's. An account without pay-as-you-go has null for its limit; credits used of it
/// show that it has pay-as-you-go without a limit.
fn left_in_account(account: &Value) -> Result<Option<f64>, QuotaError> {
    let Some(plan) = left_below(account, "plan_limit", "plan_usage")? else {
        return Ok(None);
    };
    Ok(match left_below(account, "paygo_limit", "paygo_usage")? {
        Some(paygo) => Some(plan + paygo),
        None => match optional_amount(&account["paygo_usage"])? {
            Some(used) if used > 0.0 => None,
            _ => Some(plan),
        },
    })
}

/// What `usage` leaves of `limit`: at least 0. `None` if the limit is null.
fn left_below(counts: &Value, limit: &str, usage: &str) -> Result<Option<f64>, QuotaError> {
    optional_amount(&counts[limit])?
        .map(|limit| Ok((limit - amount(&counts[usage])?).max(0.0)))
        .transpose()
}

/// Classifies an error response in Tavily's form, which has no codes.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    let fault = decide(response.status, &body, || match response.status {
        // A URL that is not supported or a feature outside the plan, never a bad key.
        403 => Some(Class::CallerFault),
        432 | 433 => Some(Class::Exhausted),
        _ => None,
    });
    let class = fault.class;
    let in_body = || {
        let seconds = &body.error["retry_after_seconds"];
        (class == Class::RateLimited)
            .then(|| retry_after::parse_wait(&seconds.to_string(), response.now))
            .flatten()
    };
    let wait = body.stated_wait(class, response).or_else(in_body);
    fault.with_wait(wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is left and the limit.
    fn read(key: Value, account: Value) -> Result<(Option<f64>, Option<f64>), QuotaError> {
        let body = json!({"key": key, "account": account}).to_string();
        let figures = TAVILY.parse_quota("api.tavily.com", body.as_bytes())?;
        assert_eq!(&*figures.unit, "credits");
        Ok((figures.remaining, figures.limit))
    }

    #[test]
    fn a_key_has_what_its_own_limit_and_its_account_both_leave() {
        let account = json!({"current_plan": "Bootstrap", "plan_usage": 500, "plan_limit": 15000,
            "paygo_usage": 25, "paygo_limit": 100});
        let key = |limit: Value| json!({"usage": 150, "limit": limit, "search_usage": 100});
        let limit = Some(15_000.0);
        let whole = (Some(14_575.0), limit);
        assert_eq!(
            read(key(json!(1000)), account.clone()),
            Ok((Some(850.0), limit))
        );
        assert_eq!(read(key(json!(null)), account.clone()), Ok(whole));
        assert_eq!(read(key(json!(100)), account), Ok((Some(0.0), limit)));
    }

    #[test]
    fn an_account_without_pay_as_you_go_ends_with_its_plan() {
        let key = json!({"usage": 1000, "limit": null});
        let account = |plan_usage: u32, paygo_usage: u32, paygo_limit: Value| json!({"plan_usage": plan_usage, "plan_limit": 1000, "paygo_usage": paygo_usage, "paygo_limit": paygo_limit});
        let left = |account| read(key.clone(), account).unwrap().0;
        assert_eq!(left(account(976, 0, json!(null))), Some(24.0));
        assert_eq!(left(account(1000, 0, json!(null))), Some(0.0));
        assert_eq!(left(account(1000, 0, json!(0))), Some(0.0));
        // The plan's usage may be counted on beyond its limit.
        assert_eq!(left(account(1010, 10, json!(100))), Some(90.0));
        assert_eq!(left(account(1000, 7, json!(null))), None);
    }

    #[test]
    fn limits_that_are_null_set_none() {
        let (key, account) = (
            json!({"usage": 9, "limit": null}),
            json!({"plan_usage": 9, "plan_limit": null}),
        );
        assert_eq!(read(key.clone(), account.clone()), Ok((None, None)));
        let limited = json!({"usage": 2, "limit": 10});
        let of_key = Ok((Some(8.0), Some(10.0)));
        assert_eq!(read(limited.clone(), account), of_key);
        assert_eq!(read(limited, json!({})), of_key);
    }

    #[test]
    fn a_usage_without_figures_is_no_quota() {
        for (key, account) in [
            (json!({}), json!({})),
            (json!(null), json!([1])),
            (json!({"usage": 1}), json!({"plan_usage": 1})),
            (json!({"limit": 10}), json!({})),
            (json!({"limit": "many", "usage": 1}), json!({})),
            (
                json!({"limit": null}),
                json!({"plan_limit": 5, "plan_usage": null}),
            ),
        ] {
            let figures = read(key.clone(), account.clone());
            assert_eq!(figures, Err(QuotaError::NoFigures), "{key} {account}");
        }
    }
}
