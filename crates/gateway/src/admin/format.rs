//! How the admin API writes times, shares and amounts.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serializer;

/// An amount: a whole number without a decimal point, since most programs read it as one.
pub(super) fn amount<S: Serializer>(
    amount: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    /// Above this, not every whole number is an `f64`.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match *amount {
        Some(amount) if amount.fract() == 0.0 && amount.abs() < EXACT => {
            serializer.serialize_i64(amount as i64)
        }
        Some(amount) => serializer.serialize_f64(amount),
        None => serializer.serialize_none(),
    }
}

/// Per cent with one decimal; 100 for an unused key.
pub(super) fn success_rate(total: u64, failed: u64) -> f64 {
    if total == 0 {
        return 100.0;
    }
    let good = total.saturating_sub(failed) as f64;
    (good * 1000.0 / total as f64).round() / 10.0
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn success_rate_is_per_cent_with_one_decimal() {
        for (total, failed, rate) in [
            (0, 0, 100.0),
            (10, 0, 100.0),
            (3, 1, 66.7),
            (2, 2, 0.0),
            (8, 1, 87.5),
        ] {
            assert_eq!(success_rate(total, failed), rate);
        }
    }

    #[test]
    fn times_are_rfc_3339_utc() {
        assert_eq!(
            rfc3339(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
            "2023-11-14T22:13:20.250Z"
        );
    }
}
