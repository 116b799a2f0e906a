//! One attempt: the call is sent in the key's form. [`ResponseReader`] reads the response.

use keypool_core::pool::Lease;
use tokio::time::timeout_at;

use super::attempts::RequestTime;
use super::forward_proxy;
use super::read::ResponseReader;
use super::response::{AttemptResult, Failure, no_response};
use super::time::AttemptTime;
use crate::context::Gateway;
use crate::prebuilt_headers::KeyHeaders;
use crate::proxy::headers::forwarded;
use crate::proxy::inbound::Call;
use crate::proxy::routing::PoolTarget;
use crate::upstream::UpstreamRequest;

/// Sends the call with the key of `lease`, and reads its response so far that it is known what it means.
pub(crate) async fn send(
    gw: &Gateway,
    call: &Call<'_>,
    target: &PoolTarget,
    lease: &Lease,
    request: RequestTime,
) -> AttemptResult {
    let deadline = request.deadline;
    let timeouts = lease.keys().settings().timeouts;
    let began = gw.clock.now();
    let first_byte_by = if call.wants_stream {
        deadline.min(began + timeouts.first_byte)
    } else {
        deadline
    };
    let limit = first_byte_by.saturating_duration_since(began);
    let time = AttemptTime {
        first_byte_by,
        limit,
        is_remainder: first_byte_by == deadline && limit * 2 < request.total,
        deadline,
        idle: timeouts.idle,
    };
    let build = || build_request(call, target, lease);
    let (base_url, proxy) = (&lease.member().base_url, lease.member().proxy.as_ref());
    let sending = gw
        .upstream
        .send(base_url, proxy, &build, timeouts.connect, call.repeatable);
    let response = match timeout_at(first_byte_by.into(), sending).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let blames_key = !error.is_local();
            return AttemptResult::Failed(Failure::NoResponse { error, blames_key });
        }
        Err(_) => return time.out(),
    };
    let secret = lease.member().key.secret.expose();
    if let Some(error) = forward_proxy::response_of_proxy(&response, base_url, proxy, secret) {
        return no_response(error);
    }
    let reader = ResponseReader {
        gw,
        call,
        target,
        lease,
        time,
    };
    reader.read(response).await
}

/// The request as this key's provider takes it. `None` if the configuration allowed a value that no request can carry.
fn build_request<'a>(
    call: &'a Call<'_>,
    target: &'a PoolTarget,
    lease: &'a Lease,
) -> Option<UpstreamRequest<'a>> {
    let (entry, member, protocol) = (&target.entry, lease.member(), call.protocol());
    let model = if target.model.is_empty() {
        &target.model
    } else {
        lease.model()
    };
    let key = KeyHeaders::of(member)?;
    let path = entry.upstream_path_and_query(
        member,
        protocol,
        &call.path_for(model),
        call.query.as_deref(),
    );
    let mut headers = forwarded(call.headers, entry.dialect);
    headers.push(key.credential(protocol)?);
    let body = call.body_for(member, model, entry.dialect);
    UpstreamRequest::new(call.method, path, key.host.as_ref()?, headers, body)
}
