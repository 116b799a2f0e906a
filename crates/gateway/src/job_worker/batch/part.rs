//! The calls of a part of a batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keypool_core::store::{
    ClaimedJob, JobOutcome, LineResult, LineState, ResultStored, StoreError,
};
use tokio::time::sleep;

use super::check::InputLine;
use super::input::{Input, Line};
use super::line::LineOf;
use super::{again, done, later};
use crate::context::Gateway;
use crate::error::Kind;
use crate::job_worker::outcome::Outcomes;
use crate::job_worker::response;
use crate::jobs::{CallMark, Claim, StoredPart};
use crate::proxy::run_job;
use crate::stored::Access;

/// A line that can be tried again within this time waits for that; otherwise the part makes room for others.
const SHORT: Duration = Duration::from_secs(5);
/// How often a part looks whether the gateway shuts down.
const LOOK: Duration = Duration::from_millis(500);
/// After this number of looks, it asks whether its batch was cancelled on another node.
const ASK_AFTER: u32 = 6;
/// Time between two tries to store a result.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// The largest response of a line, in bytes.
const MAX_RESPONSE: u64 = 4 << 20;

/// Makes the calls of a part that have no result yet.
pub(in crate::job_worker) async fn run_part(
    gw: &Arc<Gateway>,
    batch: &Arc<str>,
    job: &ClaimedJob,
    claim: &Claim,
) -> JobOutcome {
    let Some(part) = StoredPart::from_json(&job.request) else {
        return done();
    };
    let running = Part {
        gw,
        batch,
        job,
        claim,
        part,
    };
    tokio::select! {
        outcome = running.run() => outcome,
        never = running.watch() => match never {},
    }
}

struct Part<'a> {
    gw: &'a Arc<Gateway>,
    batch: &'a Arc<str>,
    job: &'a ClaimedJob,
    claim: &'a Claim,
    part: StoredPart,
}

/// What became of a line.
enum LineEnd {
    /// Its result is stored, or it was not to be called any more.
    Done,
    /// It is to be tried again after this time.
    Later(Duration),
    /// The claim was lost.
    Lost,
}

impl Part<'_> {
    async fn run(&self) -> JobOutcome {
        let Some(_memory) = self.gw.jobs.memory_for(self.part.bytes).await else {
            return later(
                SHORT,
                Kind::QueueFull.code(),
                "too many large jobs run at once",
            );
        };
        let calls = match self.calls().await {
            Ok(calls) => calls,
            Err(error) => return again(&error),
        };
        let mut running: FuturesUnordered<_> = calls
            .into_iter()
            .map(|(line, was_sent)| self.call(line, was_sent))
            .collect();
        let mut next_try: Option<Duration> = None;
        while let Some(end) = running.next().await {
            self.claim.note_call_made();
            self.gw.jobs.wake.notify_one();
            match end {
                LineEnd::Done => {}
                LineEnd::Later(after) => {
                    next_try = Some(next_try.map_or(after, |known| known.min(after)));
                }
                LineEnd::Lost => return JobOutcome::Released,
            }
        }
        if self.gw.is_shutting_down() {
            // Lines that were not called are left to the next process.
            return JobOutcome::Released;
        }
        match next_try.filter(|_| !self.claim.wind_down().is_cancelled()) {
            None => done(),
            Some(after) => later(
                after,
                Kind::NoKeyAvailable.code(),
                "some lines could not be served yet",
            ),
        }
    }

    /// The lines without a result, and whether they were sent and must not be sent twice.
    async fn calls(&self) -> Result<Vec<(Line, bool)>, StoreError> {
        let (gw, part) = (self.gw, &self.part);
        let store = gw.stored.store()?;
        let lines = part.first_line..part.first_line + part.lines;
        let states = gw.note_store(Access::Read, store.line_states(self.batch, lines).await)?;
        let states: HashMap<u64, LineState> = states.into_iter().collect();
        let batch = gw.note_store(Access::Read, store.batch(self.batch).await)?;
        let Some(batch) = batch.filter(|batch| batch.ending.is_none()) else {
            return Ok(Vec::new());
        };
        let (offset, bytes) = (part.offset, part.bytes);
        let mut input = Input::range(gw, &batch.input_file, part.first_line, offset, bytes);
        let mut calls = Vec::new();
        while let Some(line) = input.next().await? {
            let state = states.get(&line.number);
            if line.is_blank() || state == Some(&LineState::Done) {
                continue;
            }
            calls.push((line, state == Some(&LineState::Sent)));
        }
        let done = usize::try_from(self.job.weight).unwrap_or(0);
        (calls.len()..done).for_each(|_| self.claim.note_call_made());
        Ok(calls)
    }

    /// Calls a line until it has a result.
    async fn call(&self, line: Line, was_sent: bool) -> LineEnd {
        let read: Option<InputLine<'_>> = serde_json::from_slice(&line.text).ok();
        let Some((custom_id, body)) = read.and_then(|read| read.custom_id.zip(read.body)) else {
            // It was checked, so the file has changed. The batch ends without it.
            return LineEnd::Done;
        };
        let body = line.text.slice_ref(body.get().as_bytes());
        let of = LineOf {
            claim: self.claim.claim(),
            batch: self.batch,
            line: line.number,
            custom_id: &custom_id,
        };
        let mark = CallMark::of_line(self.claim.claim(), self.batch, line.number);
        if was_sent {
            mark.note_sent_once();
            let outcomes = self.outcomes(&mark, 1);
            return self.end(&of, outcomes.unknown(None)).await;
        }
        for tries in 1.. {
            let Some(outcome) = self.try_once(&mark, body.clone(), tries).await else {
                return LineEnd::Done;
            };
            match outcome {
                JobOutcome::Retry { after, .. } if after <= SHORT => {
                    let wind_down = self.claim.wind_down();
                    if wind_down.run_until_cancelled(sleep(after)).await.is_none() {
                        return LineEnd::Done;
                    }
                }
                JobOutcome::Retry { after, .. } => return LineEnd::Later(after),
                JobOutcome::Released => return LineEnd::Later(SHORT),
                ended @ JobOutcome::Ended { .. } => return self.end(&of, ended).await,
            }
        }
        LineEnd::Done
    }

    fn outcomes<'m>(&self, mark: &'m CallMark, tries: u32) -> Outcomes<'m> {
        Outcomes {
            tries,
            mark,
            keep: Duration::ZERO,
        }
    }

    /// Makes the call once; `None` if no further call is to be made and this one was not sent.
    async fn try_once(&self, mark: &CallMark, body: Bytes, tries: u32) -> Option<JobOutcome> {
        let calling = async {
            let (stored, caller) = (&self.part.call, self.job.caller.as_deref());
            let outcomes = self.outcomes(mark, tries);
            match run_job(self.gw, stored, body, caller, mark).await {
                Err(failed) => outcomes.without_response(&failed),
                Ok(answered) => match response::take(self.gw, None, answered, MAX_RESPONSE).await {
                    Ok(taken) => outcomes.with_response(taken),
                    Err(why) => outcomes.not_taken(why),
                },
            }
        };
        let mut calling = std::pin::pin!(calling);
        tokio::select! {
            biased;
            outcome = &mut calling => Some(outcome),
            () = self.claim.wind_down().cancelled() => match mark.was_sent() {
                // What the provider works on is paid for.
                true => Some(calling.await),
                false => None,
            },
        }
    }

    async fn end(&self, of: &LineOf<'_>, outcome: JobOutcome) -> LineEnd {
        let JobOutcome::Ended {
            succeeded,
            response,
            error,
            ..
        } = outcome
        else {
            return LineEnd::Later(SHORT);
        };
        self.store(of.result(succeeded, response, error.as_ref()))
            .await
    }

    /// Stores a result, once the store responds.
    async fn store(&self, result: LineResult) -> LineEnd {
        loop {
            match self.gw.add_line_result(result.clone()).await {
                Ok(ResultStored::Stored) => return LineEnd::Done,
                Ok(ResultStored::StoredLast) => {
                    self.claim.wind_down().cancel();
                    return LineEnd::Done;
                }
                Ok(ResultStored::Lost) => return LineEnd::Lost,
                Err(_) => sleep(STORE_AGAIN).await,
            }
        }
    }

    /// Finds out that the gateway shuts down, or that the batch was cancelled on another node or has expired. Then no further
    /// line is called.
    async fn watch(&self) -> std::convert::Infallible {
        for look in 1_u32.. {
            sleep(LOOK).await;
            let is_over = self.gw.is_shutting_down()
                || (look.is_multiple_of(ASK_AFTER) && self.is_batch_ending().await);
            if is_over {
                break;
            }
        }
        self.claim.wind_down().cancel();
        std::future::pending().await
    }

    async fn is_batch_ending(&self) -> bool {
        let Ok(store) = self.gw.stored.store() else {
            return false;
        };
        let batch = store.batch(self.batch).await;
        batch.is_ok_and(|batch| batch.is_none_or(|batch| batch.ending.is_some()))
    }
}
