//! Model lists: what the caller may call by a protocol, from the pools' own names and from what providers list.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use keypool_core::pattern;
use keypool_core::pool::{KeyReport, KeyState};
use keypool_providers::protocol::{self, ListedModel, ModelsCall};
use percent_encoding::percent_decode_str;
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::inbound::{Caller, MatchedEndpoint};
use super::routing::is_callable;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::free_call;
use crate::settings::RouteSettings;
use crate::snapshot::{PoolEntry, Snapshot};

/// A provider that takes longer is left out.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one key may take, so that another one can be asked.
const KEY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a list is cached.
const KEEP: Duration = Duration::from_secs(300);
/// How long it takes until a provider that failed is asked again.
const KEEP_FAILED: Duration = Duration::from_secs(30);
/// Maximum number of keys with which one list is requested.
const MAX_KEYS_ASKED: usize = 6;

pub(super) async fn list(
    gw: &Gateway,
    snapshot: &Snapshot,
    endpoint: &MatchedEndpoint<'_>,
    call: &ModelsCall,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let asked = |entry: &&Arc<PoolEntry>| match endpoint.pool {
        Some(named) => named.pool.name() == entry.pool.name(),
        None => true,
    };
    let speaking = snapshot
        .pools
        .iter()
        .filter(|entry| entry.speaks(endpoint.protocol));
    let pools = speaking
        .filter(asked)
        .filter(|entry| caller.may_use_pool(entry));
    // All providers are asked at once, so that the slowest one decides and not the sum. Each is asked whatever the
    // task's coop budget: there are few.
    let asking: Vec<_> = pools
        .map(|entry| unconstrained(models_of(gw, entry)))
        .collect();
    let mut models: Vec<ListedModel> = routes(snapshot, endpoint, caller);
    for listed in join_all(asking).await {
        for model in listed {
            if caller.may_use_model(&model.id) && !models.iter().any(|known| known.id == model.id) {
                models.push(model);
            }
        }
    }
    let body = match call {
        ModelsCall::List => protocol::model_list(endpoint.protocol, &models),
        ModelsCall::One(range) => {
            let id = percent_decode_str(&endpoint.path[range.clone()]).decode_utf8_lossy();
            let Some(model) = models.iter().find(|model| model.id == id) else {
                let message = format!(
                    "there is no model \"{id}\" here, or not for this caller; the list says which there are"
                );
                return Err(GatewayError::new(Kind::ModelNotFound, message));
            };
            protocol::model_object(endpoint.protocol, model)
        }
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The routes that the caller may call by the protocol; none if the path names a pool.
fn routes(
    snapshot: &Snapshot,
    endpoint: &MatchedEndpoint<'_>,
    caller: &Caller,
) -> Vec<ListedModel> {
    let usable = |route: &&RouteSettings| {
        endpoint.pool.is_none() && is_callable(snapshot, endpoint.protocol, route, caller)
    };
    let routes = snapshot.settings.routes.iter().filter(usable);
    routes.map(|route| named(&route.model, "keypool")).collect()
}

/// A model of which only the name is known.
fn named(id: &str, owner: &str) -> ListedModel {
    ListedModel {
        id: id.to_owned(),
        owned_by: owner.to_owned(),
        created: 0,
        display_name: None,
    }
}

/// The names that the operator configured, and those of the provider's list that the pool's patterns match.
async fn models_of(gw: &Gateway, entry: &PoolEntry) -> Vec<ListedModel> {
    let usual = entry.dialect.default_models;
    let is_own = |model: &&String| !pattern::is_pattern(model) && !usual.contains(&model.as_str());
    let mut models: Vec<ListedModel> = entry
        .models
        .iter()
        .filter(is_own)
        .map(|model| named(model, entry.pool.provider()))
        .collect();
    if models.len() < entry.models.len() {
        let serves = |listed: &ListedModel| pattern::any_matches(&entry.models, &listed.id);
        models.extend(provider_list(gw, entry).await.into_iter().filter(serves));
    }
    models
}

async fn provider_list(gw: &Gateway, entry: &PoolEntry) -> Vec<ListedModel> {
    let list = gw.model_lists.of(entry.pool.name());
    let mut kept = list.lock().await;
    let now = gw.clock.now();
    if let Some((_, models)) = kept.as_ref().filter(|(until, _)| *until > now) {
        return models.clone();
    }
    let asked = timeout(LIST_TIMEOUT, ask(gw, entry)).await.ok().flatten();
    let keep = if asked.is_some() { KEEP } else { KEEP_FAILED };
    let models = asked
        .or_else(|| kept.take().map(|(_, models)| models))
        .unwrap_or_default();
    *kept = Some((gw.clock.now() + keep, models.clone()));
    models
}

/// Asks the provider, with one key after the other until one gets the list. The outcome counts for no key.
async fn ask(gw: &Gateway, entry: &PoolEntry) -> Option<Vec<ListedModel>> {
    entry.dialect.list_models?;
    let reports = entry.pool.report();
    let may_serve =
        |report: &KeyReport| matches!(report.state, KeyState::Active | KeyState::Cooling);
    let mut order: Vec<usize> = (0..reports.len())
        .filter(|index| may_serve(&reports[*index]))
        .collect();
    order.sort_by_key(|index| !reports[*index].is_available);
    let keys = entry.pool.keys();
    for index in order.into_iter().take(MAX_KEYS_ASKED) {
        let member = keys.member(index)?;
        let asking = free_call::list_models(gw, entry, &member);
        if let Ok(Ok(models)) = timeout(KEY_TIMEOUT, asking).await {
            return Some(models);
        }
    }
    None
}
