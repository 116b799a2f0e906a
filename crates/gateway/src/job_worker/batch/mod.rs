//! The steps of a batch: its file is checked, its lines are called part by part, and a batch that is cancelled or has expired
//! is ended.

mod check;
mod end;
mod input;
mod line;
mod part;
mod validate;

use std::time::Duration;

use keypool_core::store::{JobError, JobOutcome, StoreError};

pub(super) use end::end;
pub(super) use part::run_part;
pub(super) use validate::validate;

/// The step is done. Nobody asks for its job.
fn done() -> JobOutcome {
    JobOutcome::Ended {
        succeeded: true,
        response: None,
        error: None,
        keep: Duration::ZERO,
    }
}

/// The step goes on when the store responds again.
fn again(error: &StoreError) -> JobOutcome {
    later(Duration::from_secs(1), error.kind.as_str(), &error.message)
}

fn later(after: Duration, code: &str, message: &str) -> JobOutcome {
    JobOutcome::Retry {
        after,
        error: JobError {
            code: code.to_owned(),
            message: message.to_owned(),
        },
    }
}
