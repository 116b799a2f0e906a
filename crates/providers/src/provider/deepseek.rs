//! DeepSeek: OpenAI's form, with statuses that say more than its codes do.
//!
//! This module must never know what a request asks for: only how answers look.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use super::openai_compatible::Compatible;
use crate::errors::{ErrorBody, ErrorResponse};

/// What its words stand for where no status of its own comes with them. `invalid_request_error` is not among them: an
/// empty balance has it too.
const NAMES: &[(&str, Class)] = &[("authentication_error", Class::Rejected)];

/// api.deepseek.com.
pub(crate) static DEEPSEEK: Compatible = Compatible {
    name: "deepseek",
    env_keys: &["DEEPSEEK_API_KEY"],
    env_base_url: Some("DEEPSEEK_BASE_URL"),
    base_url: Some("https://api.deepseek.com/v1"),
    models: &["deepseek-*"],
    request_id_headers: &["x-ds-trace-id", "x-request-id"],
    classify,
    ..OPENAI_COMPATIBLE
};

/// What an answer of DeepSeek's means.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    openai::judge(response, own_class).1
}

fn own_class(_refusal: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    match is_unpaid(body) {
        true => Some(Class::Exhausted),
        false => body.named(NAMES),
    }
}

/// Under load the blank lines before a body come with a 200, so that an empty balance has no status to tell it by. The
/// text is the whole message: a longer one may quote the caller.
fn is_unpaid(body: &ErrorBody) -> bool {
    let message = body.message.trim();
    message.eq_ignore_ascii_case("insufficient balance")
}
