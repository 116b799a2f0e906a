//! Announces the ends of jobs to the URLs that callers gave. This module must never decide what a job's end is: the store
//! makes an announcement due together with it.

mod address;
mod deliver;
mod schedule;

pub(crate) use schedule::deliver_regularly;
