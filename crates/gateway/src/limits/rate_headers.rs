//! `x-ratelimit-*`: what the limits of a caller leave, in OpenAI's form.

use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

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

/// Usual length of the three values of a dimension, in bytes.
const MAX_VALUES: usize = 40;

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
        let limits = self.0.iter().flatten().count();
        headers.reserve(3 * limits);
        // All values together need one allocation.
        let mut buffer = BytesMut::with_capacity(MAX_VALUES * limits);
        for (left, names) in self.0.iter().zip(&NAMES) {
            let Some(left) = left else { continue };
            let mut digits = itoa::Buffer::new();
            let limit = value(&mut buffer, digits.format(left.limit));
            let remaining = value(&mut buffer, digits.format(left.remaining));
            write_go_duration(&mut buffer, left.reset);
            let reset = taken(&mut buffer);
            headers.insert(names.limit.clone(), limit);
            headers.insert(names.remaining.clone(), remaining);
            headers.insert(names.reset.clone(), reset);
        }
    }
}

fn value(buffer: &mut BytesMut, text: &str) -> HeaderValue {
    buffer.extend_from_slice(text.as_bytes());
    taken(buffer)
}

fn taken(buffer: &mut BytesMut) -> HeaderValue {
    HeaderValue::from_maybe_shared(buffer.split().freeze()).unwrap_or(HeaderValue::from_static("0"))
}

/// A duration as Go writes it, to the millisecond, rounded up: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0.5s`.
fn write_go_duration(text: &mut BytesMut, time: Duration) {
    let mut digits = itoa::Buffer::new();
    let mut write = |number: u64, unit: &[u8]| {
        text.extend_from_slice(digits.format(number).as_bytes());
        text.extend_from_slice(unit);
    };
    let millis = u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if (1..1000).contains(&millis) {
        return write(millis, b"ms");
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    if minutes >= 60 {
        write(minutes / 60, b"h");
    }
    if minutes > 0 {
        write(minutes % 60, b"m");
    }
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    if fraction == 0 {
        return write(seconds, b"s");
    }
    write(seconds, b".");
    let digits = [fraction / 100, fraction / 10 % 10, fraction % 10];
    let used = 3 - digits.iter().rev().take_while(|digit| **digit == 0).count();
    digits[..used].iter().for_each(|digit| write(*digit, b""));
    text.extend_from_slice(b"s");
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
            let mut written = BytesMut::new();
            write_go_duration(&mut written, Duration::from_nanos(nanos));
            assert_eq!(&written[..], text.as_bytes(), "{nanos}");
        }
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
    }
}
