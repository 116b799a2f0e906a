//! Runs jobs: claims those that are due, makes their calls, and stores what became of them.

mod batch;
mod outcome;
mod response;
mod schedule;
mod work;

pub(crate) use schedule::run_regularly;
