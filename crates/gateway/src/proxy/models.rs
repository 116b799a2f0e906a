//! Model lists: what the caller may call by a protocol, from the pools' own names and from what providers list.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body::Body;
use http_body_util::BodyExt;
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
use crate::prebuilt_headers::KeyHeaders;
use crate::settings::RouteSettings;
use crate::snapshot::{PoolEntry, Snapshot};
use crate::upstream::{RequestBody, UpstreamRequest};

/// A provider that takes longer is left out.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a list is cached.
const KEEP: Duration = Duration::from_secs(300);
/// How long it takes until a provider that failed is asked again.
const KEEP_FAILED: Duration = Duration::from_secs(15);
/// Maximum size of a provider's list, in bytes.
const MAX_LIST: usize = 8 << 20;

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

/// Asks the provider with the first key that is available. The outcome counts for no key.
async fn ask(gw: &Gateway, entry: &PoolEntry) -> Option<Vec<ListedModel>> {
    let dialect = entry.dialect;
    let list = dialect.list_models?;
    let reports = entry.pool.report();
    let may_serve =
        |report: &KeyReport| matches!(report.state, KeyState::Active | KeyState::Cooling);
    let available = reports.iter().position(|report| report.is_available);
    let index = available.or_else(|| reports.iter().position(may_serve))?;
    let mut headers = HeaderMap::new();
    for (name, value) in list.headers {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("keypool/", env!("CARGO_PKG_VERSION"))),
    );
    let keys = entry.pool.keys();
    let member = keys.members().get(index)?;
    let (method, protocol) = (Method::GET, dialect.protocols[0]);
    let query = Some(list.query).filter(|query| !query.is_empty());
    let build = || {
        let key = KeyHeaders::of(member)?;
        let mut headers: Vec<_> = headers.iter().collect();
        headers.push(key.credential(protocol)?);
        let target = entry.upstream_path_and_query(member, protocol, list.path, query);
        let body = RequestBody::default();
        UpstreamRequest::new(&method, target, key.host.as_ref()?, headers, body)
    };
    let (base_url, proxy) = (&member.base_url, member.proxy.as_ref());
    let connect = keys.settings().timeouts.connect;
    let sending = gw.upstream.send(base_url, proxy, &build, connect, true);
    let response = sending.await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let body = read_whole(response.into_body(), MAX_LIST).await?;
    dialect.parse_models(&body)
}

/// A body of at most `limit` bytes, in one buffer: a provider may send it byte by byte, and keeping each piece would take
/// many times its length. `None` if it is longer, or broke off.
async fn read_whole<B>(body: B, limit: usize) -> Option<Vec<u8>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut body = body;
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.ok()?.into_data() else {
            continue;
        };
        if piece.len() > limit - whole.len() {
            return None;
        }
        whole.extend_from_slice(&piece);
        tokio::task::coop::consume_budget().await;
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// This number of bytes, one by one.
    struct OneByOne(usize);

    impl Body for OneByOne {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.0.checked_sub(1) else {
                return Poll::Ready(None);
            };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn a_list_in_tiny_pieces_becomes_one_buffer_within_its_limit() {
        let whole = read_whole(OneByOne(100_000), 100_000).await.unwrap();
        assert_eq!(whole, [b'x'].repeat(100_000));
        assert!(whole.capacity() <= 2 * whole.len(), "{}", whole.capacity());
        assert_eq!(read_whole(OneByOne(100_001), 100_000).await, None);
        assert_eq!(read_whole(OneByOne(0), 0).await, Some(Vec::new()));
    }
}
