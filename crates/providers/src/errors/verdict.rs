//! Decides the class of an error response, in the order that holds for every provider.
//!
//! Must never know a provider: each dialect gives its own rules, which come before the common ones.

use keypool_core::fault::{Class, Fault, Scope};

use super::error_body::{ErrorBody, class_of_status, is_of_provider, loggable_code};
use super::known_names::{Meaning, means};
use super::quotes::without_quotations;
use super::refusal_form::names_field;
use super::whole_limit::exceeds_whole_limit;
use super::{ErrorResponse, known_names, known_words, money, named_objects};

/// The fault of an error response by a provider's `own` rules, then by the common ones; without a wait. `own` is not
/// called for successes, content filters and comparisons with what the key has left.
pub(crate) fn decide(status: u16, body: &ErrorBody, own: impl FnOnce() -> Option<Class>) -> Fault {
    if status < 400 {
        return Fault::of(Class::Success);
    }
    let text = without_quotations(&body.message);
    let known = by_content(status, body, &text, own);
    let (mut class, scope) = known.unwrap_or((class_of_status(status), Scope::Model));
    // Some providers answer it with 413.
    let is_above_limit = || status == 413 || exceeds_whole_limit(&body.message);
    let is_of_request = class == Class::RateLimited && is_above_limit();
    if is_of_request {
        class = Class::CallerFault;
    }
    let mut fault = Fault::of(class).with_code(loggable_code(body.code_or_kind()));
    fault.scope = match class {
        Class::Forbidden if matches!(status, 401 | 403) && text.contains("scope") => {
            Scope::Endpoint
        }
        _ => scope,
    };
    fault.is_recognized = known.is_some() || is_of_request;
    fault
}

/// As [`decide`], with the wait that is stated in the common ways.
pub(crate) fn fault(
    response: &ErrorResponse<'_>,
    body: &ErrorBody,
    own: impl FnOnce() -> Option<Class>,
) -> Fault {
    let fault = decide(response.status, body, own);
    let wait = body.stated_wait(fault.class, response);
    fault.with_wait(wait)
}

fn by_content(
    status: u16,
    body: &ErrorBody,
    text: &str,
    own: impl FnOnce() -> Option<Class>,
) -> Option<Meaning> {
    if body.is_content_filter() {
        return means(Class::CallerFault);
    }
    if let Some(class) = money::comparison(status, body, text) {
        return means(class);
    }
    own()
        .and_then(means)
        // Before names, because both are often refused under the name of a missing permission.
        .or_else(|| named_objects::about_object(status, text))
        .or_else(|| known_words::closed_account(status, is_of_provider(&body.message), text))
        .or_else(|| known_names::decisive(status, body))
        .or_else(|| known_words::meaning(status, is_of_provider(&body.message), text))
        .or_else(|| known_names::general(status, body))
        .or_else(|| {
            let is_request = matches!(status, 400 | 404 | 409 | 413 | 422) && names_field(body);
            is_request.then_some((Class::CallerFault, Scope::Model))
        })
}
