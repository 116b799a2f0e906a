//! Where the state of limits is kept.

pub mod redis;
