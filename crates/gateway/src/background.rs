//! What the gateway does beside serving, as long as it accepts connections. Each task waits most of the time, and none of
//! them ever ends by itself.

use std::convert::Infallible;
use std::sync::Arc;

use crate::context::Gateway;
use crate::{key_checks, limits, quota, stored};

/// Runs all of it.
pub(crate) async fn run(gw: &Arc<Gateway>) -> Infallible {
    let (never, ..) = tokio::join!(
        limits::sweep_regularly(&gw.limits),
        stored::flush_regularly(gw),
        stored::follow_regularly(gw),
        stored::compact_regularly(gw),
        key_checks::check_invalid_regularly(gw),
        quota::refresh_regularly(gw),
    );
    never
}
