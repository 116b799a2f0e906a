//! SiliconFlow: OpenAI's protocol, but errors in a flat form with numbers for codes, or as a bare string.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse};

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
        hosts: &["api.siliconflow.cn", "api.siliconflow.com"],
        path: "/v1",
    }),
    request_id_headers: &["x-siliconcloud-trace-id", "x-request-id"],
    classify,
    ..OPENAI_COMPATIBLE
};

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
