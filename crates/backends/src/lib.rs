//! What stands behind the core's traits: limits that are counted in this process, or in Redis for several gateways together.
//!
//! This crate must never know providers or the gateway.

pub mod limiter;
