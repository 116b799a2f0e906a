//! `x-ratelimit-*`: what the limits of a caller leave, in OpenAI's form.

use std::cell::RefCell;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use keypool_core::limit::WINDOW;

/// The headers of one dimension.
struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

/// In the order of the limiter's dimensions.
static NAMES: [Names; 3] = [
    Names {
        limit: HeaderName::from_static("x-ratelimit-limit-requests"),
        remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
        reset: HeaderName::from_static("x-ratelimit-reset-requests"),
    },
    Names {
        limit: HeaderName::from_static("x-ratelimit-limit-input-tokens"),
        remaining: HeaderName::from_static("x-ratelimit-remaining-input-tokens"),
        reset: HeaderName::from_static("x-ratelimit-reset-input-tokens"),
    },
    Names {
        limit: HeaderName::from_static("x-ratelimit-limit-output-tokens"),
        remaining: HeaderName::from_static("x-ratelimit-remaining-output-tokens"),
        reset: HeaderName::from_static("x-ratelimit-reset-output-tokens"),
    },
];

/// Number of limits that each thread caches: a prime, since most limits are round.
const CACHED_LIMITS: usize = 61;

thread_local! {
    /// Limits as they are written. They are the same in every response.
    static LIMITS: RefCell<[Option<(u32, HeaderValue)>; CACHED_LIMITS]> =
        const { RefCell::new([const { None }; CACHED_LIMITS]) };
}

/// How a whole window is written.
static WHOLE_WINDOW: HeaderValue = HeaderValue::from_static("1m0s");

/// What one limit leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Time until all of it is there again.
    pub(crate) reset: Duration,
}

/// What the limits of a caller leave: requests, input tokens, output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateHeaders(pub(crate) [Option<Left>; 3]);

impl RateHeaders {
    pub(crate) fn insert(&self, headers: &mut HeaderMap) {
        // What a call was just charged leaves all windows at the same time, a whole window from now.
        let (mut reset, mut written) = (WINDOW, WHOLE_WINDOW.clone());
        for (left, names) in self.0.iter().zip(&NAMES) {
            let Some(left) = left else { continue };
            if left.reset != reset {
                (reset, written) = (left.reset, go_duration(left.reset));
            }
            headers.insert(&names.limit, limit(left.limit));
            headers.insert(&names.remaining, number(left.remaining));
            headers.insert(&names.reset, written.clone());
        }
    }
}

/// A limit, from the thread's cache if it holds it.
fn limit(limit: u32) -> HeaderValue {
    LIMITS.with_borrow_mut(|limits| {
        let cached = &mut limits[limit as usize % CACHED_LIMITS];
        match cached {
            Some((of, value)) if *of == limit => value.clone(),
            _ => cached.insert((limit, number(limit))).1.clone(),
        }
    })
}

fn number(number: u32) -> HeaderValue {
    value(itoa::Buffer::new().format(number))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("0"))
}

/// A duration as Go writes it, to the millisecond, rounded up: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0.5s`.
fn go_duration(time: Duration) -> HeaderValue {
    let millis = u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if (1..1000).contains(&millis) {
        return value(&format!("{millis}ms"));
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let mut text = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    text += seconds.trim_end_matches('0').trim_end_matches('.');
    text += "s";
    value(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (12_000_000, "12ms"),
            (999_000_001, "1s"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (59_999_000_000, "59.999s"),
            (60_000_000_000, "1m0s"),
            (360_050_000_000, "6m0.05s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text, "{nanos}");
        }
    }

    #[test]
    fn a_whole_window_is_written_like_any_duration() {
        assert_eq!(WHOLE_WINDOW, go_duration(WINDOW));
    }

    #[test]
    fn only_dimensions_with_a_limit_have_headers() {
        let mut headers = HeaderMap::new();
        let left = Left {
            limit: 60,
            remaining: 59,
            reset: Duration::from_secs(60),
        };
        RateHeaders([Some(left), None, None]).insert(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
        assert_eq!(headers["x-ratelimit-reset-requests"], "1m0s");
        let later = Left {
            reset: Duration::from_millis(1500),
            ..left
        };
        RateHeaders([Some(later), Some(left), None]).insert(&mut headers);
        assert_eq!(headers["x-ratelimit-reset-requests"], "1.5s");
        assert_eq!(headers["x-ratelimit-reset-input-tokens"], "1m0s");
    }
}
