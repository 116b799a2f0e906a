//! The audit log: who changed what, when and from where.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keypool_core::store::{AuditEntry, AuditRecord};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::{Params, Source};
use super::format::rfc3339;
use super::openapi::ReadProblems;
use super::page::{Page, PageParams};
use super::problem::Problem;
use crate::context::Gateway;
use crate::stored::Access;

/// An entry for a change that a holder of the admin token makes. `details` has no secrets.
pub(super) fn entry(
    gw: &Gateway,
    source: Source,
    action: &'static str,
    target: String,
    details: &Value,
) -> AuditEntry {
    AuditEntry {
        at: gw.clock.wall(),
        actor: "admin",
        source: source.0.to_string(),
        action,
        target,
        details: details.to_string(),
    }
}

/// A change that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub(super) struct AuditView {
    /// Its number: later entries have greater ones.
    id: u64,
    /// When it was made.
    #[schema(format = DateTime)]
    at: String,
    /// Who made it: `admin`, a holder of the admin token.
    actor: String,
    /// The address that it came from.
    source: String,
    /// What was done.
    #[schema(example = "key.create")]
    action: String,
    /// What it was done to.
    #[schema(example = "pools/openai/keys/main")]
    target: String,
    /// Further facts, without secrets.
    #[schema(value_type = Object)]
    details: Value,
}

impl From<AuditRecord> for AuditView {
    fn from(record: AuditRecord) -> Self {
        Self {
            id: record.id,
            at: rfc3339(record.at),
            actor: record.actor,
            source: record.source,
            action: record.action,
            target: record.target,
            details: serde_json::from_str(&record.details).unwrap_or_default(),
        }
    }
}

/// The changes that were made, newest first.
#[utoipa::path(get, path = "/api/v1/admin/audit", operation_id = "list_changes", tag = "audit", params(PageParams),
    responses((status = 200, body = Page<AuditView>), ReadProblems))]
pub(super) async fn list(
    State(gw): State<Arc<Gateway>>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<AuditView>>, Problem> {
    let limit = page.limit()?;
    let before = page.cursor().map(str::parse::<u64>).transpose();
    let before = before.map_err(|_| Problem::invalid_query("`cursor` must be `next` of a page"))?;
    let store = gw.stored.store()?;
    let read = store.audit_log(before, limit + 1).await;
    let mut records = gw.note_store(Access::Read, read)?;
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| has_more);
    Ok(Json(Page {
        next: next.map(|record| record.id.to_string()),
        items: records.into_iter().map(AuditView::from).collect(),
    }))
}
