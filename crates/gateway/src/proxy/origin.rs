//! Where a call comes from: a client that waits for the response, or a job.

use keypool_core::pool::Lane;

use super::inbound::Call;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::jobs::CallMark;

/// Who waits for the response of a call.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A client.
    Client,
    /// Nobody: the call is that of a job, which this node has claimed.
    Job(&'a CallMark),
}

impl Origin<'_> {
    /// Where the call waits for a key.
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Client => Lane::Interactive,
            Self::Job(_) => Lane::Job,
        }
    }

    /// To be called before each attempt. A call that must not be made twice is noted in the store first, since after a kill
    /// nothing else tells that the provider may have got it.
    pub(super) async fn before_send(
        self,
        gw: &Gateway,
        call: &Call<'_>,
    ) -> Result<(), GatewayError> {
        let Self::Job(mark) = self else {
            return Ok(());
        };
        if call.repeatable || mark.was_sent_once() {
            mark.note_sent();
            return Ok(());
        }
        let why = match Box::pin(gw.note_call_sent(mark)).await {
            Ok(true) => {
                mark.note_sent_once();
                return Ok(());
            }
            Ok(false) => "another node has taken over this job",
            Err(_) => "the store does not respond",
        };
        Err(GatewayError::new(Kind::StoreUnavailable, why))
    }
}
