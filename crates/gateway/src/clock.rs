//! The clock of a running gateway: tokio's, so that a test can pause it.

use std::time::{Instant, SystemTime};

use keypool_core::clock::Clock;

use crate::task_poll;

/// Follows tokio's clock; wall time is the system's. While a connection's task has its turn, time stands still.
pub struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        task_poll::instant(|| tokio::time::Instant::now().into_std())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where the wall time comes from"
    )]
    fn wall(&self) -> SystemTime {
        task_poll::wall(SystemTime::now)
    }
}
