//! Real Redis servers and clusters for tests: each with ports and a folder of its own, gone when dropped.
//!
//! The program is that of `tests/servers/install`. Nothing here is a mock, and nothing is skipped without it.

mod cluster;
mod control;
mod server;

pub use cluster::RedisCluster;
pub use server::{RedisOptions, RedisServer};
