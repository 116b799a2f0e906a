//! Mistral: OpenAI's protocol, errors in a flat form.
//!
//! Must never know what a request asks for, only what responses look like.

use keypool_core::fault::{Class, Fault};

use super::openai::{self, OPENAI_COMPATIBLE};
use crate::dialect::{Dialect, OpenAiBase};
use crate::errors::{ErrorBody, ErrorResponse};

/// Meaning of its codes and types.
const NAMES: &[(&str, Class)] = &[
    ("1300", Class::RateLimited),
    ("rate_limited", Class::RateLimited),
    ("3505", Class::UpstreamTrouble),
    ("service_tier_capacity_exceeded", Class::UpstreamTrouble),
];

/// api.mistral.ai.
pub(crate) static MISTRAL: Dialect = Dialect {
    name: "mistral",
    env_keys: &["MISTRAL_API_KEY"],
    env_base_url: Some("MISTRAL_BASE_URL"),
    default_base_url: Some("https://api.mistral.ai/v1"),
    openai_base: Some(OpenAiBase {
        hosts: &["api.mistral.ai", "api.*.mistral.ai"],
        path: "/v1",
    }),
    default_models: &[
        "mistral-*",
        "ministral-*",
        "magistral-*",
        "codestral-*",
        "devstral-*",
        "pixtral-*",
        "voxtral-*",
        "open-mistral-*",
        "open-mixtral-*",
    ],
    // In the last chunk. It answers 422 to the field.
    needs_include_usage: false,
    request_id_headers: &[
        "mistral-correlation-id",
        "x-kong-request-id",
        "x-request-id",
    ],
    classify,
    ..OPENAI_COMPATIBLE
};

/// Classifies an error response of Mistral.
fn classify(response: &ErrorResponse<'_>) -> Fault {
    openai::judge(response, own_class).1
}

fn own_class(response: &ErrorResponse<'_>, body: &ErrorBody) -> Option<Class> {
    match response.status {
        // The model's servers are full for every caller. The type is often that of a bad request.
        429 if body.begins("service tier capacity exceeded") => Some(Class::UpstreamTrouble),
        _ => body.named(NAMES),
    }
}
