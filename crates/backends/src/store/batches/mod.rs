//! Batches. Their parts are jobs of their own kinds, and changes of batches are changes of jobs.

mod change;
mod read;
mod results;

pub(super) use change::{add, begin, begin_ending, end, expire, fail, forget};
pub(super) use read::{by_id, line_states, list, results, running_parts};
pub(super) use results::{add_results, note_sent};
