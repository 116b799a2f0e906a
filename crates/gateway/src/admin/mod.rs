//! The admin API and the health checks. Everything under `/api` and `/metrics` requires the admin token.

mod audit;
mod config;
mod extract;
mod format;
mod health;
mod import;
mod import_format;
mod jobs;
mod key_actions;
mod key_view;
mod keys;
mod openapi;
mod page;
mod pools;
mod problem;
mod quota;
mod stats;
mod token;
mod traces;
mod ui;
mod usage;
mod virtual_key_secrets;
mod virtual_keys;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::Gateway;
use crate::proxy::OutBody;
use extract::Source;
use problem::Problem;
use token::Guard;

/// The admin plane: a router behind a token.
pub(crate) struct Admin {
    gw: Arc<Gateway>,
    guard: Guard,
    router: Router,
}

/// The routes that the OpenAPI document describes.
fn documented() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(stats::stats))
        .routes(routes!(pools::list))
        .routes(routes!(pools::get, pools::put, pools::delete))
        .routes(routes!(keys::list, keys::add))
        .routes(routes!(import::import))
        .routes(routes!(keys::get, keys::update, keys::delete))
        .routes(routes!(key_actions::reset))
        .routes(routes!(key_actions::enable))
        .routes(routes!(key_actions::disable))
        .routes(routes!(key_actions::check))
        .routes(routes!(quota::refresh_pool))
        .routes(routes!(quota::refresh_tavily))
        .routes(routes!(virtual_keys::list, virtual_keys::create))
        .routes(routes!(
            virtual_keys::get,
            virtual_keys::update,
            virtual_keys::delete
        ))
        .routes(routes!(virtual_keys::rotate))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::cancel))
        .routes(routes!(usage::usage))
        .routes(routes!(audit::list))
        .routes(routes!(traces::newest))
        .routes(routes!(config::reload))
}

/// The OpenAPI 3.1 document of the admin API, as JSON.
pub fn openapi_document() -> String {
    let (_, document) = documented().split_for_parts();
    document.to_pretty_json().unwrap_or_default() + "\n"
}

impl Admin {
    /// The admin plane of `gw`.
    pub(crate) fn new(gw: Arc<Gateway>) -> Self {
        let (routes, document) = documented().split_for_parts();
        let router = routes
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/ui/", get(ui::page))
            .route("/ui", get(ui::page))
            .route("/api/v1/openapi.json", openapi::route(&document))
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
        let path = request.uri().path();
        // Where a token changes nothing, a wrong one delays nothing.
        let is_open = matches!(path, "/healthz" | "/ui" | "/ui/" | "/api/v1/openapi.json");
        let needs_token = !is_open && path != "/readyz";
        let clock = &*self.gw.clock;
        let is_admin = !is_open && self.guard.check(clock, peer.ip(), request.headers()).await;
        if needs_token && !is_admin {
            return Problem::unauthorized().into_response().map(OutBody::Pieces);
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(health::Access { is_admin });
        request.extensions_mut().insert(Source(peer.ip()));
        let is_read = request.method().is_safe();
        let answering = self.router.clone().oneshot(request);
        // A change is made and applied as a whole, even if the client leaves meanwhile.
        let answered = match is_read {
            true => answering.await,
            false => match self.gw.tasks.spawn(answering).await {
                Ok(answered) => answered,
                Err(_) => Ok(Problem::internal().into_response()),
            },
        };
        match answered {
            Ok(response) => response.map(OutBody::Pieces),
            Err(never) => match never {},
        }
    }
}
