//! What every limiter must do: the same tests for the limiter of one process, and for Redis with one node and with four.

mod backend;
mod behaviour;
mod costs;
mod cuts;
mod fleet;
mod loss;
mod recovery;
mod traces;
