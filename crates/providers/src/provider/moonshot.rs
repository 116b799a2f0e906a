//! Moonshot (Kimi): OpenAI's form without codes. The type decides, since three kinds of error have status 429.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use super::paths;
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, retry_after};

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
        hosts: &["api.moonshot.ai", "api.moonshot.cn"],
        path: "/v1",
    }),
    default_models: &["moonshot-*", "kimi-*"],
    // In the choice of the last chunk.
    needs_include_usage: false,
    request_id_headers: &["msh-request-id", "x-request-id", "x-msh-trace-id"],
    is_private_header: |name| ACCOUNT_HEADERS.contains(&name) || paths::is_private_everywhere(name),
    classify,
    ..OPENAI_COMPATIBLE
};

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
