//! The breaker of one key: closed (calls flow), open (the key is ejected), half-open (one probe decides).
//!
//! Pure: time comes in as an argument, and the caller decides whether its pool can spare the key.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::settings::BreakerSettings;

/// Number of parts of the window, which slides by one part at a time.
const WINDOW_PARTS: u32 = 12;

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls flow.
    Closed,
    /// The key takes no calls.
    Open {
        /// When a probe is due.
        until: Instant,
    },
    /// One probe call decides.
    HalfOpen,
}

/// The breaker of one key.
// What every call touches comes first; see `Key`.
#[repr(C)]
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// The part of the window that counts calls now; `None` until the next call.
    current: Option<Part>,
    /// The earlier parts of the window, oldest first.
    earlier: VecDeque<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    began: Instant,
    calls: u32,
    failures: u32,
}

/// The calls of a key within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Number of finished calls.
    pub calls: u64,
    /// Number of calls that failed.
    pub failures: u64,
}

impl WindowCounts {
    /// The share of failures; `None` below `min_requests`.
    pub fn failure_rate(&self, settings: &BreakerSettings) -> Option<f64> {
        (self.calls >= u64::from(settings.min_requests))
            .then(|| self.failures as f64 / self.calls as f64)
    }

    /// Whether more calls failed than the breaker allows; never below `min_requests`.
    pub fn is_over_threshold(&self, settings: &BreakerSettings) -> bool {
        self.failure_rate(settings)
            .is_some_and(|rate| rate > settings.failure_rate)
    }

    /// Whether the failure rate is below the threshold, for any number of calls. A key without calls is healthy.
    pub fn is_healthy(&self, settings: &BreakerSettings) -> bool {
        (self.failures as f64) < settings.failure_rate * self.calls as f64 || self.failures == 0
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            current: None,
            earlier: VecDeque::new(),
        }
    }
}

impl Breaker {
    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counts one finished call.
    pub fn record(&mut self, failed: bool, settings: &BreakerSettings, now: Instant) {
        let length = settings.window / WINDOW_PARTS;
        let has_ended = |part: &mut Part| now.duration_since(part.began) >= length;
        if let Some(ended) = self.current.take_if(has_ended) {
            self.earlier.push_back(ended);
            self.forget_old(settings.window, now);
        }
        let current = self.current.get_or_insert(Part {
            began: now,
            calls: 0,
            failures: 0,
        });
        current.calls = current.calls.saturating_add(1);
        current.failures = current.failures.saturating_add(u32::from(failed));
    }

    /// Counts the calls within the window.
    pub fn counts(&mut self, settings: &BreakerSettings, now: Instant) -> WindowCounts {
        self.forget_old(settings.window, now);
        let parts = self.earlier.iter().chain(&self.current);
        parts.fold(WindowCounts::default(), |counts, part| WindowCounts {
            calls: counts.calls + u64::from(part.calls),
            failures: counts.failures + u64::from(part.failures),
        })
    }

    /// Whether the key should be ejected: closed, and over the failure rate.
    pub fn should_open(&mut self, settings: &BreakerSettings, now: Instant) -> bool {
        self.state == State::Closed && self.counts(settings, now).is_over_threshold(settings)
    }

    /// Ejects the key. Its counts are forgotten: after the probe a new count begins.
    pub fn open(&mut self, settings: &BreakerSettings, now: Instant) {
        self.state = State::Open {
            until: now + settings.cooldown,
        };
        self.forget_all();
    }

    /// Moves from open to half-open when the probe is due. Returns whether it did.
    pub fn half_open_if_due(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { until } if until <= now => {
                self.state = State::HalfOpen;
                true
            }
            _ => false,
        }
    }

    /// Lets calls flow again.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.current = None;
        self.earlier.clear();
    }

    fn forget_old(&mut self, window: Duration, now: Instant) {
        let is_old = |part: &mut Part| now.duration_since(part.began) >= window;
        while self.earlier.pop_front_if(is_old).is_some() {}
        self.current.take_if(is_old);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;

    fn settings() -> BreakerSettings {
        BreakerSettings::default()
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            breaker.record(true, &settings(), now);
        }
    }

    #[test]
    fn opens_only_above_the_rate_and_from_the_fewest_requests_on() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        fail(&mut breaker, 9, now);
        assert!(
            !breaker.should_open(&settings(), now),
            "nine requests are too few"
        );
        breaker.record(false, &settings(), now);
        assert!(breaker.should_open(&settings(), now));
        for _ in 0..8 {
            breaker.record(false, &settings(), now);
        }
        assert_eq!(
            breaker.counts(&settings(), now).failure_rate(&settings()),
            Some(0.5)
        );
        assert!(
            !breaker.should_open(&settings(), now),
            "exactly half is not above half"
        );
    }

    #[test]
    fn the_window_slides() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        fail(&mut breaker, 20, start);
        let later = start + Duration::from_secs(61);
        assert_eq!(
            breaker.counts(&settings(), later).failure_rate(&settings()),
            None
        );
        assert!(!breaker.should_open(&settings(), later));
    }

    #[test]
    fn calls_leave_the_window_part_by_part() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        for second in [0, 4, 20, 50] {
            fail(&mut breaker, 1, at(second));
            breaker.record(false, &settings(), at(second));
        }
        let mut counts = |second| {
            let counts = breaker.counts(&settings(), at(second));
            (counts.calls, counts.failures)
        };
        assert_eq!(counts(59), (8, 4));
        assert_eq!(counts(60), (4, 2), "two calls were of one part");
        assert_eq!(counts(80), (2, 1));
        assert_eq!(counts(110), (0, 0));
        breaker.record(true, &settings(), at(111));
        assert_eq!(
            breaker.counts(&settings(), at(112)),
            WindowCounts {
                calls: 1,
                failures: 1
            }
        );
    }

    #[test]
    fn an_open_breaker_goes_half_open_once_after_its_cooldown() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        fail(&mut breaker, 10, start);
        breaker.open(&settings(), start);
        assert!(
            !breaker.should_open(&settings(), start),
            "an open breaker does not open again"
        );
        assert!(!breaker.half_open_if_due(start + Duration::from_secs(299)));
        assert!(breaker.half_open_if_due(start + Duration::from_secs(300)));
        assert!(!breaker.half_open_if_due(start + Duration::from_secs(301)));
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.close();
        assert_eq!(
            breaker.counts(&settings(), start).failure_rate(&settings()),
            None
        );
    }
}
