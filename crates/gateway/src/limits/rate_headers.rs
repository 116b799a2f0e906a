//! `x-ratelimit-*`: what the limits of a caller leave, in OpenAI's form.

use std::time::Duration;

use bytes::Bytes;
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

/// Maximum length of the values of all dimensions, in bytes: numbers of ten digits, and durations below 1,000 hours.
const MAX_VALUES: usize = 3 * (10 + 10 + "999h59m59.999s".len());

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

/// The values of all headers. They share one allocation.
struct Values {
    text: [u8; MAX_VALUES],
    length: usize,
}

impl RateHeaders {
    pub(crate) fn insert(&self, headers: &mut HeaderMap) {
        let mut values = Values {
            text: [b'0'; MAX_VALUES],
            length: 0,
        };
        let ends = self.0.map(|left| {
            left.map(|left| {
                [
                    values.number(left.limit.into(), ""),
                    values.number(left.remaining.into(), ""),
                    values.go_duration(left.reset),
                ]
            })
        });
        let text = Bytes::from_owner(values.text);
        headers.reserve(3 * ends.iter().flatten().count());
        let mut start = 0;
        for (ends, names) in ends.iter().zip(&NAMES) {
            let names = [&names.limit, &names.remaining, &names.reset];
            for (end, name) in ends.iter().flatten().zip(names) {
                let value = HeaderValue::from_maybe_shared(text.slice(start..*end));
                headers.insert(name.clone(), value.unwrap_or(HeaderValue::from_static("0")));
                start = *end;
            }
        }
    }
}

impl Values {
    /// Adds a number with its unit, and returns where it ends.
    fn number(&mut self, number: u64, unit: &str) -> usize {
        self.add(itoa::Buffer::new().format(number));
        self.add(unit)
    }

    /// Adds a duration as Go writes it, to the millisecond, rounded up: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0.5s`. Returns
    /// where it ends.
    fn go_duration(&mut self, time: Duration) -> usize {
        const LONGEST: u64 = 1000 * 3_600_000 - 1;
        let millis = time.as_nanos().div_ceil(1_000_000);
        let millis = u64::try_from(millis).unwrap_or(LONGEST).min(LONGEST);
        if (1..1000).contains(&millis) {
            return self.number(millis, "ms");
        }
        let (minutes, millis) = (millis / 60_000, millis % 60_000);
        if minutes >= 60 {
            self.number(minutes / 60, "h");
        }
        if minutes > 0 {
            self.number(minutes % 60, "m");
        }
        let (seconds, fraction) = (millis / 1000, millis % 1000);
        if fraction == 0 {
            return self.number(seconds, "s");
        }
        self.number(seconds, ".");
        // Three digits, without zeros at the end.
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(1000 + fraction)[1..].trim_end_matches('0');
        self.add(digits);
        self.add("s")
    }

    fn add(&mut self, text: &str) -> usize {
        let end = self.length + text.len();
        if let Some(room) = self.text.get_mut(self.length..end) {
            room.copy_from_slice(text.as_bytes());
            self.length = end;
        }
        self.length
    }
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
            (u64::MAX, "999h59m59.999s"),
        ] {
            let mut values = Values {
                text: [0; MAX_VALUES],
                length: 0,
            };
            let end = values.go_duration(Duration::from_nanos(nanos));
            assert_eq!(&values.text[..end], text.as_bytes(), "{nanos}");
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
