//! Calls that keypool answers itself.

use std::sync::Arc;

use http::Response;
use keypool_providers::protocol;

use super::batches;
use super::inbound::{
    Caller, ClientRequest, MatchedEndpoint, OwnAddress, ReceivedBody, UnreadBody,
};
use super::{OutBody, jobs};
use crate::context::Gateway;
use crate::error::GatewayError;

/// Who answers a call.
pub(super) enum Answered {
    /// keypool.
    Own(Response<OutBody>),
    /// A provider. With the body, if it was read to find that out.
    Others(Option<ReceivedBody>),
}

/// Answers a call about jobs, files or batches, unless it is for a provider.
pub(super) async fn answer(
    gw: &Arc<Gateway>,
    own: &OwnAddress,
    endpoint: &MatchedEndpoint<'_>,
    request: ClientRequest<'_>,
    unread: &mut UnreadBody,
    caller: &Caller,
) -> Result<Answered, GatewayError> {
    let parts = request.parts;
    let query = protocol::without_key(parts.uri.query().unwrap_or_default());
    let query = Some(&*query);
    let whole = |response: Response<bytes::Bytes>| Answered::Own(response.map(OutBody::whole));
    if !gw.stored.has_store() && !matches!(own, OwnAddress::Jobs(_)) {
        return Ok(Answered::Others(None));
    }
    match own {
        OwnAddress::Jobs(address) => {
            let answered = jobs::answer(gw, address, query, caller).await;
            answered.map(Answered::Own)
        }
        OwnAddress::Upload => match batches::upload(gw, parts, unread, caller).await? {
            batches::Uploaded::Here(response) => Ok(whole(response)),
            batches::Uploaded::ForProvider(body) => Ok(Answered::Others(body)),
        },
        OwnAddress::Files => match batches::list_files(gw, query, caller, endpoint).await? {
            Some(response) => Ok(whole(response)),
            None => Ok(Answered::Others(None)),
        },
        OwnAddress::File(id) => batches::file(gw, id, caller).await.map(whole),
        OwnAddress::Content(id) => {
            let content = batches::content(gw, id, caller).await;
            content.map(Answered::Own)
        }
        OwnAddress::DeleteFile(id) => batches::delete_file(gw, id, caller).await.map(whole),
        OwnAddress::CreateBatch => {
            let limit = gw.snapshot().settings.server.max_request_body;
            let body = unread.read(&parts.headers, limit).await?;
            match batches::create(gw, &body.bytes, caller).await? {
                Some(response) => Ok(whole(response)),
                None => Ok(Answered::Others(Some(body))),
            }
        }
        OwnAddress::Batches => batches::list(gw, query, caller).await.map(whole),
        OwnAddress::Batch(id) => batches::one(gw, id, caller).await.map(whole),
        OwnAddress::CancelBatch(id) => batches::cancel(gw, id, caller).await.map(whole),
    }
}
