//! `usage`: requests, failures and tokens over time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use keypool_core::store::{UsageQuery, UsageTotal};
use keypool_core::values;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Params;
use super::format::rfc3339;
use super::openapi::ReadProblems;
use super::page::Page;
use super::problem::Problem;
use crate::context::Gateway;
use crate::stored::Access;

/// Maximum number of sums in a response.
const MAX_SUMS: usize = 10_000;
/// The time that is summed up if the client does not say.
const DEFAULT_TIME: Duration = Duration::from_secs(86_400);
/// Usage is counted by the minute.
const MIN_STEP: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParams {
    /// From this time on (RFC 3339). Default: 24 hours before `to`.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Before this time (RFC 3339). Default: now.
    #[param(format = DateTime)]
    to: Option<String>,
    /// A sum for each of these, separated by commas: `key`, `model`, `virtual_key`. Default: one sum for all.
    #[param(example = "key,model")]
    by: Option<String>,
    /// The length of the parts of the time that are summed up, at least `60s`. Default: one sum for all of it.
    #[param(example = "1h", pattern = r"^[1-9]\d{0,3}(m|h|d)$")]
    step: Option<String>,
}

/// The usage of one group in one part of the time.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub(super) struct UsageView {
    /// The beginning of the part.
    #[schema(format = DateTime)]
    at: String,
    /// The pool's name; absent unless asked for `by=key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    /// The key's name; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The model; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The virtual key's name, empty if none was required; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_key: Option<String>,
    /// Requests of callers. Each counts at the key that served it, or was tried last.
    requests: u64,
    /// Calls to providers.
    attempts: u64,
    /// Those of them that failed and blame the key.
    failures: u64,
    /// Input tokens that providers reported.
    input_tokens: u64,
    /// Output tokens that providers reported.
    output_tokens: u64,
}

/// Sums of usage, oldest first.
#[utoipa::path(get, path = "/api/v1/admin/usage", operation_id = "usage", tag = "usage", params(UsageParams),
    responses((status = 200, body = Page<UsageView>), ReadProblems))]
pub(super) async fn usage(
    State(gw): State<Arc<Gateway>>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Page<UsageView>>, Problem> {
    let query = params.query(gw.clock.wall())?;
    let store = gw.stored.store()?;
    // What was counted last is shown too, if it can be stored now.
    let _ = gw.flush().await;
    let summed = store.usage(&query).await;
    let sums = gw.note_store(Access::Read, summed)?;
    if sums.len() > MAX_SUMS {
        return Err(Problem::invalid_query(format!(
            "that is more than {MAX_SUMS} sums: choose a shorter time, a longer `step` or less in `by`"
        )));
    }
    let items = sums.into_iter().map(|sum| UsageView::of(sum, &query));
    Ok(Json(Page {
        items: items.collect(),
        next: None,
    }))
}

impl UsageParams {
    fn query(&self, now: SystemTime) -> Result<UsageQuery, Problem> {
        let to = time("to", self.to.as_deref())?.unwrap_or(now);
        let step = self.step.as_deref().map(|text| {
            let step = values::duration(text).filter(|step| *step >= MIN_STEP);
            step.ok_or_else(|| {
                Problem::invalid_query(
                    "`step` must be a duration of at least a minute, such as \"1h\"",
                )
            })
        });
        let step = step.transpose()?;
        let from = match time("from", self.from.as_deref())? {
            Some(from) => from,
            None => default_from(to, step),
        };
        if from >= to {
            return Err(Problem::invalid_query("`from` must be before `to`"));
        }
        let mut query = UsageQuery {
            from,
            to,
            step,
            by_key: false,
            by_model: false,
            by_virtual_key: false,
            limit: MAX_SUMS + 1,
        };
        for name in self.by.iter().flat_map(|by| by.split(',')) {
            match name.trim() {
                "key" => query.by_key = true,
                "model" => query.by_model = true,
                "virtual_key" => query.by_virtual_key = true,
                "" => {}
                _ => {
                    let detail = "`by` takes `key`, `model` and `virtual_key`, separated by commas";
                    return Err(Problem::invalid_query(detail));
                }
            }
        }
        Ok(query)
    }
}

/// Where the time begins that is summed by default. With steps it begins with a whole one: full
/// hours, or days of UTC.
fn default_from(to: SystemTime, step: Option<Duration>) -> SystemTime {
    let from = to
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let from = from.saturating_sub(DEFAULT_TIME);
    let step = step.filter(|step| *step <= DEFAULT_TIME);
    let part = step.map_or(1, |step| step.as_secs().max(1));
    SystemTime::UNIX_EPOCH + Duration::from_secs(from.as_secs() / part * part)
}

fn time(name: &str, text: Option<&str>) -> Result<Option<SystemTime>, Problem> {
    let Some(text) = text else {
        return Ok(None);
    };
    let at: Option<Timestamp> = text.trim().parse().ok();
    let at = at.filter(|at| at.as_second() >= 0).map(SystemTime::from);
    let wrong = || {
        Problem::invalid_query(format!(
            "`{name}` must be a date and time with its offset, such as 2027-01-31T00:00:00Z"
        ))
    };
    at.map(Some).ok_or_else(wrong)
}

impl UsageView {
    fn of(sum: UsageTotal, query: &UsageQuery) -> Self {
        let shown = |is_asked: bool, name: &Arc<str>| is_asked.then(|| (**name).to_owned());
        let (group, counts) = (&sum.group, &sum.counts);
        Self {
            at: rfc3339(sum.at),
            pool: shown(query.by_key, &group.pool),
            key: shown(query.by_key, &group.key),
            model: shown(query.by_model, &group.model),
            virtual_key: shown(query.by_virtual_key, &group.virtual_key),
            requests: counts.requests,
            attempts: counts.attempts,
            failures: counts.failures,
            input_tokens: counts.input_tokens,
            output_tokens: counts.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_time_begins_with_a_whole_step() {
        let at = |text: &str| SystemTime::from(text.parse::<Timestamp>().unwrap());
        let (to, hour) = (at("2027-01-31T13:45:10.5Z"), Duration::from_secs(3600));
        for (step, from) in [
            (None, "2027-01-30T13:45:10Z"),
            (Some(hour), "2027-01-30T13:00:00Z"),
            (Some(24 * hour), "2027-01-30T00:00:00Z"),
            (Some(7 * 24 * hour), "2027-01-30T13:45:10Z"),
        ] {
            assert_eq!(default_from(to, step), at(from), "{step:?}");
        }
    }
}
