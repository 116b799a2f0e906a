//! Jobs as callers see them, and their calls as requests.

mod access;
mod api;
mod events;
mod run;
mod submit;
mod view;

pub(super) use api::answer;
pub(crate) use run::{FailedCall, pool_of, run_job};
pub(super) use submit::{submit, wants_job};
