//! What every store must do: the same tests for SQLite and for PostgreSQL, and what only one of them does.

#![expect(
    clippy::unwrap_used,
    reason = "macros make tests of functions, which clippy does not take for tests"
)]

mod backend;
mod batches;
mod catalog;
mod child;
mod data;
mod encryption;
mod failures;
mod jobs;
mod key_states;
mod kill;
mod objects;
mod postgres;
mod sqlite;
mod statements;
mod tls;
mod usage;
mod webhooks;
