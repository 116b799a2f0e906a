//! Reading jobs for a caller.

use keypool_core::store::{JobId, JobRecord};

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::proxy::inbound::Caller;
use crate::proxy::own_answer::{note, store};

/// The response to a request for a job that does not exist, or that another caller submitted.
pub(super) fn no_job() -> GatewayError {
    GatewayError::new(
        Kind::NotFound,
        "there is no such job: its id is wrong, it is kept no longer, or another caller submitted it",
    )
}

pub(super) async fn read(gw: &Gateway, id: &JobId) -> Result<Option<JobRecord>, GatewayError> {
    let found = store(gw)?.jobs(std::slice::from_ref(id)).await;
    Ok(note(gw, found)?.pop())
}

/// The caller's own job.
pub(super) async fn own(
    gw: &Gateway,
    id: &JobId,
    caller: &Caller,
) -> Result<JobRecord, GatewayError> {
    let found = read(gw, id).await?;
    found
        .filter(|job| job.caller == caller.owner())
        .ok_or_else(no_job)
}
