//! The clock of a running gateway: tokio's, so that a test can pause it.

use std::time::{Duration, Instant, SystemTime};

use keypool_core::clock::Clock;

/// Follows tokio's clock; wall time is where it stood at the start plus what has passed since.
pub struct TokioClock {
    began: tokio::time::Instant,
    began_wall: SystemTime,
}

impl TokioClock {
    /// A clock that starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where the time comes from"
    )]
    pub fn new() -> Self {
        Self {
            began: tokio::time::Instant::now(),
            began_wall: SystemTime::now(),
        }
    }

    fn passed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        self.began.into_std() + self.passed()
    }

    fn wall(&self) -> SystemTime {
        self.began_wall + self.passed()
    }
}
