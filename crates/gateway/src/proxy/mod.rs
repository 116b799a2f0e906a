//! The life of a client request on the data plane. Read [`handle`] first.

mod access;
mod affinity;
mod attempts;
mod auth;
mod body;
mod bound;
mod call;
mod endpoint;
mod final_response;
mod forward_proxy;
mod headers;
mod models;
mod not_found;
mod outgoing;
mod relay;
mod request_log;
mod response;
mod route;
mod send;
mod trace_header;
mod unread_body;
mod upload;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use keypool_core::pool::Leased;
use keypool_providers::protocol::Protocol;

pub(crate) use body::OutBody;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use attempts::Attempts;
use auth::Caller;
use call::Call;
use endpoint::MatchedEndpoint;
use request_log::RequestLog;
use response::Reply;
use route::PoolTarget;

/// Answers one client request, whatever happens to it.
///
/// What is known before the first wait is made outside the future, which would keep room for it twice.
pub(crate) fn handle(
    gw: Arc<Gateway>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<OutBody>, Infallible>> + Send {
    let (parts, incoming) = request.into_parts();
    let mut log = RequestLog::begin(&gw, &parts);
    let mut unread = unread_body::UnreadBody::new(&gw, &parts, incoming);
    async move {
        let outcome = {
            let answering = answer_request(&gw, peer, &parts, &mut unread, &mut log);
            let mut answering = std::pin::pin!(answering);
            // When the time of a shutdown is up, the connection is woken, and so this.
            poll_fn(|cx| match gw.is_ending() {
                true => Poll::Ready(None),
                false => answering.as_mut().poll(cx).map(Some),
            })
            .await
        };
        unread.discard();
        Ok(match outcome {
            Some(Ok(response)) => response,
            Some(Err((error, protocol))) => log.finish_error(error.render(protocol)).map(whole),
            None => log.finish_shutdown(shut_down(&gw, &parts)).map(whole),
        })
    }
}

type Failed = (GatewayError, Protocol);

/// The phases, in order: find what is called, who calls, read it, choose the pool, try keys, relay.
async fn answer_request(
    gw: &Arc<Gateway>,
    peer: SocketAddr,
    parts: &http::request::Parts,
    unread: &mut unread_body::UnreadBody,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, Failed> {
    headers::check_size(parts)?;
    let snapshot = gw.snapshot();
    let target = MatchedEndpoint::find(&snapshot, parts)?;
    let protocol = target.protocol;
    let in_form = |error| (error, protocol);

    let began = upload::maker(gw, protocol, &target.path, parts);
    let caller = Caller::authenticate(gw, &snapshot, parts, peer, began).map_err(in_form)?;
    log.set_caller(&caller.name, caller.may_see_traces());
    target.check_known(&caller).map_err(in_form)?;
    if let Some(models) = target.models_call() {
        // Boxed, as all that is seldom needed: it would make every request larger.
        let listed = Box::pin(models::answer(gw, &snapshot, &target, models, &caller)).await;
        return listed
            .map(|response| log.finish(response).map(whole))
            .map_err(in_form);
    }

    let call = Call::read(gw, &snapshot, &target, parts, unread)
        .await
        .map_err(in_form)?;
    let routes = route::find(&snapshot, &target, &call, &caller, log).map_err(in_form)?;
    let binding = bound::Binding {
        gw,
        snapshot: &snapshot,
        target: &target,
        call: &call,
        caller: &caller,
    };
    let routes = binding.restrict(routes, log).map_err(in_form)?;
    log.entry = routes.first().map(|route| route.entry.clone());
    serve(gw, &call, &routes, &caller, log)
        .await
        .map_err(in_form)
}

/// Tries keys, of each target in turn, until one answers, the attempts run out or nothing is left to try.
async fn serve(
    gw: &Arc<Gateway>,
    call: &Call<'_>,
    routes: &[PoolTarget],
    caller: &Caller,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, GatewayError> {
    let mut attempts = Attempts::new(gw, call, routes, caller);
    let makes_anew = bound::makes_anew(gw, call, caller);
    loop {
        let Leased { lease, selection } = match attempts.next_key(log).await {
            Ok(leased) => leased,
            Err(stop) => return final_response::final_response(attempts, stop, log),
        };
        let route = attempts.route();
        let (made, waited) = (attempts.made(), attempts.waited());
        log.attempt(&route.entry, &lease, selection, made, waited);
        match send::send(gw, call, route, &lease, attempts.deadline()).await {
            Reply::Relay(mut answer, class) => {
                bound::note(gw, (call, makes_anew), caller, &lease, &answer);
                if call.protocol == Protocol::Gemini {
                    upload::point_here(call.uri, call.headers, &mut answer.parts.headers);
                }
                let relayed = relay::relay(gw, call, answer, lease, class, log);
                return Ok(relayed.map(OutBody::Relay));
            }
            Reply::Failed(failure) => attempts.failed(lease, failure, log),
        }
    }
}

/// The answer to a request for which a shutdown had no more time.
fn shut_down(gw: &Gateway, parts: &http::request::Parts) -> Response<Bytes> {
    let message = "this gateway was shut down before there was an answer: send the request again";
    let snapshot = gw.snapshot();
    let protocol = match MatchedEndpoint::find(&snapshot, parts) {
        Ok(target) => target.protocol,
        Err((_, protocol)) => protocol,
    };
    GatewayError::new(Kind::UpstreamUnreachable, message).render(protocol)
}

/// A small answer that is there as a whole.
fn whole(body: Bytes) -> OutBody {
    OutBody::Whole(Some(body))
}
