//! End to end: the real binary on loopback, in front of the mock provider that runs inside the test.

mod admin;
mod bad_input;
mod callers;
mod failures;
mod harness;
mod http;
mod memory;
mod multipart;
mod objects;
mod queue;
mod reload;
mod rotation;
mod routes;
mod shutdown;
mod start;
mod streams;
