//! `refresh-quota`: asks providers what is left of their keys' quota.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use keypool_core::store::{StoreError, StoreErrorKind};
use keypool_providers::catalogue;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Names, Source};
use super::format::{amount, rfc3339};
use super::openapi::ReadProblems;
use super::pools::no_pool;
use super::problem::Problem;
use crate::context::Gateway;
use crate::quota_refreshes::{RefreshReport, RefreshedKey};
use crate::snapshot::PoolEntry;

/// Names the pools in the path of [`refresh_tavily`].
const TAVILY_KEYS: &str = "tavily-keys";

/// What a refresh found.
#[derive(Serialize, ToSchema)]
#[schema(as = QuotaRefresh)]
pub(super) struct RefreshView {
    /// Number of keys.
    total: usize,
    /// Number of keys with new figures.
    succeeded: usize,
    /// Number of keys without.
    failed: usize,
    /// How long it took, in milliseconds.
    duration_ms: u64,
    /// By pool and key.
    keys: Vec<RefreshedKeyView>,
}

/// What a refresh found for one key.
#[derive(Serialize, ToSchema)]
#[schema(as = RefreshedKey)]
struct RefreshedKeyView {
    /// The pool's name.
    pool: String,
    /// The key's name.
    name: String,
    /// What is left, in `unit`; null: unlimited, or not known.
    #[schema(required)]
    #[serde(serialize_with = "amount")]
    remaining_quota: Option<f64>,
    /// What the plan allows; null: unlimited, or not known.
    #[schema(required)]
    #[serde(serialize_with = "amount")]
    plan_limit: Option<f64>,
    /// `credits`, or a currency; null: not known.
    #[schema(required)]
    unit: Option<String>,
    /// When the provider reported these figures; null: never.
    #[schema(required, format = DateTime)]
    refreshed_at: Option<String>,
    /// Why there are no new figures, as a code; null: there are.
    #[schema(required)]
    error: Option<String>,
}

impl RefreshView {
    fn of(report: &RefreshReport) -> Self {
        let failed = report.keys.iter().filter(|key| key.error.is_some()).count();
        Self {
            total: report.keys.len(),
            succeeded: report.keys.len() - failed,
            failed,
            duration_ms: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
            keys: report.keys.iter().map(RefreshedKeyView::of).collect(),
        }
    }
}

impl RefreshedKeyView {
    fn of(key: &RefreshedKey) -> Self {
        let quota = key.quota.as_ref();
        let unit = quota.map(|quota| (*quota.unit).to_owned());
        Self {
            pool: (*key.pool).to_owned(),
            name: (*key.name).to_owned(),
            remaining_quota: quota.and_then(|quota| quota.remaining),
            plan_limit: quota.and_then(|quota| quota.limit),
            unit: unit.filter(|unit| !unit.is_empty()),
            refreshed_at: quota.map(|quota| rfc3339(quota.refreshed_at)),
            error: key.error.as_deref().map(str::to_owned),
        }
    }
}

/// Asks for the quota of all keys of the Tavily pools that are not switched off.
#[utoipa::path(post, path = "/api/v1/admin/tavily-keys/refresh-quota", operation_id = "refresh_tavily_quota", tag = "quota",
    responses((status = 200, body = RefreshView), ReadProblems))]
pub(super) async fn refresh_tavily(
    State(gw): State<Arc<Gateway>>,
    source: Source,
) -> Result<Json<RefreshView>, Problem> {
    let snapshot = gw.snapshot();
    let is_meant = |entry: &&Arc<PoolEntry>| {
        let quota = entry.dialect.quota;
        quota.is_some_and(|call| call.refreshed_as == Some(TAVILY_KEYS))
    };
    let pools = snapshot.pools.iter().filter(is_meant);
    refresh(&gw, pools.cloned().collect(), source, TAVILY_KEYS).await
}

/// Asks for the quota of all keys of a pool that are not switched off.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/refresh-quota", operation_id = "refresh_quota", tag = "quota",
    params(("pool" = String, Path, description = "The pool's name.")),
    responses((status = 200, body = RefreshView), (status = 422, body = super::problem::ProblemDocument,
        content_type = "application/problem+json", description = "The provider does not report the quota of a key."), ReadProblems))]
pub(super) async fn refresh_pool(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
) -> Result<Json<RefreshView>, Problem> {
    let snapshot = gw.snapshot();
    let entry = snapshot.pool(&name).ok_or_else(|| no_pool(&name))?;
    if entry.dialect.quota.is_none() {
        let tell = catalogue::ALL
            .iter()
            .filter(|dialect| dialect.quota.is_some());
        let tell: Vec<&str> = tell.map(|dialect| dialect.name).collect();
        let detail = format!(
            "the provider \"{}\" does not report the quota of a key; these do: {}",
            entry.dialect.name,
            tell.join(", ")
        );
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(Problem::new(status, "quota_not_offered", detail));
    }
    refresh(
        &gw,
        vec![Arc::clone(entry)],
        source,
        &format!("pools/{name}"),
    )
    .await
}

async fn refresh(
    gw: &Arc<Gateway>,
    pools: Vec<Arc<PoolEntry>>,
    source: Source,
    target: &str,
) -> Result<Json<RefreshView>, Problem> {
    let entry = audit::entry(gw, source, "quota.refresh", target.to_owned(), &json!({}));
    let refreshed = gw.refresh_quota(pools, Some(entry)).await;
    let report = refreshed.map_err(|error| StoreError::new(error.kind, error.message.clone()));
    let report = report.map_err(|error| match error.kind {
        // Keys are not missing; something else went wrong while storing.
        StoreErrorKind::Missing => Problem::internal(),
        _ => Problem::from(error),
    })?;
    Ok(Json(RefreshView::of(&report)))
}
