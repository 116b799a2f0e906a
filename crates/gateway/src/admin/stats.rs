//! `GET /api/keys/stats`: the state and the counters of each key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use keypool_core::clock::Moment;
use keypool_core::pool::{CooldownReport, KeyReport};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::key_view::{KeyFacts, KnownKeys};
use super::openapi::ReadProblems;
use crate::context::Gateway;

/// The statistics of one key. The first six fields are stable.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyStats {
    /// Calls in flight.
    active_requests: u32,
    /// Attempts so far.
    total_requests: u64,
    /// Attempts that failed.
    failed_requests: u64,
    /// Per cent, one decimal.
    success_rate: f64,
    /// Whether it could take a request now.
    is_available: bool,
    /// When it was last used; null if it never was.
    #[schema(required, format = DateTime)]
    last_used: Option<String>,
    /// `active`, `cooling`, `exhausted`, `invalid` or `disabled`.
    state: &'static str,
    /// What it must not be asked for now.
    cooldowns: Vec<CooldownView>,
    #[serde(flatten)]
    facts: KeyFacts,
}

/// A time in which a key must not be asked for something.
#[derive(Serialize, ToSchema)]
#[schema(as = Cooldown)]
pub(super) struct CooldownView {
    /// The model; null if it applies to all models.
    #[schema(required)]
    model: Option<String>,
    /// When it ends.
    #[schema(format = DateTime)]
    until: String,
    /// What caused it.
    class: &'static str,
}

/// The statistics of all keys, by pool and name.
#[utoipa::path(get, path = "/api/keys/stats", operation_id = "key_stats", tag = "keys",
    responses((status = 200, body = BTreeMap<String, BTreeMap<String, KeyStats>>), ReadProblems))]
pub(super) async fn stats(
    State(gw): State<Arc<Gateway>>,
) -> Json<BTreeMap<String, BTreeMap<String, KeyStats>>> {
    let catalog = gw.stored.catalog();
    let known = KnownKeys::of(&gw, catalog.as_deref());
    let snapshot = gw.snapshot();
    let pools = snapshot.pools.iter().map(|entry| {
        let name = entry.pool.name();
        let keys = entry.pool.keys();
        let stats = keys.all().map(|member| {
            let facts = known.facts(name, &member);
            let stats = KeyStats::of(member.report(known.moment()), facts, known.moment());
            (member.name.to_string(), stats)
        });
        (name.to_string(), stats.collect())
    });
    Json(pools.collect())
}

impl KeyStats {
    fn of(key: KeyReport, facts: KeyFacts, moment: &Moment) -> Self {
        Self {
            active_requests: key.active,
            total_requests: key.total,
            failed_requests: key.failed,
            success_rate: success_rate(key.total, key.failed),
            is_available: key.is_available,
            last_used: last_used(&key),
            state: key.state.as_str(),
            cooldowns: CooldownView::all(key.cooldowns, moment),
            facts,
        }
    }
}

/// When a key was last used.
pub(super) fn last_used(key: &KeyReport) -> Option<String> {
    let at = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
    key.last_used_ms.map(at)
}

impl CooldownView {
    pub(super) fn all(cooldowns: Vec<CooldownReport>, moment: &Moment) -> Vec<Self> {
        let view = |cooldown: CooldownReport| Self {
            model: cooldown
                .model
                .filter(|model| !model.is_empty())
                .map(|model| model.to_string()),
            until: rfc3339(moment.date(cooldown.until)),
            class: cooldown.class.as_str(),
        };
        cooldowns.into_iter().map(view).collect()
    }
}

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
