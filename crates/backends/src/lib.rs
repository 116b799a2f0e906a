//! The stores behind the core's traits: Redis for limits that hold for several gateways together.
//!
//! This crate must never know providers or the gateway.

pub mod limiter;
