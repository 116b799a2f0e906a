//! Ends a batch that was cancelled or has expired: every line without a result gets an error.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{
    BatchEnding, BatchRecord, JobError, JobFailure, JobOutcome, LineResult, LineState, StoreError,
};
use tokio::time::sleep;

use super::check::InputLine;
use super::input::{Input, Line};
use super::line::LineOf;
use super::{again, done};
use crate::context::Gateway;
use crate::jobs::Claim;
use crate::stored::Access;

/// How often it looks whether the last calls have ended.
const LOOK: Duration = Duration::from_millis(500);
/// Number of lines looked up and stored at once.
const LINES: u64 = 500;

/// Ends a batch, once nothing of it runs any more.
pub(in crate::job_worker) async fn end(
    gw: &Arc<Gateway>,
    batch: &Arc<str>,
    claim: &Claim,
) -> JobOutcome {
    match try_to_end(gw, batch, claim).await {
        Ok(()) => done(),
        Err(error) => again(&error),
    }
}

async fn try_to_end(gw: &Arc<Gateway>, id: &Arc<str>, claim: &Claim) -> Result<(), StoreError> {
    let store = gw.stored.store()?;
    gw.jobs.claims.wind_down(id);
    while gw.note_store(Access::Read, store.running_parts(id).await)? > 0 {
        sleep(LOOK).await;
    }
    let batch = gw.note_store(Access::Read, store.batch(id).await)?;
    let Some((batch, ending)) = batch.and_then(|batch| batch.ending.map(|ending| (batch, ending)))
    else {
        return Ok(());
    };
    if batch.completed + batch.failed < batch.total {
        let ending = Ending {
            gw,
            claim,
            batch: &batch,
            error: error(ending),
        };
        ending.fill().await?;
    }
    let ended = store.end_batch((gw.jobs.node, claim.claim()), id).await;
    gw.note_store(Access::Write, ended).map(drop)
}

fn error(ending: BatchEnding) -> JobError {
    let (code, message) = match ending {
        BatchEnding::Expired => (
            "batch_expired",
            "This request could not be executed before the completion window expired.",
        ),
        BatchEnding::Cancelled => (
            "batch_cancelled",
            "This request was not executed, since the batch was cancelled.",
        ),
    };
    JobError {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

struct Ending<'a> {
    gw: &'a Arc<Gateway>,
    claim: &'a Claim,
    batch: &'a BatchRecord,
    error: JobError,
}

impl Ending<'_> {
    /// Gives each line without a result an error.
    async fn fill(&self) -> Result<(), StoreError> {
        let mut input = Input::whole(self.gw, &self.batch.input_file);
        let mut lines = Vec::new();
        while let Some(line) = input.next().await? {
            let is_last = line.number % LINES == 0;
            lines.push(line);
            if is_last {
                self.store(std::mem::take(&mut lines)).await?;
            }
        }
        self.store(lines).await
    }

    async fn store(&self, lines: Vec<Line>) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
            return Ok(());
        };
        let (gw, store) = (self.gw, self.gw.stored.store()?);
        let range = first.number..last.number + 1;
        let states = gw.note_store(Access::Read, store.line_states(&self.batch.id, range).await)?;
        let states: HashMap<u64, LineState> = states.into_iter().collect();
        let results: Vec<LineResult> = lines
            .iter()
            .filter_map(|line| self.result(line, states.get(&line.number).copied()))
            .collect();
        if results.is_empty() {
            return Ok(());
        }
        let stored = store.add_results(gw.jobs.node, &results).await;
        gw.note_store(Access::Write, stored).map(drop)
    }

    fn result(&self, line: &Line, state: Option<LineState>) -> Option<LineResult> {
        if line.is_blank() || state == Some(LineState::Done) {
            return None;
        }
        let read: InputLine<'_> = serde_json::from_slice(&line.text).ok()?;
        let custom_id = read.custom_id?;
        let of = LineOf {
            claim: self.claim.claim(),
            batch: &self.batch.id,
            line: line.number,
            custom_id: &custom_id,
        };
        let unknown = JobError {
            code: JobFailure::OutcomeUnknown.as_str().to_owned(),
            message: JobFailure::UNKNOWN.to_owned(),
        };
        let error = match state {
            Some(LineState::Sent) => &unknown,
            _ => &self.error,
        };
        Some(of.result(false, None, Some(error)))
    }
}
