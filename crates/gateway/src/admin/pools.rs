//! `pools` and `pools/{pool}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::ETAG;
use keypool_core::pool::KeyState;
use keypool_core::settings::{PoolSettings, STORE};
use keypool_core::store::{Catalog, Change, StoredPool};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Condition, Fields, Names, Params, Source, etag};
use super::format::rfc3339;
use super::openapi::{ChangeProblems, ReadProblems};
use super::page::{Page, PageParams};
use super::problem::Problem;
use crate::context::Gateway;
use crate::resources::{KeyFields, PoolFields};
use crate::snapshot::{PoolEntry, Snapshot};
use crate::stored::{Resource, surroundings};

/// Maximum number of names in a message.
const MAX_NAMED: usize = 10;

/// A pool.
#[derive(Serialize, ToSchema)]
#[schema(as = Pool)]
pub(super) struct PoolView {
    /// Its name.
    #[schema(example = "openai")]
    name: String,
    /// Where it comes from, and so where it is changed: the configuration file's name, `environment` or `store`.
    source: String,
    /// Why a stored pool is not in effect, as a code; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<&'static str>,
    /// When it was created; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it was last changed; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    updated_at: Option<String>,
    #[serde(flatten)]
    fields: PoolFields,
    /// Its keys.
    keys: KeyCountsView,
}

/// How many keys are in which state.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = KeyCounts)]
struct KeyCountsView {
    /// All of them.
    total: usize,
    /// Those that could take a request now.
    available: usize,
    /// By state.
    active: usize,
    cooling: usize,
    exhausted: usize,
    invalid: usize,
    disabled: usize,
}

impl KeyCountsView {
    fn of(entry: &PoolEntry) -> Self {
        let mut counts = Self::default();
        for key in entry.pool.report() {
            counts.total += 1;
            counts.available += usize::from(key.is_available);
            *match key.state {
                KeyState::Active => &mut counts.active,
                KeyState::Cooling => &mut counts.cooling,
                KeyState::Exhausted => &mut counts.exhausted,
                KeyState::Invalid => &mut counts.invalid,
                KeyState::Disabled => &mut counts.disabled,
            } += 1;
        }
        counts
    }
}

impl PoolView {
    fn of(gw: &Gateway, entry: &PoolEntry) -> Self {
        let keys = entry.pool.keys();
        let settings = keys.settings();
        let catalog = gw.stored.catalog();
        let stored = catalog.as_ref().filter(|_| &*settings.source == STORE);
        let stored = stored.and_then(|catalog| find(catalog, &settings.name));
        Self {
            name: settings.name.to_string(),
            source: settings.source.to_string(),
            inactive: None,
            created_at: stored.map(|pool| rfc3339(pool.created_at)),
            updated_at: stored.map(|pool| rfc3339(pool.updated_at)),
            fields: PoolFields::of(settings),
            keys: KeyCountsView::of(entry),
        }
    }

    /// A stored pool that is not in effect.
    fn inactive(pool: &StoredPool, reason: &'static str) -> Self {
        Self {
            name: pool.name.to_string(),
            source: STORE.to_owned(),
            inactive: Some(reason),
            created_at: Some(rfc3339(pool.created_at)),
            updated_at: Some(rfc3339(pool.updated_at)),
            fields: serde_json::from_str(&pool.settings).unwrap_or_default(),
            keys: KeyCountsView::default(),
        }
    }
}

/// The stored pool of that name.
pub(super) fn find<'c>(catalog: &'c Catalog, name: &str) -> Option<&'c StoredPool> {
    catalog.pools.iter().find(|pool| &*pool.name == name)
}

/// The settings of a pool in effect.
pub(super) fn settings(snapshot: &Snapshot, name: &str) -> Option<Arc<PoolSettings>> {
    let mut pools = snapshot.settings.pools.iter();
    pools.find(|pool| &*pool.name == name).cloned()
}

/// The problem that no pool has this name.
pub(super) fn no_pool(name: &str) -> Problem {
    Problem::missing(format!("there is no pool \"{name}\""))
}

/// The pools, by name.
#[utoipa::path(get, path = "/api/v1/admin/pools", operation_id = "list_pools", tag = "pools", params(PageParams),
    responses((status = 200, body = Page<PoolView>), ReadProblems))]
pub(super) async fn list(
    State(gw): State<Arc<Gateway>>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<PoolView>>, Problem> {
    let snapshot = gw.snapshot();
    let catalog = gw.stored.catalog();
    let inactive = gw.stored.inactive();
    let shadowed = inactive.iter().filter_map(|one| {
        let Resource::Pool(name) = &one.resource else {
            return None;
        };
        // A declared pool of the same name is listed instead.
        let is_listed = snapshot.pool(name).is_some();
        let pool = find(catalog.as_ref()?, name).filter(|_| !is_listed)?;
        Some((
            name.to_string(),
            PoolView::inactive(pool, one.reason.code()),
        ))
    });
    let pools = snapshot
        .pools
        .iter()
        .map(|entry| (entry.pool.name().to_string(), Ok(entry)));
    let all = pools
        .chain(shadowed.map(|(name, view)| (name, Err(view))))
        .collect();
    let show = |pool: Result<&Arc<PoolEntry>, PoolView>| match pool {
        Ok(entry) => PoolView::of(&gw, entry),
        Err(view) => view,
    };
    page.of(all, show).map(Json)
}

/// One pool.
#[utoipa::path(get, path = "/api/v1/admin/pools/{pool}", operation_id = "get_pool", tag = "pools",
    params(("pool" = String, Path, description = "The pool's name.")),
    responses((status = 200, body = PoolView), ReadProblems))]
pub(super) async fn get(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
) -> Result<Response, Problem> {
    respond(&gw, &name, StatusCode::OK)
}

fn respond(gw: &Gateway, name: &str, status: StatusCode) -> Result<Response, Problem> {
    let snapshot = gw.snapshot();
    let catalog = gw.stored.catalog();
    let stored = catalog.as_ref().and_then(|catalog| find(catalog, name));
    let view = match (snapshot.pool(name), stored) {
        (Some(entry), _) => PoolView::of(gw, entry),
        (None, Some(pool)) => {
            let inactive = gw.stored.inactive();
            let resource = Resource::Pool(Arc::clone(&pool.name));
            let reason = inactive.iter().find(|one| one.resource == resource);
            PoolView::inactive(pool, reason.map_or("not_applied", |one| one.reason.code()))
        }
        (None, None) => return Err(no_pool(name)),
    };
    let version = stored
        .filter(|_| view.source == STORE)
        .map(|pool| pool.version);
    let mut response = (status, Json(view)).into_response();
    if let Some(version) = version {
        response.headers_mut().insert(ETAG, etag(version));
    }
    Ok(response)
}

/// Creates a pool, or replaces the settings of a stored one. Its keys stay.
#[utoipa::path(put, path = "/api/v1/admin/pools/{pool}", operation_id = "put_pool", tag = "pools",
    params(("pool" = String, Path, description = "The pool's name.")), request_body = PoolFields,
    responses((status = 200, body = PoolView), (status = 201, body = PoolView), ChangeProblems))]
pub(super) async fn put(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
    condition: Condition,
    Fields(fields): Fields<PoolFields>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let catalog = gw.stored.for_change()?;
    refuse_declared(&gw, &name)?;
    let stored = find(&catalog, &name);
    let expected = condition.expect(stored.map(|pool| pool.version))?;
    let declared = gw.declared();
    let around = surroundings(&declared);
    let name: Arc<str> = name.into();
    let settings = fields.settings(&name, around).map_err(Problem::invalid)?;
    let unbound = unbound_keys(&catalog, &settings, &declared);
    if !unbound.is_empty() {
        return Err(Problem::conflict(
            "secret_required",
            format!(
                "the secrets of {} were set for another base URL or proxy, and are not sent elsewhere: give these keys a `base_url` of their own, or delete them and add them again",
                unbound.join(", ")
            ),
        ));
    }
    let json = serde_json::to_string(&fields).map_err(|_| Problem::internal())?;
    let (action, status) = match stored {
        Some(_) => ("pool.replace", StatusCode::OK),
        None => ("pool.create", StatusCode::CREATED),
    };
    let details = json!({ "settings": fields });
    let entry = audit::entry(&gw, source, action, format!("pools/{name}"), &details);
    let change = Change::PutPool {
        name: Arc::clone(&name),
        settings: json,
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    respond(&gw, &name, status)
}

/// Deletes a stored pool and its keys. Calls in flight go on.
#[utoipa::path(delete, path = "/api/v1/admin/pools/{pool}", operation_id = "delete_pool", tag = "pools",
    params(("pool" = String, Path, description = "The pool's name.")),
    responses((status = 204), ChangeProblems))]
pub(super) async fn delete(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
    condition: Condition,
) -> Result<StatusCode, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    refuse_declared(&gw, &name)?;
    let catalog = gw.stored.for_change()?;
    let stored = find(&catalog, &name).ok_or_else(|| no_pool(&name))?;
    let expected = condition.expect(Some(stored.version))?;
    let keys = catalog.keys.iter().filter(|key| *key.pool == *name).count();
    let details = json!({ "keys": keys });
    let entry = audit::entry(
        &gw,
        source,
        "pool.delete",
        format!("pools/{name}"),
        &details,
    );
    let change = Change::DeletePool {
        name: name.into(),
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn refuse_declared(gw: &Gateway, name: &str) -> Result<(), Problem> {
    let declared = gw.declared();
    let mut pools = declared.pools.iter();
    match pools.find(|pool| &*pool.name == name) {
        Some(pool) => Err(Problem::declared(
            &format!("the pool \"{name}\""),
            &pool.source,
        )),
        None => Ok(()),
    }
}

/// The names of the stored keys of a pool whose secret may not be sent to where these settings lead.
fn unbound_keys(
    catalog: &Catalog,
    settings: &PoolSettings,
    declared: &crate::settings::Settings,
) -> Vec<String> {
    let around = surroundings(declared);
    let keys = catalog.keys.iter().filter(|key| key.pool == settings.name);
    let unbound = keys.filter(|key| {
        let fields: KeyFields = serde_json::from_str(&key.settings).unwrap_or_default();
        let place = fields.place(settings, around, &mut Vec::new());
        place.is_none_or(|place| place.binding != key.bound_to)
    });
    let names = unbound
        .take(MAX_NAMED)
        .map(|key| format!("\"{}\"", key.name));
    names.collect()
}
