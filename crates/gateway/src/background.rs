//! What the gateway does beside serving, as long as it accepts connections. Each task waits most of the time, and none of
//! them ever ends by itself.

use std::convert::Infallible;
use std::sync::Arc;

use crate::context::Gateway;
use crate::{invalid_keys, job_worker, limits, quota, sync, webhooks};

/// Runs all of it.
pub(crate) async fn run(gw: &Arc<Gateway>) -> Infallible {
    let (never, ..) = tokio::join!(
        limits::sweep_regularly(&gw.limits),
        sync::flush_regularly(gw),
        sync::follow_regularly(gw),
        sync::compact_regularly(gw),
        invalid_keys::check_regularly(gw),
        quota::refresh_regularly(gw),
        job_worker::run_regularly(gw),
        webhooks::deliver_regularly(gw),
    );
    never
}
