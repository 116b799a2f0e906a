//! What every limiter must do: the same tests for the limiter of one process, and for Redis in both modes, with one node
//! and with four.

#![expect(
    clippy::unwrap_used,
    reason = "macros make tests of functions, which clippy does not take for tests"
)]

mod backend;
mod behaviour;
mod costs;
mod cuts;
mod fleet;
mod loss;
mod recovery;
mod traces;
