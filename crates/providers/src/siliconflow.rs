//! SiliconFlow: OpenAI's protocol, but errors in a flat form with numbers for codes, or as a bare string.
//!
//! This module must never know what a request asks for: only how answers look.

use keypool_core::fault::{Class, Fault};

use crate::answer::Answer;
use crate::compatible::Compatible;
use crate::dialect::Refusal;
use crate::openai::{self, OPENAI_COMPATIBLE};

/// What the numbers seen so far mean. An empty balance comes with 402 or 403.
const NAMES: &[(&str, Class)] = &[
    ("30001", Class::Exhausted),
    ("30014", Class::Rejected),
    ("50505", Class::UpstreamTrouble),
    ("50603", Class::UpstreamTrouble),
];

/// api.siliconflow.cn, the platform in China; it offers many makers' models.
pub(crate) static SILICONFLOW: Compatible = Compatible {
    name: "siliconflow",
    env_keys: &["SILICONFLOW_API_KEY"],
    env_base_url: Some("SILICONFLOW_BASE_URL"),
    base_url: Some("https://api.siliconflow.cn/v1"),
    request_id_headers: &["x-siliconcloud-trace-id", "x-request-id"],
    classify,
    ..OPENAI_COMPATIBLE
};

/// What an answer of SiliconFlow's means.
fn classify(refusal: &Refusal<'_>) -> Fault {
    let (answer, fault) = openai::judge(refusal, own_class);
    let wait = match fault.class {
        Class::RateLimited => fault.wait.or_else(|| answer.unstated_day()),
        _ => fault.wait,
    };
    fault.with_wait(wait)
}

fn own_class(refusal: &Refusal<'_>, answer: &Answer) -> Option<Class> {
    match refusal.status {
        403 if answer.begins("sorry, your account balance is insufficient") => {
            Some(Class::Exhausted)
        }
        _ => answer.named(NAMES),
    }
}
