//! What operators do to a key wherever it was configured: reset, enable, disable, check.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use keypool_core::clock::Moment;
use keypool_core::fault::Class;
use keypool_core::pool::MemberRef;
use keypool_core::store::{KeyStateChange, MarksChange};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Names, Source};
use super::key_view::KeyView;
use super::keys::{no_key, respond, target};
use super::openapi::ReadProblems;
use super::pools::no_pool;
use super::problem::Problem;
use crate::checks;
use crate::context::Gateway;
use crate::key_checks::CheckResult;

use crate::snapshot::PoolEntry;

fn find(gw: &Gateway, pool: &str, name: &str) -> Result<(Arc<PoolEntry>, MemberRef), Problem> {
    let snapshot = gw.snapshot();
    let entry = snapshot.pool(pool).ok_or_else(|| no_pool(pool))?;
    let member = entry.pool.member(name).ok_or_else(|| no_key(pool, name))?;
    Ok((Arc::clone(entry), member))
}

/// One action that changes the state of a key.
struct Action {
    name: &'static str,
    disabled: Option<bool>,
    marks: MarksChange,
}

async fn act(
    gw: &Arc<Gateway>,
    (pool, name): (&str, &str),
    source: Source,
    action: Action,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let (entry, member) = find(gw, pool, name)?;
    let change = KeyStateChange {
        key: (&member.key.id).into(),
        disabled: action.disabled,
        marks: action.marks,
        quota: None,
    };
    let audit = audit::entry(gw, source, action.name, target(pool, name), &json!({}));
    gw.change_key_states(std::slice::from_ref(&change), Some(&audit))
        .await?;
    if let Some(disabled) = action.disabled {
        member.set_disabled(disabled);
    }
    gw.apply_marks(&entry, &member, action.marks);
    let now = gw.clock.wall();
    gw.stored.records.change(&change.key, now, |record| {
        record.disabled = member.is_disabled();
    });
    respond(gw, pool, name, StatusCode::OK)
}

/// Clears the cooldowns of a key and its quota group, and the marks `exhausted` and `invalid`.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys/{name}/reset", operation_id = "reset_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 200, body = KeyView), ReadProblems))]
pub(super) async fn reset(
    State(gw): State<Arc<Gateway>>,
    Names((pool, name)): Names<(String, String)>,
    source: Source,
) -> Result<Response, Problem> {
    let action = Action {
        name: "key.reset",
        disabled: None,
        marks: MarksChange::Cleared,
    };
    act(&gw, (&pool, &name), source, action).await
}

/// Switches a key on again.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys/{name}/enable", operation_id = "enable_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 200, body = KeyView), ReadProblems))]
pub(super) async fn enable(
    State(gw): State<Arc<Gateway>>,
    Names((pool, name)): Names<(String, String)>,
    source: Source,
) -> Result<Response, Problem> {
    let action = Action {
        name: "key.enable",
        disabled: Some(false),
        marks: MarksChange::Keep,
    };
    act(&gw, (&pool, &name), source, action).await
}

/// Switches a key off: it takes no further calls. Calls in flight go on.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys/{name}/disable", operation_id = "disable_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 200, body = KeyView), ReadProblems))]
pub(super) async fn disable(
    State(gw): State<Arc<Gateway>>,
    Names((pool, name)): Names<(String, String)>,
    source: Source,
) -> Result<Response, Problem> {
    let action = Action {
        name: "key.disable",
        disabled: Some(true),
        marks: MarksChange::Keep,
    };
    act(&gw, (&pool, &name), source, action).await
}

/// What a call that costs nothing says about a key.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyCheck)]
pub(super) struct CheckView {
    /// The pool's name.
    pool: String,
    /// The key's name.
    name: String,
    /// Whether the provider accepts the key; null: it could not be found out.
    #[schema(required)]
    works: Option<bool>,
    /// Why not, or why it could not be found out, as a code; null if the key works.
    #[schema(required)]
    error: Option<String>,
    /// The state of the key now.
    state: &'static str,
    /// How long the call took, in milliseconds.
    duration_ms: u64,
}

/// Makes one real call that costs nothing, to find out whether the key works. A key that works is no longer invalid; one
/// that the provider rejects is.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys/{name}/check", operation_id = "check_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 200, body = CheckView), ReadProblems))]
pub(super) async fn check(
    State(gw): State<Arc<Gateway>>,
    Names((pool, name)): Names<(String, String)>,
    source: Source,
) -> Result<Json<CheckView>, Problem> {
    let (entry, member) = find(&gw, &pool, &name)?;
    let began = gw.clock.now();
    let audit = audit::entry(&gw, source, "key.check", target(&pool, &name), &json!({}));
    let result = checks::check_key(&gw, &entry, &member, Some(&audit)).await?;
    let took = gw.clock.now().saturating_duration_since(began);
    gw.apply_check(&entry, &member, &result, Some(&audit))
        .await?;
    let (works, error) = match result {
        CheckResult::Works => (Some(true), None),
        CheckResult::Rejected => (Some(false), Some(Class::Rejected.as_str().to_owned())),
        CheckResult::Unknown(reason) => (None, Some((*reason).to_owned())),
    };
    Ok(Json(CheckView {
        state: member.report(&Moment::of(&*gw.clock)).state.as_str(),
        pool,
        name,
        works,
        error,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    }))
}
