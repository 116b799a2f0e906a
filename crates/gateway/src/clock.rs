//! The clock of a running gateway: tokio's, so that a test can pause it.

use std::time::{Instant, SystemTime};

use keypool_core::clock::Clock;

use crate::task_poll;

/// Follows tokio's clock; wall time is the system's. Within one poll of a connection's task, both are read once and
/// cached, so what happens in a poll happens at one moment.
///
/// A small call asks for the time 18 times in 3 polls. At some 35 ns a read, the cache saves 0.5 µs of its 22 µs.
pub struct PollClock;

impl Clock for PollClock {
    fn now(&self) -> Instant {
        task_poll::instant(|| tokio::time::Instant::now().into_std())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the only place where the wall time comes from"
    )]
    fn wall(&self) -> SystemTime {
        task_poll::wall(SystemTime::now)
    }
}
