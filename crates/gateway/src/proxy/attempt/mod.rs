//! Trying keys: which one next, the call sent with it, and what its response means.

mod attempts;
mod forward_proxy;
mod opinion;
mod read;
mod response;
mod send;
mod time;

pub(super) use attempts::{Answering, Attempts, Concluded};
pub(super) use opinion::AfterRefusal;
pub(super) use response::{AttemptResult, UpstreamResponse};
pub(super) use send::send;
