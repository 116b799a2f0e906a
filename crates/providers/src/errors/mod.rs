//! What a provider's error response says: its code and message, how long to wait, and errors inside a 200.
//!
//! Must never know a provider: each dialect decides what its provider's codes mean.

use std::time::SystemTime;

use http::HeaderMap;

pub(crate) use self::error_body::{ErrorBody, class_in, json, loggable_code};
pub use self::in_band::{error_in_body, error_in_event};
pub(crate) use self::in_band::{error_in_data, only_object, text_of};
pub(crate) use self::intermediary::{intermediary_trouble, is_page};
pub use self::refusal_form::refusal_form;
pub(crate) use self::verdict::{decide, fault};

mod error_body;
mod error_names;
mod in_band;
mod intermediary;
mod known_names;
mod known_words;
mod money;
mod named_objects;
mod quotes;
mod refusal_form;
pub mod retry_after;
mod verdict;
mod whole_limit;

/// An upstream response that is an error: the parts of it that a dialect sees.
#[derive(Clone, Copy, Debug)]
pub struct ErrorResponse<'a> {
    /// HTTP status; for an error inside a 200, the status that it implies.
    pub status: u16,
    /// The response's headers.
    pub headers: &'a HeaderMap,
    /// The body, or its first 64 KiB. It may be anything: JSON, HTML, nothing.
    pub body: &'a [u8],
    /// Wall-clock time of the response, for waits given as dates.
    pub now: SystemTime,
}
