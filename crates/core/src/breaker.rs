//! The breaker of one key: closed (calls flow), open (set aside), half-open (one probe decides).
//!
//! Pure: time comes in as an argument, and whether a pool may spare the key is the caller's question.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::settings::BreakerSettings;

/// Into how many parts the window is cut; it slides by one part at a time.
const WINDOW_PARTS: u32 = 12;

/// Where the breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls flow.
    Closed,
    /// The key is set aside until then.
    Open {
        /// When a probe is due.
        until: Instant,
    },
    /// One probe call decides.
    HalfOpen,
}

/// The breaker of one key.
// What every call touches stands first.
#[repr(C)]
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// The part of the window in which calls are counted now; `None` until the next call is.
    current: Option<Part>,
    /// The parts before it, oldest first.
    earlier: VecDeque<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    began: Instant,
    calls: u32,
    failures: u32,
}

/// What a key did lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Finished calls.
    pub calls: u64,
    /// Those of them that failed.
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

    /// Whether the failure rate is below the threshold, however few the calls; so it is without any.
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
    /// Where it stands.
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

    /// The calls of the window.
    pub fn counts(&mut self, settings: &BreakerSettings, now: Instant) -> WindowCounts {
        self.forget_old(settings.window, now);
        let parts = self.earlier.iter().chain(&self.current);
        parts.fold(WindowCounts::default(), |counts, part| WindowCounts {
            calls: counts.calls + u64::from(part.calls),
            failures: counts.failures + u64::from(part.failures),
        })
    }

    /// Whether the key has earned to be set aside: closed, and over the failure rate.
    pub fn should_open(&mut self, settings: &BreakerSettings, now: Instant) -> bool {
        self.state == State::Closed && self.counts(settings, now).is_over_threshold(settings)
    }

    /// Sets the key aside. What was counted so far is forgotten: after the probe a new count begins.
    pub fn open(&mut self, settings: &BreakerSettings, now: Instant) {
        self.state = State::Open {
            until: now + settings.cooldown,
        };
        self.forget_all();
    }

    /// Moves from open to half-open when the time has come; says whether it did.
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
    fn opens_rests_and_goes_half_open_once() {
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
