//! The meaning of codes, types and status names, for every provider that has no rule of its own for them.
//!
//! Names are read word by word, so `insufficient_user_quota`, `InsufficientQuota` and `quota-insufficient` are alike. A
//! caller cannot choose them.

use keypool_core::fault::{Class, Scope};

use super::error_body::{ErrorBody, class_in};

/// What a code, a type or words mean.
pub(super) type Meaning = (Class, Scope);

/// A meaning that covers the whole model, or that has no scope.
pub(super) fn means(class: Class) -> Option<Meaning> {
    Some((class, Scope::Model))
}

/// Names whose words do not say what they mean.
const NAMES: &[(&str, Class)] = &[
    ("organization_usage_limit_exceeded", Class::Exhausted),
    ("slow_down", Class::UpstreamTrouble),
    ("server_is_overloaded", Class::UpstreamTrouble),
    ("service_unavailable_error", Class::UpstreamTrouble),
    ("server_error", Class::UpstreamTrouble),
    ("overloaded_error", Class::UpstreamTrouble),
    ("rate_limit_exceeded", Class::RateLimited),
    ("rate_limit_error", Class::RateLimited),
];

/// Words about money.
const MONEY: &[&str] = &[
    "credit",
    "credits",
    "balance",
    "billing",
    "payment",
    "arrears",
    "arrearage",
    "overdue",
    "funds",
    "prepaid",
];
/// Words about what an account may use.
const RIGHTS: &[&str] = &[
    "permission",
    "permissions",
    "country",
    "region",
    "territory",
    "subscription",
    "entitlement",
    "plan",
];
/// Words about a credential that is not valid.
const BAD: &[&str] = &[
    "invalid",
    "incorrect",
    "missing",
    "expired",
    "revoked",
    "disabled",
    "deleted",
    "deactivated",
    "unknown",
    "bad",
    "wrong",
    "malformed",
    "leaked",
    "suspended",
    "inactive",
    "blocked",
    "found",
];
/// Words about an account that is closed as a whole.
const CLOSED: &[&str] = &[
    "disabled",
    "suspended",
    "deactivated",
    "banned",
    "terminated",
    "restricted",
    "closed",
    "deleted",
    "hold",
    "blocked",
];
/// Who can be closed.
const HOLDERS: &[&str] = &[
    "account",
    "organization",
    "organisation",
    "org",
    "workspace",
    "project",
    "user",
    "consumer",
];

/// The meaning of a name that decides whatever the message says.
pub(super) fn decisive(status: u16, body: &ErrorBody) -> Option<Meaning> {
    let code = body.code.as_deref().unwrap_or_default();
    let names_request = is_about_model(code) || is_about_request(400, code);
    let mut found = body.names().filter_map(|name| decisive_name(status, name));
    // The type beside a code that names the request is often a general one.
    found.find(|(class, _)| !names_request || *class == Class::Exhausted)
}

/// The meaning of a name that decides unless the message says more.
pub(super) fn general(status: u16, body: &ErrorBody) -> Option<Meaning> {
    body.names().find_map(|name| general_name(status, name))
}

/// Whether a name says that money or credit is missing.
pub(super) fn is_money(name: &str) -> bool {
    let words = Words::of(name);
    let has_quota = words.has(&["quota"])
        && words.has(&["insufficient", "exhausted", "consume", "user", "hard"]);
    words.has(MONEY) || has_quota || (words.has(&["spend"]) && words.has(&["limit"]))
}

fn decisive_name(status: u16, name: &str) -> Option<Meaning> {
    let words = Words::of(name);
    let is_refusal = matches!(status, 401..=403);
    if let Some(class) = class_in(NAMES, name) {
        return means(class);
    }
    // `quota_exceeded` under a 429 may be about a minute.
    if is_money(name) || (is_refusal && words.has(&["quota"])) {
        return means(Class::Exhausted);
    }
    if words.has(&["scope", "scopes"]) && status < 500 {
        return Some((Class::Forbidden, Scope::Endpoint));
    }
    if words.has(RIGHTS) || (words.has(&["ip"]) && is_refusal) {
        return means(Class::Forbidden);
    }
    let is_key = words.has(&["apikey"]) || (words.has(&["key"]) && words.has(&["api", "auth"]));
    let is_token =
        words.has(&["key", "token", "credential", "credentials"]) && matches!(status, 401 | 403);
    if ((is_key || is_token) && words.has(BAD)) || (words.has(HOLDERS) && words.has(CLOSED)) {
        return means(Class::Rejected);
    }
    None
}

fn general_name(status: u16, name: &str) -> Option<Meaning> {
    let words = Words::of(name);
    // `Unauthorized` says no more than the status does.
    if words.has(&["authentication", "unauthenticated"]) {
        return means(Class::Rejected);
    }
    if is_about_model(name) || is_about_request(status, name) {
        return means(Class::CallerFault);
    }
    (words.has(&["access"]) && words.has(&["denied"])).then_some((Class::Forbidden, Scope::Model))
}

/// `model_not_found`, `unsupported_model`, `ModelNotExist`.
fn is_about_model(name: &str) -> bool {
    let words = Words::of(name);
    words.has(&["model"])
        && words.has(&[
            "found",
            "exist",
            "exists",
            "invalid",
            "unsupported",
            "supported",
            "unknown",
        ])
}

/// Whether a name is about what the request says, or about an object that it names.
fn is_about_request(status: u16, name: &str) -> bool {
    let words = Words::of(name);
    let is_too_long = words.has(&["context", "string", "prompt", "input", "tokens"])
        && words.has(&["length", "long", "exceeded"]);
    let is_value = words.has(&[
        "parameter",
        "value",
        "json",
        "schema",
        "image",
        "file",
        "url",
        "role",
        "base64",
    ]) && words.has(&[
        "invalid",
        "missing",
        "unknown",
        "unsupported",
        "required",
        "empty",
        "large",
    ]);
    let is_missing = words.has(&["found"]) && words.has(&["not"]) && matches!(status, 400 | 404);
    let is_state = words.has(&["conflict"]) || (words.has(&["too"]) && words.has(&["large"]));
    // Some gateways report the provider's refusal of a request as trouble of their own.
    let is_refusal = (400..500).contains(&status) && !matches!(status, 401 | 429);
    (is_refusal && (is_missing || is_state))
        || ((is_refusal || status >= 500) && (is_too_long || is_value))
}

/// The words of a name in lower case: `CreditsError`, `insufficient_user_quota`, `OperationDenied.ServiceOverdue`.
struct Words(Vec<String>);

impl Words {
    /// Longer names are free text.
    const LONGEST: usize = 80;

    fn of(name: &str) -> Self {
        let mut words = vec![String::new()];
        let mut was_lower = false;
        let is_name = name.len() <= Self::LONGEST && !name.contains(char::is_whitespace);
        for c in name.chars().filter(|_| is_name) {
            let starts_word = !c.is_ascii_alphanumeric() || (was_lower && c.is_ascii_uppercase());
            if starts_word {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut().filter(|_| c.is_ascii_alphanumeric()) {
                word.push(c.to_ascii_lowercase());
            }
            was_lower = c.is_ascii_lowercase();
        }
        Self(words)
    }

    fn has(&self, words: &[&str]) -> bool {
        self.0.iter().any(|word| words.contains(&word.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, code: &str, kind: &str) -> Option<Meaning> {
        let body = serde_json::json!({"error": {"code": code, "type": kind}});
        let body = ErrorBody::read(body.to_string().as_bytes());
        decisive(status, &body).or_else(|| general(status, &body))
    }

    #[test]
    fn money_decides_before_the_status() {
        for name in [
            "CreditsError",
            "insufficient_user_quota",
            "insufficient_credits",
            "insufficient_quota",
            "credit_balance_exhausted",
            "billing_not_active",
            "billing_hard_limit_reached",
            "account_balance_too_low",
            "project_spend_limit_exceeded",
            "pre_consume_token_quota_failed",
            "payment_required",
            "Arrearage",
        ] {
            for status in [400, 401, 402, 403, 429, 500] {
                assert_eq!(
                    meaning(status, name, "x"),
                    means(Class::Exhausted),
                    "{status} {name}"
                );
                assert_eq!(
                    meaning(status, "", name),
                    means(Class::Exhausted),
                    "{status} {name}"
                );
            }
        }
        assert_eq!(meaning(403, "quota_exceeded", ""), means(Class::Exhausted));
        assert_eq!(meaning(429, "quota_exceeded", ""), None);
        assert_eq!(meaning(503, "load_balancer_error", ""), None);
    }

    #[test]
    fn a_missing_permission_is_not_a_bad_key() {
        let of_endpoint = Some((Class::Forbidden, Scope::Endpoint));
        for (status, code, expect) in [
            (401, "missing_scope", of_endpoint),
            (403, "insufficient_scope", of_endpoint),
            (401, "insufficient_permissions", means(Class::Forbidden)),
            (
                403,
                "unsupported_country_region_territory",
                means(Class::Forbidden),
            ),
            (401, "ip_not_authorized", means(Class::Forbidden)),
            (403, "subscription_required", means(Class::Forbidden)),
            (403, "PERMISSION_DENIED", means(Class::Forbidden)),
            (403, "access_denied", means(Class::Forbidden)),
        ] {
            assert_eq!(
                meaning(status, code, "invalid_request_error"),
                expect,
                "{code}"
            );
        }
    }

    #[test]
    fn names_of_a_bad_credential_or_account() {
        for (status, name) in [
            (400, "invalid_api_key"),
            (401, "incorrect_api_key_error"),
            (403, "api_key_disabled"),
            (401, "APIKeyExpired"),
            (401, "token_revoked"),
            (401, "invalid_authentication_error"),
            (401, "UNAUTHENTICATED"),
            (401, "account_deactivated"),
            (400, "organization_disabled"),
            (403, "user_suspended"),
        ] {
            assert_eq!(meaning(status, name, ""), means(Class::Rejected), "{name}");
        }
        for (status, name) in [
            (400, "invalid_token"),
            (401, "unauthorized"),
            (403, "forbidden"),
        ] {
            assert_eq!(meaning(status, name, ""), None, "{name}");
        }
    }

    #[test]
    fn a_name_of_the_request_decides_before_the_status_and_the_type() {
        for (status, code) in [
            (503, "model_not_found"),
            (404, "model_not_found"),
            (403, "unsupported_model"),
            (500, "ModelNotExist"),
            (400, "context_length_exceeded"),
            (400, "invalid_value"),
            (400, "missing_required_parameter"),
            (404, "previous_response_not_found"),
            (413, "request_too_large"),
        ] {
            assert_eq!(
                meaning(status, code, "server_error"),
                means(Class::CallerFault),
                "{code}"
            );
        }
        assert_eq!(
            meaning(404, "", "not_found_error"),
            means(Class::CallerFault)
        );
        assert_eq!(meaning(400, "", "invalid_request_error"), None);
        assert_eq!(meaning(503, "", "not_found_error"), None);
    }
}
