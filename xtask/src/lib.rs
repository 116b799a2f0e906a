//! What the tidy tests examine: the repository's files, Rust sources, their words, and the dependencies between modules.
//!
//! Nothing here knows a rule. The rules are in `tests/tidy.rs`.

pub mod code;
pub mod modules;
pub mod repository;
pub mod settings;
pub mod words;
