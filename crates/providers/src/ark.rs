//! Volcengine Ark (Doubao) and BytePlus ModelArk: OpenAI-like calls, with error codes of their own.
//!
//! This module must never know what a request asks for: only how answers and addresses look.

use keypool_core::fault::{Class, Fault};

use crate::answer::{Answer, class_of_status};
use crate::compatible::Compatible;
use crate::dialect::Refusal;
use crate::openai::OPENAI_COMPATIBLE;

/// What codes mean, by their beginning: suffixes vary. The first that fits decides.
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
pub(crate) static ARK: Compatible = Compatible {
    name: "ark",
    env_keys: &["ARK_API_KEY"],
    env_base_url: Some("ARK_BASE_URL"),
    base_url: Some("https://ark.cn-beijing.volces.com/api/v3"),
    models: &[
        "doubao-*",
        "seed-*",
        "seedream-*",
        "seedance-*",
        "skylark-*",
        "ep-*",
        "bot-*",
    ],
    max_concurrent: Some(3),
    classify,
    ..OPENAI_COMPATIBLE
};

/// What an answer in Ark's form means.
pub(crate) fn classify(refusal: &Refusal<'_>) -> Fault {
    let answer = Answer::read(refusal.body);
    answer.fault(class_of(refusal.status, &answer), refusal)
}

fn class_of(status: u16, answer: &Answer) -> Class {
    if status < 400 {
        return Class::Success;
    }
    if answer.is_content_filter() {
        return Class::CallerFault;
    }
    let code = answer.code.as_deref().unwrap_or_default();
    if code.starts_with("QuotaExceeded") {
        return class_of_quota(answer);
    }
    let by_code = CODES
        .iter()
        .find(|(start, _)| code.starts_with(start))
        .map(|(_, class)| *class);
    by_code
        .or_else(|| class_of_type(answer))
        .unwrap_or_else(|| class_of_status(status))
}

/// One name for three things: a spent trial, a spent subscription window, a queue that is full for the moment.
fn class_of_quota(answer: &Answer) -> Class {
    let subscription = ["5-hour", "weekly", "monthly"]
        .iter()
        .any(|window| answer.says(window))
        && answer.says("usage quota");
    match subscription || answer.says("free trial quota") {
        true => Class::Exhausted,
        false => Class::RateLimited,
    }
}

/// The class of a type, for codes that are not in the table. `BadRequest` and `NotFound` leave it to the status.
fn class_of_type(answer: &Answer) -> Option<Class> {
    match answer.kind.as_deref()? {
        "Unauthorized" => Some(Class::Rejected),
        "Forbidden" => Some(Class::Forbidden),
        "TooManyRequests" => Some(class_of_quota(answer)),
        _ => None,
    }
}
