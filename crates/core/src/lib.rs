//! The words and the rules of keypool: keys, pools, strategies, breaker, rests, the waiting queue.
//!
//! This crate opens no socket, reads no file, environment or clock: time comes in as an argument.
//! Everything here can be tested without a runtime.

pub mod balance;
pub mod base_url;
mod board;
pub mod breaker;
pub mod clock;
pub mod fault;
pub mod key;
mod key_book;
pub mod pattern;
pub mod pool;
pub mod proxy_url;
pub mod rests;
pub mod secret;
pub mod settings;
