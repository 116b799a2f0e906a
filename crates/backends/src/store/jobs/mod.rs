//! Jobs. Every change locks the one row of `job_queue` first, so changes of jobs have an order, and what a change reads stays
//! true until its end.

mod add;
mod claim;
mod kind;
mod read;
mod settle;
mod sweep;
mod transaction;
mod turns;
mod webhooks;

pub(super) use add::add;
pub(super) use claim::{claim, claimed_among, is_claimed, note_sent, renew};
pub(super) use kind::{KIND_END, KIND_PART, KIND_VALIDATION};
pub(super) use read::{BodyOf, by_id, changed, due_pools, list, name, piece};
pub(super) use settle::{add_piece, cancel, settle};
pub(super) use sweep::{has_work, sweep};
pub(super) use transaction::{Delta, JobsWrite};
pub(super) use turns::Turns;
pub(super) use webhooks::{claim_webhooks, due_webhook_hosts, settle_webhooks};

/// Size of a piece of a body, in bytes.
const PIECE: usize = 256 * 1024;

/// The claim under which the body of a job's request is stored.
const REQUEST: i64 = 0;
