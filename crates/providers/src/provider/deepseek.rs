//! DeepSeek: OpenAI's form, with statuses that say more than its codes do.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use crate::dialect::Dialect;
use crate::errors::{ErrorBody, ErrorResponse};

/// api.deepseek.com.
pub(crate) static DEEPSEEK: Dialect = Dialect {
    name: "deepseek",
    env_keys: &["DEEPSEEK_API_KEY"],
    env_base_url: Some("DEEPSEEK_BASE_URL"),
    default_base_url: Some("https://api.deepseek.com/v1"),
    default_models: &["deepseek-*"],
    request_id_headers: &["x-ds-trace-id", "x-request-id"],
    classify,
    ..OPENAI_COMPATIBLE
};

/// Classifies an error response of DeepSeek.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    openai::judge(response, own_class).1
}

fn own_class(_refusal: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    is_unpaid(body).then_some(Class::Exhausted)
}

/// Under load, blank lines before the body come with a 200, so an empty balance cannot be recognised by its status. The
/// whole message must match: a longer one may quote the caller.
fn is_unpaid(body: &ErrorBody) -> bool {
    let message = body.message.trim();
    message.eq_ignore_ascii_case("insufficient balance")
}
