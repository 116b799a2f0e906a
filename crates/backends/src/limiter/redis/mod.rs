//! Redis, Valkey or a Redis Cluster, from version 6.2.
//!
//! [`RedisClient`] runs scripts with a deadline over one connection per server, and replaces a connection that is lost.
//! [`RedisClient::check`] says at start what is wrong with the server or with the settings.
//! The scripts are in `scripts/`, each with its KEYS and ARGV described at the top.

mod check;
mod client;
mod connection;
mod error;
mod link;
mod node;
mod reserve;
mod script;
#[cfg(test)]
mod simulation;
mod target;

pub use check::{Facts, Problem, Warning};
pub use client::RedisClient;
pub use error::RedisError;
pub use node::{Mode, OnFailure, RedisLimiter, RedisLimiterSettings};
pub use reserve::{
    Charge, Correction, Decision, Grant, Known, MAX_DECISIONS, NodeCall, NodeReply, RefusedUntil,
    Report, Reserve, Wants,
};
pub use script::Script;
pub use target::{RedisAddress, RedisTarget, RedisTimeouts, Tls};
