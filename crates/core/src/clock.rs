//! The only source of time.

use std::time::{Instant, SystemTime};

/// Tells the time. The gateway's clock follows tokio's, which tests can pause.
pub trait Clock: Send + Sync {
    /// Monotonic time, for waits and windows.
    fn now(&self) -> Instant;

    /// Wall-clock time, for dates that people and providers see.
    fn wall(&self) -> SystemTime;
}

/// One moment in both times, to convert between them.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic time.
    pub now: Instant,
    /// The same moment as a date.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    pub fn of(clock: &dyn Clock) -> Self {
        Self {
            now: clock.now(),
            wall: clock.wall(),
        }
    }

    /// The date of an instant.
    pub fn date(&self, at: Instant) -> SystemTime {
        let ago = self.now.saturating_duration_since(at);
        self.wall - ago + at.saturating_duration_since(self.now)
    }

    /// The instant of a date to come; `None` if it has passed.
    pub fn instant(&self, at: SystemTime) -> Option<Instant> {
        let left = at.duration_since(self.wall).ok()?;
        self.now.checked_add(left).filter(|_| !left.is_zero())
    }
}

/// A clock that a test moves by hand.
#[cfg(test)]
pub(crate) mod fake {
    use std::time::{Duration, Instant, SystemTime};

    use parking_lot::Mutex;

    /// Stands still until a test moves it.
    pub(crate) struct FakeClock {
        start: Instant,
        now: Mutex<Instant>,
    }

    impl FakeClock {
        #[expect(
            clippy::disallowed_methods,
            reason = "a starting point for simulated time"
        )]
        pub(crate) fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                now: Mutex::new(start),
            }
        }

        pub(crate) fn pass(&self, time: Duration) {
            *self.now.lock() += time;
        }
    }

    impl super::Clock for FakeClock {
        fn now(&self) -> Instant {
            *self.now.lock()
        }

        fn wall(&self) -> SystemTime {
            let passed = self.now().duration_since(self.start);
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + passed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_and_its_date_are_the_same_moment() {
        let clock = fake::FakeClock::new();
        let before = Moment::of(&clock);
        clock.pass(Duration::from_secs(60));
        let moment = Moment::of(&clock);
        for seconds in [0, 1, 3600] {
            let later = moment.now + Duration::from_secs(seconds);
            let date = moment.date(later);
            assert_eq!(date, moment.wall + Duration::from_secs(seconds));
            assert_eq!(moment.instant(date), (seconds > 0).then_some(later));
        }
        assert_eq!(moment.date(before.now), before.wall);
        assert_eq!(moment.instant(before.wall), None, "a date in the past");
    }
}
