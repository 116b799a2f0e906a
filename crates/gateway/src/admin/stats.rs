//! `GET /api/keys/stats`: the state and the counters of each key.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::key_view::{KeyStats, KnownKeys};
use super::openapi::ReadProblems;
use crate::context::Gateway;

/// The statistics of all keys, by pool and name.
#[utoipa::path(get, path = "/api/keys/stats", operation_id = "key_stats", tag = "keys",
    responses((status = 200, body = BTreeMap<String, BTreeMap<String, KeyStats>>), ReadProblems))]
pub(super) async fn stats(
    State(gw): State<Arc<Gateway>>,
) -> Json<BTreeMap<String, BTreeMap<String, KeyStats>>> {
    let catalog = gw.stored.catalog();
    let known = KnownKeys::of(&gw, catalog.as_deref());
    let snapshot = gw.snapshot();
    let pools = snapshot.pools.iter().map(|entry| {
        let name = entry.pool.name();
        let keys = entry.pool.keys();
        let stats = keys
            .all()
            .map(|member| (member.name.to_string(), known.stats(name, &member)));
        (name.to_string(), stats.collect())
    });
    Json(pools.collect())
}
