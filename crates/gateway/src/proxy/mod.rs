//! The life of a client request on the data plane. Read [`handle`] first, then [`run`].

mod attempt;
mod batches;
mod headers;
mod inbound;
mod jobs;
mod log;
mod models;
mod objects;
mod origin;
mod own;
mod own_answer;
mod relay;
mod reservation;
mod routing;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use keypool_core::limit::{Settlement, Usage};
use keypool_providers::protocol::{self, Protocol};

pub(crate) use jobs::{FailedCall, pool_of, run_job};
pub(crate) use relay::{OutBody, Verdict};

use crate::context::Gateway;
use crate::error::{GatewayError, Kind, RenderableError};
use crate::snapshot::Snapshot;
use crate::traces::Ending;
use attempt::{AfterRefusal, AttemptResult, Attempts, send};
use inbound::{Call, Caller, ClientRequest, Cors, MatchedEndpoint, ReceivedBody, UnreadBody};
use log::RequestLog;
use objects::ObjectTracking;
use origin::Origin;
use own::Answered;
use relay::{final_response, relay};
use reservation::CallerReservation;
use routing::PoolTarget;

/// Maximum size of a body in which a credential is looked for, in bytes.
const MAX_BODY_WITH_KEY: u64 = 256 * 1024;

/// Answers one client request, whatever happens to it.
///
/// Values that live as long as the request are created outside the `async` block: one that moves into a future takes
/// up memory twice.
pub(crate) fn handle(
    gw: Arc<Gateway>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<OutBody>, Infallible>> + Send {
    let (parts, incoming) = request.into_parts();
    let mut log = RequestLog::new(&gw, &parts);
    let mut unread = UnreadBody::new(&gw, &parts, incoming);
    let span = log.span().clone();
    let snapshot = gw.snapshot();
    let cors = Cors::new(&snapshot.settings.server, &parts.headers);
    async move {
        let outcome = {
            let request = ClientRequest {
                parts: &parts,
                peer,
            };
            let answering = answer_request(&gw, &snapshot, request, &cors, &mut unread, &mut log);
            let mut answering = std::pin::pin!(answering);
            // When `shutdown_timeout` has passed, every connection's task is woken, and this is polled.
            poll_fn(|cx| match gw.is_aborting() {
                true => Poll::Ready(None),
                false => span.in_scope(|| answering.as_mut().poll(cx).map(Some)),
            })
            .await
        };
        unread.drain();
        let mut response = match outcome {
            Some(Ok(response)) => response,
            Some(Err(error)) => log
                .finish_with(error.render(), Ending::Complete)
                .map(OutBody::whole),
            None => log
                .finish_with(shutdown_response(&snapshot, &parts), Ending::Shutdown)
                .map(OutBody::whole),
        };
        cors.apply(response.headers_mut());
        Ok(response)
    }
}

/// What happens before [`run`]: match the endpoint, authenticate the caller, read the body.
async fn answer_request(
    gw: &Arc<Gateway>,
    snapshot: &Snapshot,
    request: ClientRequest<'_>,
    cors: &Cors,
    unread: &mut UnreadBody,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, RenderableError> {
    let parts = request.parts;
    headers::check_head(parts)?;
    if let Some(preflight) = cors.preflight(parts) {
        let response = log.finish_with(preflight, Ending::Complete);
        return Ok(response.map(OutBody::whole));
    }
    let endpoint = MatchedEndpoint::find(snapshot, parts)?;
    let protocol = endpoint.protocol;
    let answering = async {
        let early = body_with_key(snapshot, &endpoint, parts, unread).await?;
        let key_in_body = match &early {
            Some(body) => inbound::key_in_body(&body.bytes)?,
            None => None,
        };
        let caller = Caller::authenticate(gw, snapshot, &endpoint, request, key_in_body)?;
        let may_see_traces = caller.may_see_traces();
        log.set_caller(&caller.name, may_see_traces, caller.limited_key());
        let mut early = early;
        if let Some(own) = &endpoint.own {
            // Boxed, like everything rarely needed: it would make every request larger.
            let answering = own::answer(gw, own, &endpoint, request, unread, &caller);
            match Box::pin(answering).await? {
                Answered::Own(response) => {
                    return Ok(log.finish_with(response, Ending::Complete));
                }
                Answered::Others(body) => early = body.or(early),
            }
        }
        caller.check_access(&endpoint)?;
        if let Some(models) = endpoint.models_call() {
            // Boxed, like everything rarely needed: it would make every request larger.
            let listed = Box::pin(models::list(gw, snapshot, &endpoint, models, &caller)).await?;
            let listed = log.finish_with(listed, Ending::Complete);
            return Ok(listed.map(OutBody::whole));
        }
        let limit = snapshot.settings.server.max_request_body;
        let body = match early {
            Some(body) => body,
            None => unread.read(&parts.headers, limit).await?,
        };
        let mut call = Call::new(endpoint, parts, body)?;
        if jobs::wants_job(parts) {
            let submitted = Box::pin(jobs::submit(gw, snapshot, &call, &caller, log)).await?;
            let submitted = log.finish_with(submitted, Ending::Complete);
            return Ok(submitted.map(OutBody::whole));
        }
        run(gw, snapshot, &mut call, &caller, Origin::Client, log).await
    };
    answering
        .await
        .map_err(|error: GatewayError| error.in_protocol(protocol))
}

/// The body, read before the caller is known, if the credential may be in it: it is nowhere else, and clients of the
/// protocol may put it there. No credential is looked for in a larger body.
async fn body_with_key(
    snapshot: &Snapshot,
    endpoint: &MatchedEndpoint<'_>,
    parts: &Parts,
    unread: &mut UnreadBody,
) -> Result<Option<ReceivedBody>, GatewayError> {
    let may_have_key = endpoint.protocol == Protocol::Tavily
        && snapshot.needs_virtual_key()
        && protocol::presented(&parts.headers, parts.uri.query()).is_empty();
    if !may_have_key {
        return Ok(None);
    }
    let limit = snapshot.settings.server.max_request_body;
    // Boxed, like everything rarely needed: it would make every request larger.
    match Box::pin(unread.read(&parts.headers, limit.min(MAX_BODY_WITH_KEY))).await {
        Err(error) if error.kind == Kind::RequestTooLarge => Ok(None),
        read => read.map(Some),
    }
}

/// Everything below authentication. Finds the pools; restricts them to the account that holds the objects (files,
/// batches, …) that the call names; then tries keys, target by target, until one responds, the attempts run out or
/// nothing is left to try.
async fn run(
    gw: &Arc<Gateway>,
    snapshot: &Snapshot,
    call: &mut Call<'_>,
    caller: &Caller,
    origin: Origin<'_>,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, GatewayError> {
    let targets = routing::targets(snapshot, call, caller, log)?;
    expect_tokens(gw, call, caller, &targets);
    let call = &*call;
    let mut objects = ObjectTracking::new(gw, snapshot, call, caller);
    let targets = objects.restrict(targets, log)?;
    log.set_pool(&targets[0].entry);
    let mut reserved = CallerReservation::of(gw, call, caller, log).await?;
    let mut attempts = Attempts::new(gw, call, &targets, caller, origin);
    objects.before_send();
    loop {
        let mut lease = match attempts.next_key(log).await {
            Ok(lease) => lease,
            Err(reason) => {
                let concluded = attempts.conclude(reason, log);
                return final_response(gw, call, concluded, log);
            }
        };
        origin.before_send(gw, call).await?;
        let target = attempts.target();
        let before = reserved.begin_attempt();
        lease.settle_when_dropped(Settlement::Ended(Usage::default()));
        let result = send(gw, call, target, &lease, attempts.time).await;
        let settlement = result.settlement();
        reserved.end_attempt(settlement, before);
        settlement
            .into_iter()
            .for_each(|settlement| lease.settle_when_dropped(settlement));
        match result {
            AttemptResult::Response(response) if attempts.is_other_refusal(&response) => {
                attempts.differs(lease, response, log);
            }
            AttemptResult::Response(mut response) => {
                let answering = attempts.answered(lease, &response, reserved);
                let tracked = objects.after_response(&answering.lease, &mut response);
                tracked.await?;
                return Ok(relay(
                    gw,
                    call,
                    &target.entry,
                    response,
                    Some(answering),
                    log,
                ));
            }
            AttemptResult::Unclear(refusal) => match attempts.unclear(lease, refusal, log) {
                AfterRefusal::Relay(refusal, lease) => {
                    let answering = attempts.answered(lease, &refusal.response, reserved);
                    return Ok(relay(
                        gw,
                        call,
                        &target.entry,
                        refusal.response,
                        Some(answering),
                        log,
                    ));
                }
                AfterRefusal::Continue => {}
            },
            AttemptResult::Failed(failure) => attempts.failed(lease, failure, log),
        }
    }
}

/// Guesses how many tokens the call uses, if a limit of the caller or of a key counts them.
fn expect_tokens(gw: &Gateway, call: &mut Call<'_>, caller: &Caller, targets: &[PoolTarget]) {
    let limited = caller.limited_key();
    let counts_tokens = limited.is_some_and(|key| key.limits.count_tokens())
        || targets.iter().any(|target| target.entry.counts_tokens);
    if counts_tokens {
        let (estimates, dialect) = (&gw.limits.estimates, targets[0].entry.dialect);
        call.guess_tokens(estimates, caller.limit_id(), dialect);
    }
}

/// The response to a request for which a shutdown left no more time.
fn shutdown_response(snapshot: &Snapshot, parts: &Parts) -> Response<Bytes> {
    let message = "this gateway was shut down before there was an answer: send the request again";
    let protocol = match MatchedEndpoint::find(snapshot, parts) {
        Ok(endpoint) => endpoint.protocol,
        Err(error) => error.protocol,
    };
    GatewayError::new(Kind::UpstreamUnreachable, message).render(protocol)
}
