//! Where the state of limits is kept.

mod memory;
pub mod redis;

pub use memory::MemoryLimiter;
