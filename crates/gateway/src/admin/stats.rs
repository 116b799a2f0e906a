//! `GET /api/keys/stats`: the state and the counters of each key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use keypool_core::pool::{CooldownReport, KeyReport};
use serde::Serialize;

use crate::context::Gateway;

/// The statistics of one key. The first six fields are stable.
#[derive(Serialize)]
pub(super) struct KeyStats {
    active_requests: u32,
    total_requests: u64,
    failed_requests: u64,
    /// Per cent, one decimal.
    success_rate: f64,
    is_available: bool,
    /// RFC 3339; null if the key was never used.
    last_used: Option<String>,
    state: &'static str,
    cooldowns: Vec<CooldownView>,
}

#[derive(Serialize)]
struct CooldownView {
    /// Null if the cooldown applies to all models.
    model: Option<String>,
    until: String,
    class: &'static str,
}

pub(super) async fn stats(
    State(gw): State<Arc<Gateway>>,
) -> Json<BTreeMap<String, BTreeMap<String, KeyStats>>> {
    let (now, wall) = (gw.clock.now(), gw.clock.wall());
    let snapshot = gw.snapshot();
    let pool = |report: Vec<KeyReport>| {
        report
            .into_iter()
            .map(|key| (key.name.to_string(), KeyStats::of(key, now, wall)))
            .collect::<BTreeMap<_, _>>()
    };
    let pools = snapshot
        .pools
        .iter()
        .map(|entry| (entry.pool.name().to_string(), pool(entry.pool.report())));
    Json(pools.collect())
}

impl KeyStats {
    fn of(key: KeyReport, now: Instant, wall: SystemTime) -> Self {
        Self {
            active_requests: key.active,
            total_requests: key.total,
            failed_requests: key.failed,
            success_rate: success_rate(key.total, key.failed),
            is_available: key.is_available,
            last_used: key
                .last_used_ms
                .map(|ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms))),
            state: key.state.as_str(),
            cooldowns: key
                .cooldowns
                .into_iter()
                .map(|cooldown| CooldownView::of(cooldown, now, wall))
                .collect(),
        }
    }
}

impl CooldownView {
    fn of(cooldown: CooldownReport, now: Instant, wall: SystemTime) -> Self {
        Self {
            model: cooldown
                .model
                .filter(|model| !model.is_empty())
                .map(|model| model.to_string()),
            until: rfc3339(wall + cooldown.until.saturating_duration_since(now)),
            class: cooldown.class.as_str(),
        }
    }
}

/// Per cent with one decimal; 100 for an unused key.
fn success_rate(total: u64, failed: u64) -> f64 {
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
