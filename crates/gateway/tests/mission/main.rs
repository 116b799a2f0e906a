//! The gateway and the mock provider in one process: queueing and failover in scaled time, random faults, and connections
//! over minutes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod affinity;
mod chaos;
mod connections;
mod harness;
mod queueing;
mod resilience;
mod spans;
mod traces;
