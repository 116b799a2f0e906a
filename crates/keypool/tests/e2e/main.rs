//! End to end: the real binary on loopback, in front of the mock provider that runs inside the test.

mod admin;
mod attacks;
mod bad_input;
mod callers;
mod failures;
mod harness;
mod http;
mod idle_streams;
mod memory;
mod open_files;
mod queue;
mod reload;
mod rotation;
mod shutdown;
mod start;
mod streams;
