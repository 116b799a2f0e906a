//! What every limiter must do: the same tests for the limiter of one process, and for Redis with one node and with four.

mod backend;
mod behaviour;
mod loss;
mod traces;
