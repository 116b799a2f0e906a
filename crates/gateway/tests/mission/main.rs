//! The gateway in one process with the mock provider: the mission's headlines in scaled time, and a storm of faults.

mod chaos;
mod harness;
mod queueing;
mod resilience;
