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
    /// What to do about an unknown outcome.
    pub const UNKNOWN: &str = "the provider got this call and did not answer, so it is not known whether the call was carried out; it is not made again, since that could do it twice: look at the provider, then submit it again if needed";

    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamError => "upstream_error",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ResponseTooLarge => "response_too_large",
        }
    }
}
