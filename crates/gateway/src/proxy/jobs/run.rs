//! The call of a job, made like that of a client.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use keypool_providers::protocol::Protocol;
use tracing::Instrument;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::jobs::{CallMark, StoredCall};
use crate::proxy::inbound::{Call, Caller, MatchedEndpoint, ReceivedBody};
use crate::proxy::log::RequestLog;
use crate::proxy::origin::Origin;
use crate::proxy::{OutBody, routing, run};
use crate::traces::Ending;

/// A call that got no response of a provider.
pub(crate) struct FailedCall {
    pub(crate) error: GatewayError,
    /// The response that a client would get.
    pub(crate) response: Response<Bytes>,
}

/// Makes the call of a job, for the virtual key of this name. Everything below authentication is the same as for a client.
pub(crate) async fn run_job(
    gw: &Arc<Gateway>,
    stored: &StoredCall,
    body: Bytes,
    caller: Option<&str>,
    mark: &CallMark,
) -> Result<Response<OutBody>, FailedCall> {
    let Some(parts) = stored.parts() else {
        let error = GatewayError::invalid_request("the stored call cannot be read");
        return Err(FailedCall {
            response: error.render(Protocol::OpenAi),
            error,
        });
    };
    let mut log = RequestLog::new(gw, &parts);
    let span = log.span().clone();
    let snapshot = gw.snapshot();
    let found = MatchedEndpoint::find(&snapshot, &parts);
    let protocol = match &found {
        Ok(endpoint) => endpoint.protocol,
        Err(error) => error.protocol,
    };
    let answering = async {
        let endpoint = found.map_err(|error| error.error)?;
        let caller = Caller::of_job(gw, &snapshot, caller, stored.address)?;
        log.set_caller(&caller.name, false, caller.limited_key());
        caller.check_access(&endpoint)?;
        let mut call = Call::new(endpoint, &parts, ReceivedBody::of(body))?;
        run(
            gw,
            &snapshot,
            &mut call,
            &caller,
            Origin::Job(mark),
            &mut log,
        )
        .await
    };
    let answered: Result<_, GatewayError> = answering.instrument(span).await;
    answered.map_err(|error| {
        let response = log.finish_with(error.render(protocol), Ending::Complete);
        FailedCall { error, response }
    })
}

/// The pool that would get the call, for the virtual key of this name.
pub(crate) fn pool_of(
    gw: &Arc<Gateway>,
    stored: &StoredCall,
    body: Bytes,
    caller: Option<&str>,
) -> Result<Arc<str>, GatewayError> {
    let unreadable = || GatewayError::invalid_request("the stored call cannot be read");
    let parts = stored.parts().ok_or_else(unreadable)?;
    let snapshot = gw.snapshot();
    let endpoint = MatchedEndpoint::find(&snapshot, &parts).map_err(|error| error.error)?;
    let caller = Caller::of_job(gw, &snapshot, caller, stored.address)?;
    caller.check_access(&endpoint)?;
    let call = Call::new(endpoint, &parts, ReceivedBody::of(body))?;
    let mut log = RequestLog::new(gw, &parts);
    let targets = routing::targets(&snapshot, &call, &caller, &mut log);
    // Nothing was requested.
    log.discard();
    Ok(Arc::clone(targets?[0].entry.pool.name()))
}

impl FailedCall {
    /// Whether the same call may succeed later although its caller changes nothing.
    pub(crate) fn may_pass(&self) -> bool {
        match self.error.kind {
            Kind::NoKeyAvailable
            | Kind::QueueFull
            | Kind::QueueTimeout
            | Kind::RateLimitExceeded(_)
            | Kind::UpstreamUnreachable
            | Kind::UpstreamTimeout
            | Kind::RequestTimeout
            | Kind::StoreUnavailable => true,
            Kind::InvalidRequest
            | Kind::InvalidVirtualKey
            | Kind::ModelNotAllowed
            | Kind::NativeNotAllowed
            | Kind::ModelNotFound
            | Kind::NotFound
            | Kind::MethodNotAllowed(_)
            | Kind::UpgradeRequired
            | Kind::RequestTooLarge
            | Kind::HeadersTooLarge
            | Kind::RequestExceedsLimit(_)
            | Kind::JobLimitExceeded
            | Kind::IdempotencyMismatch
            | Kind::JobNotEnded
            | Kind::JobEnded
            | Kind::JobWithoutResponse
            | Kind::FileInUse
            | Kind::BatchEnded => false,
        }
    }

    /// Whether the provider may have got the call and did not respond.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(
            self.error.kind,
            Kind::UpstreamUnreachable | Kind::UpstreamTimeout
        )
    }
}
