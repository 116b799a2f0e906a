//! `x-ratelimit-*`: what the limits of a caller leave, in OpenAI's form.

use std::fmt::Write;
use std::time::Duration;

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
        headers.reserve(3 * self.0.iter().flatten().count());
        for (left, names) in self.0.iter().zip(&NAMES) {
            let Some(left) = left else { continue };
            headers.insert(names.limit.clone(), left.limit.into());
            headers.insert(names.remaining.clone(), left.remaining.into());
            headers.insert(names.reset.clone(), go_duration(left.reset));
        }
    }
}

/// A duration as Go writes it, to the millisecond, rounded up: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0.5s`.
fn go_duration(time: Duration) -> HeaderValue {
    let millis = time.as_nanos().div_ceil(1_000_000);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match millis {
        1..1000 => write!(text, "{millis}ms"),
        _ => write_seconds(&mut text, millis),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0s"))
}

fn write_seconds(text: &mut String, millis: u128) -> std::fmt::Result {
    let (minutes, seconds) = (millis / 60_000, millis % 60_000);
    let (hours, minutes_left) = (minutes / 60, minutes % 60);
    if hours > 0 {
        write!(text, "{hours}h")?;
    }
    if minutes > 0 {
        write!(text, "{minutes_left}m")?;
    }
    write!(text, "{}", seconds / 1000)?;
    if seconds % 1000 > 0 {
        let fraction = format!(".{:03}", seconds % 1000);
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('s');
    Ok(())
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
