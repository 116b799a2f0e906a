//! `POST /api/v1/admin/config/reload`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::problem::Problem;
use crate::context::Gateway;
use crate::reload::Changes;

pub(super) async fn reload(State(gw): State<Arc<Gateway>>) -> Result<Json<Changes>, Problem> {
    // Reads files: off the tasks that serve requests.
    let reloading = tokio::task::spawn_blocking(move || gw.reload()).await;
    let refused = |errors: Vec<String>| {
        let detail = "the configuration has mistakes; the old one stays in force";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_config", detail).with_errors(errors)
    };
    let failed = |_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the reload broke off; the log has the details",
        )
    };
    reloading.map_err(failed)?.map(Json).map_err(refused)
}
