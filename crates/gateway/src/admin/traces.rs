//! `GET /api/v1/admin/traces`: why the latest requests got their keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use keypool_core::clock::Moment;
use keypool_core::pool::{ExcludedKey, KeySet, Obstacle, SelectedBy};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Params;
use super::format::rfc3339;
use super::openapi::ReadProblems;
use super::problem::Problem;
use crate::context::Gateway;
use crate::traces::{KEPT, Outcome, Step, Trace};

/// Number of traces listed by default.
const DEFAULT_LIMIT: usize = 100;

/// The newest requests, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Traces)]
pub(super) struct Listing {
    traces: Vec<TraceView>,
}

/// Why a request got its keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Trace)]
struct TraceView {
    request_id: String,
    /// When the request arrived, RFC 3339.
    time: String,
    caller: String,
    /// Null if the client disconnected or the gateway shut down before a response began.
    #[schema(required)]
    status: Option<u16>,
    /// Until the last byte of the response.
    ms: f64,
    /// `client_disconnected`, `upstream_broke_off`, `upstream_error` or `shutdown`; null if all went well.
    #[schema(required)]
    ended: Option<&'static str>,
    steps: Vec<StepView>,
}

/// One attempt, one target without a (further) key, or one skipped target.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = TraceStep)]
struct StepView {
    pool: String,
    #[schema(required)]
    model: Option<String>,
    /// Null if there was no (further) key (`no_key` says why) or the target was skipped (`skipped` says why).
    #[schema(required)]
    key: Option<String>,
    #[schema(required)]
    by: Option<&'static str>,
    /// Null, like `free`, if the target was skipped before its keys were considered.
    #[schema(required)]
    keys: Option<usize>,
    #[schema(required)]
    free: Option<usize>,
    excluded: Vec<ExcludedView>,
    /// Number of further keys that were not free and are not listed.
    more: usize,
    waited_ms: f64,
    /// Until the head of the response, or the failure.
    ms: f64,
    #[schema(required)]
    status: Option<u16>,
    #[schema(required)]
    class: Option<&'static str>,
    #[schema(required)]
    cooldown_ms: Option<f64>,
    ejected: bool,
    #[schema(required)]
    no_key: Option<&'static str>,
    #[schema(required)]
    skipped: Option<&'static str>,
}

/// A key that could not serve.
#[derive(Serialize, ToSchema)]
#[schema(as = ExcludedKey)]
struct ExcludedView {
    /// Null if the key is no longer configured.
    #[schema(required)]
    key: Option<String>,
    reason: &'static str,
    #[schema(required)]
    until: Option<String>,
    /// For a full key: the maximum number of calls in flight.
    #[schema(required)]
    cap: Option<u32>,
}

/// Which requests.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TraceParams {
    /// Maximum number of requests, from 1 to 1024. Default: 100.
    #[param(minimum = 1, maximum = 1024)]
    limit: Option<usize>,
    /// Only the request of this id.
    request_id: Option<String>,
    /// Only requests that this pool was a target of.
    pool: Option<String>,
}

/// Why the newest requests got their keys, newest first.
#[utoipa::path(get, path = "/api/v1/admin/traces", operation_id = "list_traces", tag = "traces", params(TraceParams),
    responses((status = 200, body = Listing), ReadProblems))]
pub(super) async fn newest(
    State(gw): State<Arc<Gateway>>,
    Params(params): Params<TraceParams>,
) -> Result<Json<Listing>, Problem> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=KEPT).contains(&limit) {
        let detail = format!("`limit` must be a number from 1 to {KEPT}");
        return Err(Problem::invalid_query(detail));
    }
    let found = gw.traces.newest(limit, |trace| params.matches(trace));
    let moment = Moment::of(&*gw.clock);
    let view = View { moment };
    Ok(Json(Listing {
        traces: found.iter().map(|trace| view.trace(trace)).collect(),
    }))
}

impl TraceParams {
    fn matches(&self, trace: &Trace) -> bool {
        let is_request = |id: &String| trace.request_id == **id;
        let is_pool = |pool: &String| trace.steps.iter().any(|step| *step.pool_name == **pool);
        self.request_id.as_ref().is_none_or(is_request) && self.pool.as_ref().is_none_or(is_pool)
    }
}

/// Converts traces for display, instants to dates included.
struct View {
    moment: Moment,
}

impl View {
    fn date(&self, at: Instant) -> String {
        rfc3339(self.moment.date(at))
    }

    fn trace(&self, trace: &Trace) -> TraceView {
        TraceView {
            request_id: trace.request_id.to_str().unwrap_or_default().to_owned(),
            time: self.date(trace.began),
            caller: trace.caller.to_string(),
            status: Some(trace.status).filter(|status| *status > 0),
            ms: millis(trace.took),
            ended: trace.ending.code(),
            steps: trace.steps.iter().map(|step| self.step(step)).collect(),
        }
    }

    fn step(&self, step: &Step) -> StepView {
        let keys = step.keys.upgrade();
        let selection = &step.selection;
        let is_skipped = matches!(step.outcome, Outcome::Skipped(_));
        let excluded = selection.excluded.iter();
        let mut view = StepView {
            pool: step.pool_name.to_string(),
            model: Some(step.model.to_string()).filter(|model| !model.is_empty()),
            key: step.key_name.as_ref().map(ToString::to_string),
            by: selection.by.map(SelectedBy::as_str),
            keys: (!is_skipped).then_some(selection.keys),
            free: (!is_skipped).then_some(selection.free),
            excluded: excluded
                .map(|excluded| self.excluded(excluded, keys.as_deref()))
                .collect(),
            more: selection.more,
            waited_ms: millis(step.waited),
            ms: millis(step.took),
            ..StepView::default()
        };
        match step.outcome {
            Outcome::Unfinished => {}
            Outcome::Answered(status) => view.status = Some(status),
            Outcome::Failed {
                class,
                status,
                effect,
            } => {
                view.status = status;
                view.class = Some(class.as_str());
                view.cooldown_ms = effect.cooldown.map(millis);
                view.ejected = effect.ejected;
            }
            Outcome::NoKey(reason) => view.no_key = Some(reason.as_str()),
            Outcome::Skipped(reason) => view.skipped = Some(reason.as_str()),
        }
        view
    }

    fn excluded(&self, excluded: &ExcludedKey, keys: Option<&KeySet>) -> ExcludedView {
        let member = keys.and_then(|keys| keys.members().get(excluded.index));
        let settings = keys.and_then(|keys| keys.settings().keys.get(excluded.index));
        let is_full = excluded.obstacle == Obstacle::Full;
        let until = keys.and_then(|keys| keys.ends(excluded)).or(excluded.until);
        ExcludedView {
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
