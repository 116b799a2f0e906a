//! Takes in the response to a job's call. What is large is stored piece by piece as it comes, so that it is never whole in
//! memory.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use keypool_core::store::{JobClaim, JobResponse};

use crate::context::Gateway;
use crate::jobs::ResponseHead;
use crate::proxy::{OutBody, Verdict};
use crate::stored::Access;

/// Size of a stored piece, in bytes. A smaller response is stored with the end of its job.
const PIECE: usize = 256 * 1024;

/// A response that was taken in.
pub(super) struct Taken {
    pub(super) status: u16,
    pub(super) stored: JobResponse,
    /// What became of it.
    pub(super) verdict: Option<Verdict>,
    /// The provider sent all of it.
    pub(super) is_whole: bool,
}

/// Why a response was not taken in.
pub(super) enum NotTaken {
    /// It is larger than what is kept of it.
    TooLarge {
        /// In bytes.
        most: u64,
    },
    /// The claim was lost.
    Lost,
    Store,
}

/// Takes in a response up to `most` bytes. What is large is stored in pieces for `claim`; without one, all of it stays in
/// memory.
pub(super) async fn take(
    gw: &Gateway,
    claim: Option<&JobClaim>,
    response: Response<OutBody>,
    most: u64,
) -> Result<Taken, NotTaken> {
    let (parts, mut body) = response.into_parts();
    let mut taking = Taking {
        gw,
        claim,
        held: BytesMut::new(),
        pieces: 0,
        bytes: 0,
    };
    let mut is_whole = true;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            is_whole = false;
            break;
        };
        if let Ok(data) = frame.into_data() {
            taking.add(&data, most).await?;
        }
    }
    let verdict = body.verdict();
    Ok(Taken {
        status: parts.status.as_u16(),
        is_whole: is_whole && verdict.is_none_or(|verdict| verdict.is_whole),
        verdict,
        stored: taking.finish(parts.status.as_u16(), &parts.headers),
    })
}

/// A response that is complete in memory.
pub(super) fn whole(response: &Response<Bytes>) -> JobResponse {
    JobResponse {
        head: ResponseHead::of(response.status().as_u16(), response.headers()).to_json(),
        rest: response.body().clone(),
        pieces: 0,
        bytes: response.body().len() as u64,
    }
}

struct Taking<'a> {
    gw: &'a Gateway,
    claim: Option<&'a JobClaim>,
    held: BytesMut,
    pieces: u32,
    bytes: u64,
}

impl Taking<'_> {
    async fn add(&mut self, data: &Bytes, most: u64) -> Result<(), NotTaken> {
        self.bytes += data.len() as u64;
        if self.bytes > most {
            return Err(NotTaken::TooLarge { most });
        }
        self.held.extend_from_slice(data);
        let Some(claim) = self.claim else {
            return Ok(());
        };
        while self.held.len() >= PIECE {
            let piece = self.held.split_to(PIECE).freeze();
            self.store(claim, piece).await?;
        }
        Ok(())
    }

    async fn store(&mut self, claim: &JobClaim, piece: Bytes) -> Result<(), NotTaken> {
        let store = self.gw.stored.store().map_err(|_| NotTaken::Store)?;
        let stored = store.add_response_piece(claim, self.pieces, piece);
        let stored = self.gw.note_store(Access::Write, stored.await);
        match stored.map_err(|_| NotTaken::Store)? {
            true => self.pieces += 1,
            false => return Err(NotTaken::Lost),
        }
        Ok(())
    }

    fn finish(self, status: u16, headers: &HeaderMap) -> JobResponse {
        JobResponse {
            head: ResponseHead::of(status, headers).to_json(),
            rest: self.held.freeze(),
            pieces: self.pieces,
            bytes: self.bytes,
        }
    }
}
