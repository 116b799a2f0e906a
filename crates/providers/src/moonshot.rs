//! Moonshot (Kimi): OpenAI's form without codes; the type decides, since three kinds of refusal are 429.
//!
//! This module must never know what a request asks for: only how answers look.

use keypool_core::fault::{Class, Fault};

use crate::answer::Answer;
use crate::compatible::Compatible;
use crate::dialect::Refusal;
use crate::{openai, wait};

/// What its types mean, whatever the status.
const NAMES: &[(&str, Class)] = &[
    ("invalid_authentication_error", Class::Rejected),
    ("incorrect_api_key_error", Class::Rejected),
    ("permission_denied_error", Class::Forbidden),
    ("exceeded_current_quota_error", Class::Exhausted),
    ("rate_limit_reached_error", Class::RateLimited),
    ("engine_overloaded_error", Class::UpstreamTrouble),
];

/// api.moonshot.ai, the platform outside China.
pub(crate) static MOONSHOT: Compatible = Compatible {
    name: "moonshot",
    env_keys: &["MOONSHOT_API_KEY"],
    env_base_url: Some("MOONSHOT_BASE_URL"),
    base_url: Some("https://api.moonshot.ai/v1"),
    models: &["moonshot-*", "kimi-*"],
    private_headers: &["msh-org-id", "msh-project-id", "msh-uid", "msh-gid"],
    request_id_headers: &["msh-request-id", "x-request-id", "x-msh-trace-id"],
    max_concurrent: None,
    classify,
};

/// What an answer of Moonshot's means.
fn classify(refusal: &Refusal<'_>) -> Fault {
    let (answer, fault) = openai::judge(refusal, own_class);
    let wait = match fault.class {
        Class::RateLimited => fault
            .wait
            .or_else(|| answer.unstated_day())
            // Said to exist, and to speak of requests.
            .or_else(|| wait::reset_header(refusal.headers, refusal.now)),
        _ => fault.wait,
    };
    fault.with_wait(wait)
}

fn own_class(refusal: &Refusal<'_>, answer: &Answer) -> Option<Class> {
    match refusal.status {
        403 | 429 if is_unpaid(answer) => Some(Class::Exhausted),
        _ => answer.named(NAMES),
    }
}

/// An account that may not go on: suspended for want of money, or at the end of what its plan holds.
fn is_unpaid(answer: &Answer) -> bool {
    answer.begins("insufficient balance")
        || answer.begins("you've reached your usage limit")
        || (answer.begins("your account") && answer.says("insufficient balance"))
}
