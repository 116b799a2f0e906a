//! `POST /api/v1/admin/config/reload`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::openapi::ReadProblems;
use super::problem::Problem;
use crate::context::Gateway;
use crate::reload::Changes;

/// Reads the configuration again and applies it.
#[utoipa::path(post, path = "/api/v1/admin/config/reload", operation_id = "reload", tag = "configuration",
    responses((status = 200, body = Changes), (status = 422, body = super::problem::ProblemDocument,
        content_type = "application/problem+json", description = "The configuration has mistakes. The old one stays."), ReadProblems))]
pub(super) async fn reload(State(gw): State<Arc<Gateway>>) -> Result<Json<Changes>, Problem> {
    // Blocking, because it reads files: kept off the tasks that serve requests.
    let reloading = tokio::task::spawn_blocking(move || gw.reload()).await;
    let refused = |errors: Vec<String>| {
        let detail = "the configuration has mistakes; the old one remains in use";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_config", detail).with_errors(errors)
    };
    let failed = |_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the reload failed unexpectedly; the log has the details",
        )
    };
    reloading.map_err(failed)?.map(Json).map_err(refused)
}
