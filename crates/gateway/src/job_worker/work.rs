//! One job, from its claim to what is stored of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use keypool_core::store::{
    ChangedJob, ClaimedJob, JobKind, JobOutcome, JobResult, JobStatus, StoreError, StoreErrorKind,
};
use tokio::time::sleep;

use super::outcome::Outcomes;
use super::{batch, response};
use crate::context::Gateway;
use crate::jobs::{CallMark, Claim, StoredCall};
use crate::proxy::run_job;
use crate::stored::Access;

/// Time between two tries to store what became of a job.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often a job that is not sent yet looks whether the gateway shuts down.
const LOOK: Duration = Duration::from_millis(200);

/// Does what a claimed job asks for, and stores what became of it. A job that is cancelled, or whose claim is lost, ends the
/// provider's call too.
pub(super) async fn work(gw: Arc<Gateway>, job: ClaimedJob, claim: Claim) {
    let mark = CallMark::of_job(claim.claim());
    let outcome = tokio::select! {
        biased;
        () = claim.stopped() => None,
        outcome = outcome(&gw, &job, &claim, &mark) => Some(outcome),
        outcome = until_shutdown(&gw, &job, &mark) => Some(outcome),
    };
    if let Some(outcome) = outcome {
        settle(&gw, &job, &claim, outcome).await;
    }
    drop(claim);
    // There is room for another one.
    gw.jobs.wake.notify_one();
}

async fn outcome(
    gw: &Arc<Gateway>,
    job: &ClaimedJob,
    claim: &Claim,
    mark: &CallMark,
) -> JobOutcome {
    match &job.kind {
        JobKind::Call => make_call(gw, job, mark).await,
        JobKind::BatchValidation(batch) => batch::validate(gw, batch, &job.request, claim).await,
        JobKind::BatchPart(batch) => batch::run_part(gw, batch, job, claim).await,
        JobKind::BatchEnd(batch) => batch::end(gw, batch, claim).await,
    }
}

async fn make_call(gw: &Arc<Gateway>, job: &ClaimedJob, mark: &CallMark) -> JobOutcome {
    let settings = gw.snapshot().settings.jobs.clone();
    let outcomes = Outcomes {
        tries: job.tries,
        mark,
        keep: settings.keep,
    };
    let Some(stored) = StoredCall::from_json(&job.request) else {
        return outcomes.unreadable();
    };
    // A small body came with the job, and needs no room: large ones of another pool must not hold it up.
    let _memory = match job.body {
        Some(_) => None,
        None => match gw.jobs.memory_for(job.body_bytes).await {
            Some(memory) => Some(memory),
            None => return outcomes.no_memory(),
        },
    };
    let body = match body(gw, job).await {
        Ok(body) => body,
        Err(error) if error.kind == StoreErrorKind::Internal => return outcomes.unreadable(),
        Err(_) => return JobOutcome::Released,
    };
    match run_job(gw, &stored, body, job.caller.as_deref(), mark).await {
        Err(failed) => outcomes.without_response(&failed),
        Ok(answered) => {
            let most = settings.limits.max_stored_per_caller;
            match response::take(gw, Some(mark.claim()), answered, most).await {
                Ok(taken) => outcomes.with_response(taken),
                Err(why) => outcomes.not_taken(why),
            }
        }
    }
}

/// The body of a job's request.
async fn body(gw: &Gateway, job: &ClaimedJob) -> Result<Bytes, StoreError> {
    if let Some(body) = &job.body {
        return Ok(body.clone());
    }
    let mut body = BytesMut::new();
    for number in 0.. {
        let piece = gw.stored.store()?.request_piece(&job.id, number).await;
        let piece = gw.note_store(Access::Read, piece)?;
        if piece.is_empty() {
            break;
        }
        body.extend_from_slice(&piece);
    }
    if body.len() as u64 != job.body_bytes {
        let message = "a part of the stored request is missing";
        return Err(StoreError::new(StoreErrorKind::Internal, message));
    }
    Ok(body.freeze())
}

/// Resolves when a shutdown need not wait for the job: its call was not sent yet, or the shutdown's timeout has passed. Until
/// then, what the provider is working on may end.
async fn until_shutdown(gw: &Gateway, job: &ClaimedJob, mark: &CallMark) -> JobOutcome {
    let is_waiting = || job.kind == JobKind::Call && !mark.was_sent();
    while !gw.is_aborting() {
        if gw.is_shutting_down() && is_waiting() {
            return JobOutcome::Released;
        }
        sleep(LOOK).await;
    }
    let outcomes = Outcomes {
        tries: 1,
        mark,
        keep: gw.snapshot().settings.jobs.keep,
    };
    match mark.was_sent_once() {
        true => outcomes.unknown(None),
        false => JobOutcome::Released,
    }
}

/// Stores what became of the job, once the store responds.
async fn settle(gw: &Arc<Gateway>, job: &ClaimedJob, claim: &Claim, outcome: JobOutcome) {
    let status = match &outcome {
        JobOutcome::Ended {
            succeeded: true, ..
        } => JobStatus::Succeeded,
        JobOutcome::Ended { .. } => JobStatus::Failed,
        JobOutcome::Retry { .. } | JobOutcome::Released => JobStatus::Queued,
    };
    let is_released = matches!(outcome, JobOutcome::Released);
    let result = JobResult {
        claim: claim.claim().clone(),
        outcome,
    };
    loop {
        match gw.settle_job(result.clone()).await {
            Ok(true) => break,
            Ok(false) => return,
            // The process is about to end. The claim runs out, and the job runs again.
            Err(_) if gw.is_aborting() => return,
            Err(_) => sleep(STORE_AGAIN).await,
        }
    }
    if job.has_webhook && status.has_ended() {
        gw.jobs.webhooks.wake.notify_one();
    }
    if is_released && !gw.is_shutting_down() {
        gw.jobs.note_due(&job.pool);
    }
    gw.jobs.watchers.note(&ChangedJob {
        id: Arc::clone(&job.id),
        status,
        attempts: job.tries - u32::from(is_released),
    });
}
