//! Keys in their pools: clearing cooldowns and other marks.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use keypool_core::clock::Moment;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::context::Gateway;

/// `POST /api/v1/admin/pools/{pool}/keys/{name}/reset`: clears everything that prevents the key from serving.
pub(super) async fn reset(
    State(gw): State<Arc<Gateway>>,
    Path((pool, name)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let snapshot = gw.snapshot();
    let missing = |what: String| Problem::new(StatusCode::NOT_FOUND, "not_found", what);
    let entry = snapshot
        .pool(&pool)
        .ok_or_else(|| missing(format!("there is no pool \"{pool}\"")))?;
    let key = entry
        .pool
        .member(&name)
        .ok_or_else(|| missing(format!("there is no key \"{name}\" in pool \"{pool}\"")))?;
    key.reset();
    let state = key.report(&Moment::of(&*gw.clock)).state.as_str();
    Ok(Json(json!({ "pool": pool, "name": name, "state": state })))
}
