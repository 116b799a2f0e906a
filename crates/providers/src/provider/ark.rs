//! Volcengine Ark (Doubao) and BytePlus ModelArk: OpenAI-like calls, with error codes of their own.
//!
//! Must never know what a request asks for, only what responses and addresses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::OPENAI_COMPATIBLE;
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, fault};
use crate::usage::ImageRule;

/// Meaning of codes by prefix, since suffixes vary. The first match decides.
const CODES: &[(&str, Class)] = &[
    ("MissingParameter", Class::CallerFault),
    ("InvalidParameter", Class::CallerFault),
    ("InvalidImageURL", Class::CallerFault),
    ("InvalidEndpoint.ClosedEndpoint", Class::Forbidden),
    ("InvalidEndpointOrModel", Class::Forbidden),
    ("ModelNotOpen", Class::Forbidden),
    ("UnsupportedModel", Class::Forbidden),
    ("AuthenticationError", Class::Rejected),
    ("InvalidAccountStatus", Class::Rejected),
    ("AccountOverdueError", Class::Exhausted),
    ("OperationDenied.ServiceOverdue", Class::Exhausted),
    ("OperationDenied", Class::Forbidden),
    ("AccessDenied", Class::Forbidden),
    ("SetLimitExceeded", Class::Exhausted),
    ("AccountQuotaExceeded", Class::Exhausted),
    ("RateLimitExceeded", Class::RateLimited),
    ("ModelAccountRpmRateLimitExceeded", Class::RateLimited),
    ("ModelAccountTpmRateLimitExceeded", Class::RateLimited),
    ("ModelAccountIpmRateLimitExceeded", Class::RateLimited),
    ("APIAccountRpmRateLimitExceeded", Class::RateLimited),
    ("AccountRateLimitExceeded", Class::RateLimited),
    ("InflightBatchsizeExceeded", Class::RateLimited),
    ("ServerOverloaded", Class::UpstreamTrouble),
    ("RequestBurstTooFast", Class::UpstreamTrouble),
    ("InternalServiceError", Class::UpstreamTrouble),
];

/// ark.cn-beijing.volces.com and its sisters.
pub(crate) static ARK: Dialect = Dialect {
    name: "ark",
    env_keys: &["ARK_API_KEY"],
    env_base_url: Some("ARK_BASE_URL"),
    default_base_url: Some("https://ark.cn-beijing.volces.com/api/v3"),
    openai_base: Some(OpenAiBase {
        hosts: &["ark.*.volces.com", "ark.*.bytepluses.com"],
        path: "/api/v3",
    }),
    default_models: &[
        "doubao-*",
        "seed-*",
        "seedream-*",
        "seedance-*",
        "skylark-*",
        "ep-*",
        "bot-*",
    ],
    default_max_concurrent: Some(3),
    account_headers: &["openai-organization", "openai-project", "x-project-name"],
    image_rule: ImageRule::Ark,
    classify,
    ..OPENAI_COMPATIBLE
};

/// Classifies an error response in Ark's form.
pub(crate) fn classify(response: &ErrorResponse<'_>) -> Fault {
    let body = ErrorBody::read(response.body);
    fault(response, &body, || own_class(&body))
}

fn own_class(body: &ErrorBody) -> Option<Class> {
    let code = body.code.as_deref().unwrap_or_default();
    if code.starts_with("QuotaExceeded") || body.kind.as_deref() == Some("TooManyRequests") {
        let by_code = class_of_code(code);
        return by_code.or_else(|| Some(class_of_quota(body)));
    }
    class_of_code(code)
}

fn class_of_code(code: &str) -> Option<Class> {
    let found = CODES.iter().find(|(start, _)| code.starts_with(start));
    found.map(|(_, class)| *class)
}

/// Ark uses one name for three things: a spent trial, a spent subscription window, and a queue that is full right now.
fn class_of_quota(body: &ErrorBody) -> Class {
    let subscription = ["5-hour", "weekly", "monthly"]
        .iter()
        .any(|window| body.says(window))
        && body.says("usage quota");
    match subscription || body.says("free trial quota") {
        true => Class::Exhausted,
        false => Class::RateLimited,
    }
}
