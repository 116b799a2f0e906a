//! `/healthz` and `/readyz`: for load balancers and supervisors, without a token.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use keypool_core::pool::KeyState;
use serde_json::json;

use crate::context::Gateway;

/// Whether whoever asks has shown the admin token, and may see details.
#[derive(Clone, Copy)]
pub(super) struct Detail {
    pub(super) known: bool,
}

pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(json!({ "status": "alive" }))
}

/// 200 from start-up until shutdown begins. Trouble with keys stands in the body and does not change the status:
/// taking a node out of the balancer would not mend a key.
pub(super) async fn ready(
    State(gw): State<Arc<Gateway>>,
    Extension(detail): Extension<Detail>,
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
    let degraded = !without_keys.is_empty() || snapshot.pools.is_empty();
    let mut body = json!({ "status": "ready", "degraded": degraded });
    if detail.known {
        body["pools_without_a_usable_key"] = json!(without_keys);
    }
    Json(body).into_response()
}
