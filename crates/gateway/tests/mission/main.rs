//! The gateway in one process with the mock provider: the mission's headlines in scaled time, a storm of faults, and
//! what becomes of connections over minutes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod affinity;
mod chaos;
mod connections;
mod harness;
mod queueing;
mod resilience;
mod spans;
mod traces;
