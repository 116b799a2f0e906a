//! The domain types and rules of keypool: keys, pools, strategies, breaker, cooldowns, the waiting queue.
//!
//! This crate opens no socket and reads no file, environment or clock: time comes in as an argument.
//! Everything here can be tested without a runtime.

mod availability;
pub mod balance;
pub mod base_url;
pub mod breaker;
pub mod clock;
mod cooldowns;
pub mod fault;
pub mod hash;
pub mod key;
pub mod limit;
mod models_in_use;
pub mod pattern;
pub mod pool;
pub mod proxy_url;
pub mod secret;
pub mod settings;
pub mod store;
pub mod values;
