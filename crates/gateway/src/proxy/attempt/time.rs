//! How long an attempt may take, and what it means if it takes longer.

use std::time::{Duration, Instant};

use super::response::{AttemptResult, Failure};
use crate::upstream::{ErrorKind, UpstreamError};

/// The time that an attempt has.
pub(super) struct AttemptTime {
    /// When the head of the response must be there, and the first byte of an event stream.
    pub(super) first_byte_by: Instant,
    /// Time from the beginning of the attempt until then.
    pub(super) limit: Duration,
    /// The deadline of the request.
    pub(super) deadline: Instant,
    /// `limit` is less than half of the request's whole time: earlier attempts and waits used up the rest.
    pub(super) is_remainder: bool,
    /// Longest time between two pieces of the response.
    pub(super) idle: Duration,
}

impl AttemptTime {
    /// No response in time. A key that had only a remainder of the time is not blamed.
    pub(super) fn out(&self) -> AttemptResult {
        AttemptResult::Failed(Failure::NoResponse {
            error: UpstreamError::sent(ErrorKind::ResponseTimeout(self.limit)),
            blames_key: !self.is_remainder,
        })
    }
}
