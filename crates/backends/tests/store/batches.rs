//! Files, and batches of the calls in them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keypool_core::store::{
    BatchEnding, BatchPart, BatchQuery, BatchRecord, BatchStatus, BatchUsage, ClaimedJob,
    FileDeletion, FileQuery, JobClaim, JobKind, JobLimit, JobLimits, JobOutcome, JobQuery,
    JobResult, LineResult, LineState, NewBatch, NewFile, ResultStored, ResultsOf, Store,
};

use crate::backend::{Backend, on_every_store};

const NODE: u64 = 3;
const DAY: Duration = Duration::from_secs(86_400);
const LIMITS: JobLimits = JobLimits {
    max_queued: 1,
    max_queued_per_caller: 1,
    max_stored: 2_000,
    max_stored_per_caller: 1_000,
};

fn file(id: &str) -> NewFile {
    NewFile {
        id: id.into(),
        caller: Some("team".into()),
        filename: format!("{id}.jsonl"),
        purpose: "batch".to_owned(),
        keep: DAY,
    }
}

async fn upload(store: &dyn Store, new: NewFile, body: &[u8]) -> Option<JobLimit> {
    store.begin_file(&new).await.unwrap();
    for (number, piece) in body.chunks(100).enumerate() {
        let number = u32::try_from(number).unwrap();
        let piece = Bytes::copy_from_slice(piece);
        store.add_file_piece(&new.id, number, piece).await.unwrap();
    }
    let bytes = body.len() as u64;
    store
        .complete_file(&new.id, bytes, None, &LIMITS)
        .await
        .unwrap()
}

async fn a_file_is_stored_listed_and_deleted(mut backend: Backend) {
    let body: Vec<u8> = (0..=249).collect();
    assert_eq!(upload(backend.store(), file("a"), &body).await, None);
    let store = backend.reopen().await;
    let record = store.file("a").await.unwrap().unwrap();
    assert_eq!((record.bytes, &*record.filename), (250, "a.jsonl"));
    assert_eq!(
        (record.caller.as_deref(), &*record.purpose),
        (Some("team"), "batch")
    );
    let pieces = [0, 1, 2, 3].map(async |number| store.file_piece("a", number).await.unwrap());
    let mut read = Vec::new();
    for piece in pieces {
        read.extend_from_slice(&piece.await);
    }
    assert_eq!(read, body);

    // What is not complete is not there.
    store.begin_file(&file("half")).await.unwrap();
    assert!(store.file("half").await.unwrap().is_none());
    upload(store, file("b"), b"x").await;
    let other = NewFile {
        caller: None,
        ..file("other")
    };
    upload(store, other, b"x").await;
    let list = async |query: FileQuery| {
        let query = FileQuery {
            caller: Some("team".into()),
            limit: 9,
            ..query
        };
        let listed = store.list_files(&query).await.unwrap();
        listed
            .iter()
            .map(|file| file.id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(FileQuery::default()).await, ["b", "a"]);
    let oldest_first = FileQuery {
        oldest_first: true,
        ..FileQuery::default()
    };
    assert_eq!(list(oldest_first.clone()).await, ["a", "b"]);
    let after = FileQuery {
        after: Some("a".into()),
        ..oldest_first
    };
    assert_eq!(list(after).await, ["b"]);
    let purpose = FileQuery {
        purpose: Some("batch_output".to_owned()),
        ..FileQuery::default()
    };
    assert!(list(purpose).await.is_empty());

    assert_eq!(store.delete_file("a").await.unwrap(), FileDeletion::Deleted);
    assert_eq!(store.delete_file("a").await.unwrap(), FileDeletion::Missing);
    assert!(store.file_piece("a", 0).await.unwrap().is_empty());
}

async fn files_count_for_what_may_be_stored(backend: Backend) {
    let store = backend.store();
    let of = |caller: &str, id: &str| NewFile {
        caller: Some(caller.into()),
        ..file(id)
    };
    let large = [7; 900];
    assert_eq!(upload(store, of("a", "1"), &large).await, None);
    let exceeded = upload(store, of("a", "2"), &large).await;
    assert_eq!(exceeded, Some(JobLimit::StoredPerCaller));
    assert!(store.file("2").await.unwrap().is_none());
    assert!(store.file_piece("2", 0).await.unwrap().is_empty());
    assert_eq!(upload(store, of("b", "3"), &large).await, None);
    assert_eq!(
        upload(store, of("c", "4"), &large).await,
        Some(JobLimit::Stored)
    );
    store.delete_file("1").await.unwrap();
    assert_eq!(upload(store, of("c", "5"), &large).await, None);
}

async fn old_files_and_abandoned_uploads_are_deleted(backend: Backend) {
    let store = backend.store();
    upload(store, file("old"), b"x").await;
    upload(store, file("new"), b"x").await;
    store.begin_file(&file("abandoned")).await.unwrap();
    store
        .add_file_piece("abandoned", 0, Bytes::from_static(b"x"))
        .await
        .unwrap();
    backend
        .sql("UPDATE files SET expires_at = 1 WHERE id = 'old'")
        .await;
    backend
        .sql("UPDATE files SET touched_at = 1 WHERE id = 'abandoned'")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    assert!(store.file("old").await.unwrap().is_none());
    assert!(store.file("new").await.unwrap().is_some());
    assert!(store.file_piece("abandoned", 0).await.unwrap().is_empty());
    let late = store.complete_file("abandoned", 1, None, &LIMITS).await;
    assert!(late.is_err());
}

fn new_batch(id: &str) -> NewBatch {
    NewBatch {
        id: id.into(),
        caller: Some("team".into()),
        endpoint: "/v1/chat/completions".to_owned(),
        input_file: "input".into(),
        result_files: [format!("{id}-out").into(), format!("{id}-err").into()],
        metadata: Some("{\"a\":\"b\"}".to_owned()),
        window: DAY,
        keep_results: DAY,
        request: "{}".to_owned(),
    }
}

async fn claim(store: &dyn Store, pool: &str, room: usize) -> Vec<ClaimedJob> {
    store
        .claim_jobs(NODE, &[(pool.into(), room)])
        .await
        .unwrap()
}

fn claim_of(job: &ClaimedJob) -> JobClaim {
    JobClaim {
        id: Arc::clone(&job.id),
        attempt: job.attempt,
    }
}

fn part(calls: u64, number: u64) -> BatchPart {
    BatchPart {
        pool: "p".into(),
        calls,
        request: format!("{{\"part\":{number}}}"),
    }
}

/// A batch in progress with parts of these numbers of calls.
async fn begun(store: &dyn Store, id: &str, parts: &[u64]) {
    store.add_batch(&new_batch(id)).await.unwrap();
    let check = claim(store, "", 9).await.remove(0);
    assert_eq!(check.kind, JobKind::BatchValidation(id.into()));
    let parts: Vec<BatchPart> = parts
        .iter()
        .zip(0..)
        .map(|(calls, number)| part(*calls, number))
        .collect();
    let by = claim_of(&check);
    assert!(
        store
            .begin_batch((NODE, &by), id, Some("m"), &parts)
            .await
            .unwrap()
    );
    done(store, &check).await;
}

/// Ends a job of a batch.
async fn done(store: &dyn Store, job: &ClaimedJob) {
    let outcome = JobOutcome::Ended {
        succeeded: true,
        response: None,
        error: None,
        keep: Duration::ZERO,
    };
    let result = JobResult {
        claim: claim_of(job),
        outcome,
    };
    assert_eq!(store.settle_jobs(NODE, &[result]).await.unwrap(), [true]);
}

fn result(job: &ClaimedJob, batch: &str, line: u64, succeeded: bool) -> LineResult {
    LineResult {
        claim: claim_of(job),
        batch: batch.into(),
        line,
        succeeded,
        text: format!("{{\"line\":{line}}}"),
        usage: BatchUsage {
            input_tokens: 3,
            output_tokens: 5,
            ..BatchUsage::default()
        },
    }
}

async fn record(store: &dyn Store, id: &str) -> BatchRecord {
    store.batch(id).await.unwrap().unwrap()
}

async fn a_batch_completes_with_its_last_result(mut backend: Backend) {
    begun(backend.store(), "b", &[2, 1]).await;
    let store = backend.reopen().await;
    let begun = record(store, "b").await;
    assert_eq!((begun.status, begun.total), (BatchStatus::InProgress, 3));
    assert_eq!(
        (begun.model.as_deref(), begun.metadata.as_deref()),
        (Some("m"), Some("{\"a\":\"b\"}"))
    );
    assert!(
        store
            .list_jobs(&JobQuery {
                limit: 9,
                ..JobQuery::default()
            })
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        store.jobs(&["b.0".into()]).await.unwrap().is_empty(),
        "a part is no job of a caller"
    );

    let parts = claim(store, "p", 9).await;
    assert_eq!(parts.len(), 2);
    assert_eq!(
        (&parts[0].kind, parts[0].weight),
        (&JobKind::BatchPart("b".into()), 2)
    );
    let first = [
        result(&parts[0], "b", 1, true),
        result(&parts[0], "b", 2, false),
    ];
    let stored = store.add_results(NODE, &first).await.unwrap();
    assert_eq!(stored, [ResultStored::Stored; 2]);
    // The same once more changes nothing.
    assert_eq!(store.add_results(NODE, &first).await.unwrap(), stored);
    let middle = record(store, "b").await;
    assert_eq!((middle.completed, middle.failed), (1, 1));
    assert_eq!(middle.result_files, [None, None]);
    let states = store.line_states("b", 1..3).await.unwrap();
    assert_eq!(states, [(1, LineState::Done), (2, LineState::Done)]);
    let last = [result(&parts[1], "b", 7, true)];
    store.add_results(NODE, &last).await.unwrap();
    let done = record(store, "b").await;
    assert_eq!(done.status, BatchStatus::Completed);
}

async fn the_results_of_a_batch_are_files(backend: Backend) {
    let store = backend.store();
    upload(store, file("input"), b"x").await;
    begun(store, "b", &[2, 1]).await;
    assert_eq!(
        store.delete_file("input").await.unwrap(),
        FileDeletion::InUse
    );
    let parts = claim(store, "p", 9).await;
    let results = [(1, true), (2, false), (7, true)];
    let results = results.map(|(line, succeeded)| result(&parts[0], "b", line, succeeded));
    store.add_results(NODE, &results).await.unwrap();
    assert_eq!(
        store.delete_file("input").await.unwrap(),
        FileDeletion::Deleted
    );
    let done = record(store, "b").await;
    assert_eq!(
        (done.status, done.completed, done.failed),
        (BatchStatus::Completed, 2, 1)
    );
    assert_eq!((done.usage.input_tokens, done.usage.output_tokens), (9, 15));
    let files = done
        .result_files
        .clone()
        .map(|file| file.unwrap().to_string());
    assert_eq!(files, ["b-out", "b-err"]);
    let output = store.file("b-out").await.unwrap().unwrap();
    assert_eq!((&*output.purpose, output.bytes), ("batch_output", 2 * 11));
    let of = ResultsOf {
        batch: "b".into(),
        errors: false,
    };
    assert_eq!(output.results_of.as_ref(), Some(&of));
    let lines = store.results(&of, 0).await.unwrap();
    assert_eq!(
        lines,
        [
            (1, "{\"line\":1}".to_owned()),
            (7, "{\"line\":7}".to_owned())
        ]
    );
    assert!(store.results(&of, 7).await.unwrap().is_empty());
    assert_eq!(
        store.delete_file("b-out").await.unwrap(),
        FileDeletion::Deleted
    );
    assert!(store.results(&of, 0).await.unwrap().is_empty());
    let errors = ResultsOf { errors: true, ..of };
    assert_eq!(store.results(&errors, 0).await.unwrap().len(), 1);
}

async fn results_of_a_lost_claim_are_not_stored(backend: Backend) {
    let store = backend.store();
    begun(store, "b", &[2]).await;
    let first = claim(store, "p", 1).await.remove(0);
    let by = claim_of(&first);
    assert!(store.note_line_sent((NODE, &by), "b", 2).await.unwrap());
    backend
        .sql("UPDATE jobs SET claimed_until = 1 WHERE status = 'running'")
        .await;
    assert!(store.sweep_jobs(false, DAY).await.unwrap());
    let late = store
        .add_results(NODE, &[result(&first, "b", 1, true)])
        .await
        .unwrap();
    assert_eq!(late, [ResultStored::Lost]);
    assert!(!store.note_line_sent((NODE, &by), "b", 1).await.unwrap());
    let second = claim(store, "p", 1).await.remove(0);
    let states = store.line_states("b", 1..3).await.unwrap();
    assert_eq!(states, [(2, LineState::Sent)]);
    let results = [
        result(&second, "b", 1, true),
        result(&second, "b", 2, false),
    ];
    store.add_results(NODE, &results).await.unwrap();
    assert_eq!(record(store, "b").await.status, BatchStatus::Completed);
}

async fn a_cancelled_batch_keeps_what_it_has(backend: Backend) {
    let store = backend.store();
    begun(store, "b", &[2, 2]).await;
    let running = claim(store, "p", 1).await.remove(0);
    store
        .add_results(NODE, &[result(&running, "b", 1, true)])
        .await
        .unwrap();
    assert!(
        store
            .begin_ending("b", BatchEnding::Cancelled)
            .await
            .unwrap()
    );
    assert!(
        !store
            .begin_ending("b", BatchEnding::Cancelled)
            .await
            .unwrap()
    );
    assert_eq!(record(store, "b").await.status, BatchStatus::Cancelling);
    assert!(
        claim(store, "p", 9).await.is_empty(),
        "the other part is gone"
    );
    let last = store
        .add_results(NODE, &[result(&running, "b", 2, true)])
        .await
        .unwrap();
    assert_eq!(last, [ResultStored::StoredLast]);
    let end = claim(store, "", 9).await.remove(0);
    assert_eq!(end.kind, JobKind::BatchEnd("b".into()));
    assert_eq!(store.running_parts("b").await.unwrap(), 1);
    done(store, &running).await;
    assert_eq!(store.running_parts("b").await.unwrap(), 0);
    for line in [3, 4] {
        store
            .add_results(NODE, &[result(&end, "b", line, false)])
            .await
            .unwrap();
    }
    assert_eq!(
        record(store, "b").await.status,
        BatchStatus::Cancelling,
        "it is not completed"
    );
    assert!(store.end_batch((NODE, &claim_of(&end)), "b").await.unwrap());
    let ended = record(store, "b").await;
    assert_eq!(
        (ended.status, ended.completed, ended.failed),
        (BatchStatus::Cancelled, 2, 2)
    );
    assert!(ended.result_files.iter().all(Option::is_some));
}

async fn a_batch_with_mistakes_fails_and_one_out_of_time_expires(backend: Backend) {
    let store = backend.store();
    store.add_batch(&new_batch("wrong")).await.unwrap();
    let check = claim(store, "", 9).await.remove(0);
    assert!(
        store
            .fail_batch((NODE, &claim_of(&check)), "wrong", "[1]")
            .await
            .unwrap()
    );
    done(store, &check).await;
    let failed = record(store, "wrong").await;
    assert_eq!(
        (failed.status, failed.errors.as_deref()),
        (BatchStatus::Failed, Some("[1]"))
    );

    begun(store, "late", &[1]).await;
    store.add_batch(&new_batch("unchecked")).await.unwrap();
    backend.sql("UPDATE file_batches SET expires_at = 1").await;
    assert!(store.sweep_jobs(false, DAY).await.unwrap());
    assert!(claim(store, "p", 9).await.is_empty());
    for end in claim(store, "", 9).await {
        let JobKind::BatchEnd(id) = &end.kind else {
            panic!("{end:?}")
        };
        assert!(store.end_batch((NODE, &claim_of(&end)), id).await.unwrap());
    }
    for id in ["late", "unchecked"] {
        let ended = record(store, id).await;
        assert_eq!(ended.status, BatchStatus::Expired);
        assert_eq!(ended.result_files, [None, None]);
    }
    let list = store
        .list_batches(&BatchQuery {
            caller: Some("team".into()),
            after: None,
            limit: 2,
        })
        .await
        .unwrap();
    let ids: Vec<&str> = list.iter().map(|batch| &*batch.id).collect();
    assert_eq!(ids, ["unchecked", "late"]);
    let after = BatchQuery {
        caller: Some("team".into()),
        after: Some("late".into()),
        limit: 2,
    };
    assert_eq!(&*store.list_batches(&after).await.unwrap()[0].id, "wrong");

    backend
        .sql("UPDATE file_batches SET ended_at = 1, keep_results = 1")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    assert!(store.batch("wrong").await.unwrap().is_none());
}

/// A part counts as many calls as it has lines.
async fn parts_are_claimed_by_their_number_of_calls(backend: Backend) {
    let store = backend.store();
    begun(store, "b", &[100, 100, 100, 50]).await;
    assert_eq!(claim(store, "p", 1).await.len(), 1);
    assert_eq!(claim(store, "p", 150).await.len(), 2);
    assert_eq!(claim(store, "p", 150).await.len(), 1);
}

on_every_store!(
    a_file_is_stored_listed_and_deleted,
    files_count_for_what_may_be_stored,
    old_files_and_abandoned_uploads_are_deleted,
    a_batch_completes_with_its_last_result,
    the_results_of_a_batch_are_files,
    results_of_a_lost_claim_are_not_stored,
    a_cancelled_batch_keeps_what_it_has,
    a_batch_with_mistakes_fails_and_one_out_of_time_expires,
    parts_are_claimed_by_their_number_of_calls,
);
