//! Events that can happen many times a second and are logged once.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Minimum time between two log lines for the same event.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one event a second through.
#[derive(Default)]
pub(super) struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Whether the event should be logged now.
    pub(super) fn is_due(&self) -> bool {
        let mut logged = self.0.lock();
        let now = Instant::now();
        let is_due = logged.is_none_or(|logged| now - logged >= INTERVAL);
        if is_due {
            *logged = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frequent_event_is_logged_once_a_second() {
        let throttle = LogThrottle::default();
        let mut logged = 0;
        for _ in 0..=250 {
            logged += u32::from(throttle.is_due());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(logged, 3, "at 0, 1 and 2 seconds");
    }
}
