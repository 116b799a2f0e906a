//! What stands behind the core's traits: limits that are counted in this process, or in Redis for several gateways together,
//! and the store in SQLite or PostgreSQL.
//!
//! This crate must never know providers or the gateway.

pub mod limiter;
pub mod store;
