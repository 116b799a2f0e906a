//! What becomes of a job after its call.

use std::time::Duration;

use keypool_core::fault::Class;
use keypool_core::store::{JobError, JobFailure, JobOutcome, JobResponse};

use super::response::{NotTaken, Taken, whole};
use crate::error::Kind;
use crate::jobs::{CallMark, backoff};
use crate::proxy::FailedCall;

/// Says what becomes of a job, or of a line of a batch.
pub(super) struct Outcomes<'a> {
    /// How often it was tried.
    pub(super) tries: u32,
    /// How far its call has come.
    pub(super) mark: &'a CallMark,
    /// How long it is kept after its end.
    pub(super) keep: Duration,
}

impl Outcomes<'_> {
    /// The call got no response of a provider.
    pub(super) fn without_response(&self, failed: &FailedCall) -> JobOutcome {
        if failed.is_unanswered() && self.mark.was_sent_once() {
            return self.unknown(None);
        }
        let error = JobError {
            code: failed.error.kind.code().to_owned(),
            message: failed.error.message.clone(),
        };
        match failed.may_pass() {
            true => self.retry(error, failed.error.retry_after),
            false => self.failed(error, Some(whole(&failed.response))),
        }
    }

    /// The call got a response.
    pub(super) fn with_response(&self, taken: Taken) -> JobOutcome {
        let class = taken.verdict.map(|verdict| verdict.class);
        let is_refused = matches!(class, Some(Class::RateLimited | Class::UpstreamTrouble));
        if !taken.is_whole {
            let error = JobError {
                code: Kind::UpstreamUnreachable.code().to_owned(),
                message: "the provider broke off its response".to_owned(),
            };
            return match self.mark.was_sent_once() {
                false => self.retry(error, None),
                true => self.unknown(Some(taken.stored)),
            };
        }
        let is_success = taken.status < 400 && matches!(class, None | Some(Class::Success));
        if is_success {
            return JobOutcome::Ended {
                succeeded: true,
                response: Some(taken.stored),
                error: None,
                keep: self.keep,
            };
        }
        // A status below 400 with an error in its stream: it may have been carried out in part.
        let may_retry = is_refused && (!self.mark.was_sent_once() || taken.status >= 400);
        let error = JobError {
            code: JobFailure::UpstreamError.as_str().to_owned(),
            message: format!(
                "the provider answered with an error (status {})",
                taken.status
            ),
        };
        match may_retry {
            true => self.retry(error, None),
            false => self.failed(error, Some(taken.stored)),
        }
    }

    /// The call got a response that could not be stored.
    pub(super) fn not_taken(&self, why: NotTaken) -> JobOutcome {
        match why {
            NotTaken::TooLarge { most } => {
                let error = JobError {
                    code: JobFailure::ResponseTooLarge.as_str().to_owned(),
                    message: format!(
                        "the response is larger than the {most} bytes that are kept of it"
                    ),
                };
                self.failed(error, None)
            }
            NotTaken::Lost | NotTaken::Store if self.mark.was_sent_once() => self.unknown(None),
            NotTaken::Lost | NotTaken::Store => {
                let error = JobError {
                    code: Kind::StoreUnavailable.code().to_owned(),
                    message: "the response could not be stored".to_owned(),
                };
                self.retry(error, None)
            }
        }
    }

    /// Large jobs that run leave no memory for this one.
    pub(super) fn no_memory(&self) -> JobOutcome {
        let error = JobError {
            code: Kind::QueueFull.code().to_owned(),
            message: "too many large jobs run at once".to_owned(),
        };
        self.retry(error, None)
    }

    /// The stored job cannot be read.
    pub(super) fn unreadable(&self) -> JobOutcome {
        let error = JobError {
            code: Kind::InvalidRequest.code().to_owned(),
            message: "the stored call cannot be read: submit it again".to_owned(),
        };
        self.failed(error, None)
    }

    /// Nobody knows whether the provider has carried out a call that must not be made twice.
    pub(super) fn unknown(&self, response: Option<JobResponse>) -> JobOutcome {
        let error = JobError {
            code: JobFailure::OutcomeUnknown.as_str().to_owned(),
            message: JobFailure::UNKNOWN.to_owned(),
        };
        self.failed(error, response)
    }

    fn failed(&self, error: JobError, response: Option<JobResponse>) -> JobOutcome {
        JobOutcome::Ended {
            succeeded: false,
            response,
            error: Some(error),
            keep: self.keep,
        }
    }

    /// `due`: when a key is due back.
    fn retry(&self, error: JobError, due: Option<Duration>) -> JobOutcome {
        let after = backoff(self.tries);
        let after = match due {
            // Not all at once.
            Some(due) => after.max(due.mul_f64(1.0 + fastrand::f64() / 10.0)),
            None => after,
        };
        JobOutcome::Retry { after, error }
    }
}
