//! Why jobs fail, other than for an error that a client would get too.

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobFailure {
    /// The provider answered with an error that another try would not change.
    UpstreamError,
    /// The provider got a call that must not be made twice, and did not answer.
    OutcomeUnknown,
    /// The response is larger than what one caller may store.
    ResponseTooLarge,
}

impl JobFailure {
    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamError => "upstream_error",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ResponseTooLarge => "response_too_large",
        }
    }
}
