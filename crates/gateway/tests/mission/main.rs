//! The gateway in one process with the mock provider: the mission's headlines in scaled time, and a storm of faults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod affinity;
mod chaos;
mod harness;
mod queueing;
mod resilience;
mod traces;
