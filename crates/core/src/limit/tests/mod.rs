//! What must hold of the ledger and of every limiter.

mod cases;
mod oracle;
mod traces;

use std::time::Duration;

use super::{Cost, Limits, OutputHold, Tick};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn at(millis: u64) -> Tick {
    Tick(millis * 1_000_000)
}

/// Limits of requests, input tokens and output tokens; 0: none.
pub(super) fn limits(requests: u32, input: u32, output: u32) -> Limits {
    let limit = |value: u32| (value > 0).then_some(value);
    Limits {
        requests: limit(requests),
        input_tokens: limit(input),
        output_tokens: limit(output),
        concurrent: None,
    }
}

/// The cost of a call that holds exactly `output`.
pub(super) fn cost(input: u32, output: u32) -> Cost {
    Cost {
        input_tokens: input,
        output: OutputHold::exactly(output),
    }
}
