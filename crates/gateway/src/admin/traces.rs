//! `GET /api/v1/admin/traces`: why the newest requests got the keys that they got.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::{StatusCode, Uri};
use keypool_core::pool::{KeySet, SelectedBy, Selection, Skipped};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::problem::Problem;
use super::stats::rfc3339;
use crate::context::Gateway;
use crate::traces::{KEPT, Outcome, Step, Trace};

/// So many are listed where the request does not say.
const USUAL: usize = 100;

#[derive(Serialize)]
pub(super) struct Listing {
    traces: Vec<TraceView>,
}

#[derive(Serialize)]
struct TraceView {
    request_id: String,
    /// When it came, RFC 3339.
    time: String,
    caller: String,
    /// Null where the client left, or a shutdown's time was up, before an answer began.
    status: Option<u16>,
    /// To the last byte of the answer.
    ms: f64,
    /// `client left`, `answer broke off`, `shutdown`; null where it ended as it should.
    ended: Option<String>,
    steps: Vec<StepView>,
}

#[derive(Serialize)]
struct StepView {
    pool: String,
    model: Option<String>,
    /// Null: there was no (further) key, or the target was passed over; `no_key` says why.
    key: Option<String>,
    by: Option<&'static str>,
    /// Null, as `free`, where the target was passed over without a look at its keys.
    keys: Option<usize>,
    free: Option<usize>,
    excluded: Vec<SkippedView>,
    /// Not free either, and not named.
    more: usize,
    waited_ms: f64,
    /// To the head of the answer, or to the failure.
    ms: f64,
    status: Option<u16>,
    class: Option<&'static str>,
    cooldown_ms: Option<f64>,
    ejected: bool,
    no_key: Option<&'static str>,
}

#[derive(Serialize)]
struct SkippedView {
    /// Null where its configuration has ended.
    key: Option<String>,
    reason: &'static str,
    until: Option<String>,
    /// Of a key that was full: how many calls it may have in flight.
    cap: Option<u32>,
}

pub(super) async fn newest(
    State(gw): State<Arc<Gateway>>,
    uri: Uri,
) -> Result<Json<Listing>, Problem> {
    let filter = Filter::of(uri.query().unwrap_or_default())?;
    let now = gw.clock.now();
    let found = gw.traces.newest(filter.limit, |trace| filter.wants(trace));
    let view = View { gw: &gw, now };
    Ok(Json(Listing {
        traces: found.iter().map(|trace| view.trace(trace)).collect(),
    }))
}

/// What the query asks for.
struct Filter {
    limit: usize,
    request_id: Option<String>,
    pool: Option<String>,
}

impl Filter {
    fn of(query: &str) -> Result<Self, Problem> {
        let mut filter = Self {
            limit: USUAL,
            request_id: None,
            pool: None,
        };
        let wrong = |what: String| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", what);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=KEPT).contains(limit));
                    filter.limit = limit.ok_or_else(|| {
                        wrong(format!("`limit` must be a number from 1 to {KEPT}"))
                    })?;
                }
                "request_id" => filter.request_id = Some(value),
                "pool" => filter.pool = Some(value),
                _ => {
                    let message = "this path takes `limit`, `request_id` and `pool`";
                    return Err(wrong(message.to_owned()));
                }
            }
        }
        Ok(filter)
    }

    fn wants(&self, trace: &Trace) -> bool {
        let is_request = |id: &String| trace.request_id == **id;
        let is_pool = |pool: &String| trace.steps.iter().any(|step| *step.pool_name == **pool);
        self.request_id.as_ref().is_none_or(is_request) && self.pool.as_ref().is_none_or(is_pool)
    }
}

/// CountPolls instants into dates.
struct View<'a> {
    gw: &'a Gateway,
    now: Instant,
}

impl View<'_> {
    fn date(&self, at: Instant) -> String {
        let wall = self.gw.clock.wall();
        let ago = self.now.saturating_duration_since(at);
        rfc3339(wall - ago + at.saturating_duration_since(self.now))
    }

    fn trace(&self, trace: &Trace) -> TraceView {
        TraceView {
            request_id: trace.request_id.to_str().unwrap_or_default().to_owned(),
            time: self.date(trace.began),
            caller: trace.caller.to_string(),
            status: Some(trace.status).filter(|status| *status > 0),
            ms: millis(trace.took),
            ended: Some(trace.ended.clone()).filter(|how| !how.is_empty()),
            steps: trace.steps.iter().map(|step| self.step(step)).collect(),
        }
    }

    fn step(&self, step: &Step) -> StepView {
        let key_set = step.keys.upgrade();
        let (status, class, effect, no_key) = match step.outcome {
            Outcome::Unfinished => (None, None, None, None),
            Outcome::Answered(status) => (Some(status), None, None, None),
            Outcome::Failed {
                class,
                status,
                effect,
            } => (status, Some(class.as_str()), Some(effect), None),
            Outcome::NoKey(why) | Outcome::PassedOver(why) => (None, None, None, Some(why)),
        };
        let was_looked_at = !matches!(step.outcome, Outcome::PassedOver(_));
        let Selection {
            by,
            keys,
            free,
            more,
            ..
        } = step.choice;
        let excluded = step.choice.excluded.iter();
        StepView {
            pool: step.pool_name.to_string(),
            model: Some(step.model.to_string()).filter(|model| !model.is_empty()),
            key: step.key_name.as_ref().map(ToString::to_string),
            by: by.map(SelectedBy::as_str),
            keys: was_looked_at.then_some(keys),
            free: was_looked_at.then_some(free),
            excluded: excluded
                .map(|excluded| self.excluded(excluded, key_set.as_deref()))
                .collect(),
            more,
            waited_ms: millis(step.waited),
            ms: millis(step.took),
            status,
            class,
            cooldown_ms: effect.and_then(|one| one.cooldown).map(millis),
            ejected: effect.is_some_and(|one| one.ejected),
            no_key,
        }
    }

    fn excluded(&self, excluded: &Skipped, keys: Option<&KeySet>) -> SkippedView {
        let member = keys.and_then(|keys| keys.members().get(excluded.index));
        let settings = keys.and_then(|keys| keys.settings().keys.get(excluded.index));
        let is_full = excluded.obstacle == keypool_core::pool::Obstacle::Full;
        let until = keys.and_then(|keys| keys.ends(excluded)).or(excluded.until);
        SkippedView {
            key: member.map(|member| member.name.to_string()),
            reason: excluded.obstacle.as_str(),
            until: until.map(|until| self.date(until)),
            cap: settings
                .and_then(|key| key.max_concurrent)
                .filter(|_| is_full),
        }
    }
}

/// Milliseconds with three decimals.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
