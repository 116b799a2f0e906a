//! `/healthz` and `/readyz`, for load balancers and supervisors: they need no token.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use keypool_core::pool::KeyState;
use serde_json::json;

use crate::context::Gateway;

/// What the client may see.
#[derive(Clone, Copy)]
pub(super) struct Access {
    /// The request has the admin token.
    pub(super) is_admin: bool,
}

pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(json!({ "status": "alive" }))
}

/// 200 from start-up until shutdown begins. Problems with keys, with the limiter and with the store are reported in the body and do
/// not change the status: taking a node out of rotation would repair neither.
pub(super) async fn ready(
    State(gw): State<Arc<Gateway>>,
    Extension(access): Extension<Access>,
) -> Response {
    if gw.is_shutting_down() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "shutting_down" })),
        )
            .into_response();
    }
    let snapshot = gw.snapshot();
    let mut without_keys = Vec::new();
    for entry in &snapshot.pools {
        let usable = |state| matches!(state, KeyState::Active | KeyState::Cooling);
        if !entry.pool.report().iter().any(|key| usable(key.state)) {
            without_keys.push(entry.pool.name().to_string());
        }
    }
    let limiter_is_degraded = gw.limits.is_degraded();
    let store_is_degraded = gw.stored.is_degraded();
    let degraded = !without_keys.is_empty()
        || snapshot.pools.is_empty()
        || limiter_is_degraded
        || store_is_degraded;
    let mut body = json!({ "status": "ready", "degraded": degraded });
    if access.is_admin {
        body["pools_without_a_usable_key"] = json!(without_keys);
        body["limiter_is_degraded"] = json!(limiter_is_degraded);
        body["store_is_degraded"] = json!(store_is_degraded);
    }
    Json(body).into_response()
}
