//! What the tidy tests look at: the repository's files, Rust source as code, and the arrows between modules.
//!
//! Nothing here knows a rule; the rules stand in `tests/tidy.rs`.

pub mod code;
pub mod modules;
pub mod repository;
pub mod settings;
