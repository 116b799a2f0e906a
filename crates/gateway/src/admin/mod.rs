//! The admin API and the health checks. Everything under `/api` and `/metrics` requires the admin token.

mod config;
mod health;
mod keys;
mod problem;
mod stats;
mod token;
mod traces;
mod ui;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::context::Gateway;
use crate::proxy::OutBody;
use problem::Problem;
use token::Guard;

/// The admin plane: a router behind a token.
pub(crate) struct Admin {
    gw: Arc<Gateway>,
    guard: Guard,
    router: Router,
}

impl Admin {
    /// The admin plane of `gw`.
    pub(crate) fn new(gw: Arc<Gateway>) -> Self {
        let router = Router::new()
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/ui/", get(ui::page))
            .route("/ui", get(ui::page))
            .route("/api/keys/stats", get(stats::stats))
            .route(
                "/api/v1/admin/pools/{pool}/keys/{name}/reset",
                post(keys::reset),
            )
            .route("/api/v1/admin/traces", get(traces::newest))
            .route("/api/v1/admin/config/reload", post(config::reload))
            .fallback(|| async { Problem::not_found() })
            .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
            .with_state(Arc::clone(&gw));
        Self {
            guard: Guard::new(gw.admin_token),
            gw,
            router,
        }
    }

    /// Whether a path belongs to the admin plane.
    pub(crate) fn serves(path: &str) -> bool {
        let first = path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        matches!(first, "api" | "metrics" | "healthz" | "readyz" | "ui")
    }

    /// Responds to one request.
    pub(crate) async fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<OutBody> {
        let needs_token = !matches!(
            request.uri().path(),
            "/healthz" | "/readyz" | "/ui" | "/ui/" | "/api/v1/openapi.json"
        );
        let is_admin = self
            .guard
            .check(&*self.gw.clock, peer.ip(), request.headers())
            .await;
        if needs_token && !is_admin {
            return Problem::unauthorized().into_response().map(OutBody::Admin);
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(health::Access { is_admin });
        match self.router.clone().oneshot(request).await {
            Ok(response) => response.map(OutBody::Admin),
            Err(never) => match never {},
        }
    }
}
