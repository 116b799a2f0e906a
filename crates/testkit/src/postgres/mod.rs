//! Real PostgreSQL servers for tests: each with a port and a folder of its own, gone when dropped.
//!
//! The programs are those of `tests/servers/install`. Nothing here is a mock, and nothing is skipped without them.

mod query;
mod server;
mod template;

pub use server::{PostgresOptions, PostgresServer};
