//! Groq: OpenAI's form, with limits per day and per minute in headers of the same names.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse, retry_after};

/// The code for a reached spend limit: it comes with a 400 and lasts until the next month.
const SPEND_LIMIT: &str = "blocked_api_access";
/// Meaning of its codes. `rate_limit_exceeded` is left out: with 413 it is about the request alone.
const NAMES: &[(&str, Class)] = &[
    (SPEND_LIMIT, Class::Exhausted),
    ("organization_restricted", Class::Rejected),
    ("model_terms_required", Class::Forbidden),
    ("capacity_exceeded", Class::UpstreamTrouble),
];

/// api.groq.com.
pub(crate) static GROQ: Dialect = Dialect {
    name: "groq",
    env_keys: &["GROQ_API_KEY"],
    env_base_url: Some("GROQ_BASE_URL"),
    default_base_url: Some("https://api.groq.com/openai/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &["api.groq.com"],
        path: "/openai/v1",
    }),
    default_models: &[
        "groq/*",
        "compound-*",
        "llama-*",
        "llama3-*",
        "meta-llama/*",
        "openai/gpt-oss-*",
        "qwen/*",
        "qwen-*",
        "gemma2-*",
        "moonshotai/*",
        "whisper-large-*",
        "distil-whisper-*",
        "playai-*",
        "allam-*",
    ],
    // In `x_groq.usage` of the last chunk.
    needs_include_usage: false,
    classify,
    ..OPENAI_COMPATIBLE
};

/// Classifies an error response of Groq.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    let (body, fault) = openai::judge(response, own_class);
    let wait = match fault.class {
        // The message names the limit that was reached, even one that no header covers, such as tokens per day.
        Class::RateLimited => retry_after::retry_after(response.headers, response.now)
            .or_else(|| retry_after::wait_in_sentence(&body.message))
            .or(fault.wait)
            .or_else(|| body.unstated_day()),
        Class::Exhausted if body.code.as_deref() == Some(SPEND_LIMIT) => fault
            .wait
            .or_else(|| retry_after::until_next_month(response.now)),
        _ => fault.wait,
    };
    fault.with_wait(wait)
}

fn own_class(response: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    match response.status {
        // The flexible tier is full.
        498 => Some(Class::UpstreamTrouble),
        _ => body.named(NAMES),
    }
}
