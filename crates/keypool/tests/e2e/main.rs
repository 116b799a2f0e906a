//! End to end: the real binary on loopback, in front of the mock provider that runs inside the test.

mod admin;
mod attacks;
mod bad_input;
mod bad_provider;
mod callers;
mod failures;
mod harness;
mod http;
mod http2;
mod http2_provider;
mod idle_streams;
mod memory;
mod multipart;
mod objects;
mod open_files;
mod proxies;
mod queue;
mod raw_provider;
mod reload;
mod rotation;
mod routes;
mod shutdown;
mod start;
mod streams;
mod telling;
mod tls;
