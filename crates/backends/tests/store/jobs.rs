//! Jobs: accepted, claimed, settled, swept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keypool_core::secret::Digest256;
use keypool_core::store::{
    Cancelled, ClaimedJob, Idempotency, JobClaim, JobError, JobLimit, JobLimits, JobOutcome,
    JobPriority, JobQuery, JobRecord, JobResponse, JobResult, JobStatus, NewJob, Store, Submitted,
};

use crate::backend::{Backend, on_every_store};

pub(crate) const NODE: u64 = u64::MAX - 7;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
const ROOMY: JobLimits = JobLimits {
    max_queued: 1_000_000,
    max_queued_per_caller: 1_000_000,
    max_stored: 1 << 40,
    max_stored_per_caller: 1 << 40,
};

pub(crate) fn job(id: &str, caller: &str) -> NewJob {
    NewJob {
        id: id.into(),
        caller: Some(caller.into()).filter(|_| !caller.is_empty()),
        pool: "p".into(),
        priority: JobPriority::High,
        request: format!("{{\"of\":\"{id}\"}}"),
        body: Bytes::from(format!("body of {id}")),
        is_repeatable: true,
        deadline: DAY,
        idempotency: None,
        webhook: None,
    }
}

pub(crate) async fn add(store: &dyn Store, jobs: &[NewJob]) {
    let added = store.add_jobs(jobs, &ROOMY).await.unwrap();
    assert!(
        added.iter().all(|one| *one == Submitted::Accepted),
        "{added:?}"
    );
}

pub(crate) async fn claim(store: &dyn Store, n: usize) -> Vec<ClaimedJob> {
    store.claim_jobs(NODE, &[("p".into(), n)]).await.unwrap()
}

fn ids(jobs: &[ClaimedJob]) -> Vec<&str> {
    jobs.iter().map(|job| &*job.id).collect()
}

pub(crate) fn claim_of(job: &ClaimedJob) -> JobClaim {
    JobClaim {
        id: Arc::clone(&job.id),
        attempt: job.attempt,
    }
}

pub(crate) fn succeeded(job: &ClaimedJob, body: &str) -> JobResult {
    JobResult {
        claim: claim_of(job),
        outcome: JobOutcome::Ended {
            succeeded: true,
            response: Some(JobResponse {
                head: "{\"status\":200}".to_owned(),
                rest: Bytes::from(body.to_owned()),
                pieces: 0,
                bytes: body.len() as u64,
            }),
            error: None,
            keep: DAY,
        },
    }
}

pub(crate) fn retry(job: &ClaimedJob, after: Duration) -> JobResult {
    let error = JobError {
        code: "no_key_available".to_owned(),
        message: "all keys cool down".to_owned(),
    };
    JobResult {
        claim: claim_of(job),
        outcome: JobOutcome::Retry { after, error },
    }
}

pub(crate) async fn settle(store: &dyn Store, result: JobResult) -> bool {
    let settled = store.settle_jobs(NODE, &[result]).await.unwrap();
    assert_eq!(settled.len(), 1);
    settled[0]
}

pub(crate) async fn record(store: &dyn Store, id: &str) -> JobRecord {
    let mut found = store.jobs(&[id.into()]).await.unwrap();
    assert_eq!(found.len(), 1, "{id}");
    found.remove(0)
}

async fn response(store: &dyn Store, id: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for number in 0.. {
        let piece = store.response_piece(id, number).await.unwrap();
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
    }
    all
}

async fn a_job_is_stored_claimed_and_settled(mut backend: Backend) {
    add(backend.store(), &[job("j", "team"), job("nobodys", "")]).await;
    let store = backend.reopen().await;
    let queued = record(store, "j").await;
    assert_eq!(queued.status, JobStatus::Queued);
    assert_eq!((queued.attempts, queued.position), (0, Some(1)));
    assert_eq!(queued.caller.as_deref(), Some("team"));
    assert_eq!(record(store, "nobodys").await.caller, None);
    let wait = queued
        .deadline_at
        .duration_since(queued.created_at)
        .unwrap();
    assert_eq!(wait, DAY);

    assert_eq!(store.due_pools().await.unwrap(), [Arc::from("p")]);
    let claimed = claim(store, 1).await;
    assert_eq!(ids(&claimed), ["j"]);
    let claimed = &claimed[0];
    assert_eq!(claimed.body.as_deref(), Some(&b"body of j"[..]));
    assert_eq!((&*claimed.request, claimed.attempt), ("{\"of\":\"j\"}", 1));
    let running = record(store, "j").await;
    assert_eq!((running.status, running.attempts), (JobStatus::Running, 1));
    assert!(running.started_at.is_some() && running.position.is_none());

    assert!(settle(store, succeeded(claimed, "the answer")).await);
    let ended = record(backend.reopen().await, "j").await;
    assert_eq!(ended.status, JobStatus::Succeeded);
    assert_eq!(ended.response.as_deref(), Some("{\"status\":200}"));
    assert_eq!(ended.response_bytes, 10);
    let kept = ended
        .expires_at
        .unwrap()
        .duration_since(ended.ended_at.unwrap());
    assert_eq!(kept.unwrap(), DAY);
    let store = backend.store();
    assert_eq!(response(store, "j").await, b"the answer");
    assert_eq!(store.request_piece("j", 0).await.unwrap(), "", "forgotten");
    assert!(store.jobs(&["other".into()]).await.unwrap().is_empty());
}

async fn callers_take_turns(backend: Backend) {
    let store = backend.store();
    let many: Vec<NewJob> = (0..20)
        .map(|n| job(&format!("many-{n:02}"), "many"))
        .collect();
    add(store, &many).await;
    assert_eq!(ids(&claim(store, 2).await), ["many-00", "many-01"]);
    let low = NewJob {
        priority: JobPriority::Low,
        ..job("low", "patient")
    };
    add(store, &[job("one", "one"), low, job("two", "two")]).await;
    let next = claim(store, 3).await;
    let next: HashSet<&str> = ids(&next).into_iter().collect();
    assert_eq!(next, HashSet::from(["many-02", "one", "two"]));
    let rest = claim(store, 30).await;
    let at = ids(&rest).iter().position(|id| *id == "low").unwrap();
    assert_eq!((at, rest.len()), (9, 18), "{:?}", ids(&rest));
    // A caller that comes later does not catch up on turns that it did not take.
    add(store, &[job("late-1", "late"), job("late-2", "late")]).await;
    add(store, &[job("many-20", "many")]).await;
    let last = claim(store, 2).await;
    assert!(ids(&last).contains(&"many-20"), "{:?}", ids(&last));
}

async fn a_limit_refuses_only_what_exceeds_it(backend: Backend) {
    let store = backend.store();
    let limits = JobLimits {
        max_queued: 3,
        max_queued_per_caller: 2,
        max_stored: 30,
        max_stored_per_caller: 1_000,
    };
    let jobs = [
        job("a1", "a"),
        job("a2", "a"),
        job("a3", "a"),
        job("b1", "b"),
        job("c1", "c"),
    ];
    let outcomes = store.add_jobs(&jobs, &limits).await.unwrap();
    let refused = Submitted::Refused;
    let expected = [
        Submitted::Accepted,
        Submitted::Accepted,
        refused(JobLimit::QueuedPerCaller),
        Submitted::Accepted,
        refused(JobLimit::Queued),
    ];
    assert_eq!(outcomes, expected);
    assert!(
        store
            .jobs(&["a3".into(), "c1".into()])
            .await
            .unwrap()
            .is_empty()
    );

    let claimed = claim(store, 3).await;
    for one in &claimed {
        assert!(settle(store, succeeded(one, "12345678")).await);
    }
    // 24 bytes of responses are stored, and no requests.
    let again = store.add_jobs(&[job("a4", "a")], &limits).await.unwrap();
    assert_eq!(again, [refused(JobLimit::Stored)]);
    let limits = JobLimits {
        max_stored: 1_000,
        max_stored_per_caller: 20,
        ..limits
    };
    let again = store
        .add_jobs(&[job("a4", "a"), job("b2", "b")], &limits)
        .await
        .unwrap();
    assert_eq!(
        again,
        [refused(JobLimit::StoredPerCaller), Submitted::Accepted]
    );
    assert_eq!(
        store.cancel_job("b2", DAY, None).await.unwrap(),
        Cancelled::Now
    );
    let last = store
        .add_jobs(&[job("b3", "b"), job("b4", "b")], &limits)
        .await
        .unwrap();
    assert_eq!(
        last[0],
        Submitted::Accepted,
        "a cancelled job takes no room"
    );
}

async fn a_repeated_submission_is_the_same_job(mut backend: Backend) {
    let with_key = |id: &str, scope: &str, content: &str| NewJob {
        idempotency: Some(Idempotency {
            scope: Digest256::of(scope.as_bytes()),
            content: Digest256::of(content.as_bytes()),
        }),
        ..job(id, "team")
    };
    let jobs = [
        with_key("a", "k", "x"),
        with_key("b", "k", "x"),
        with_key("c", "other", "x"),
    ];
    let outcomes = backend.store().add_jobs(&jobs, &ROOMY).await.unwrap();
    let repeated = Submitted::Repeated("a".into());
    assert_eq!(
        outcomes,
        [Submitted::Accepted, repeated.clone(), Submitted::Accepted]
    );
    let store = backend.reopen().await;
    let jobs = [with_key("d", "k", "x"), with_key("e", "k", "y")];
    let outcomes = store.add_jobs(&jobs, &ROOMY).await.unwrap();
    assert_eq!(outcomes, [repeated, Submitted::ContentDiffers]);
    assert_eq!(ids(&claim(store, 9).await), ["a", "c"]);
}

async fn a_claim_that_ran_out_changes_nothing_any_more(backend: Backend) {
    let store = backend.store();
    add(store, &[job("j", "team")]).await;
    let first = claim(store, 1).await.remove(0);
    assert!(
        !store.sweep_jobs(false, DAY).await.unwrap(),
        "it has time left"
    );
    let held = store.renew_claims(NODE).await.unwrap();
    assert_eq!(held, [claim_of(&first)]);
    assert!(store.renew_claims(NODE - 1).await.unwrap().is_empty());

    backend.sql("UPDATE jobs SET claimed_until = 1").await;
    assert!(store.sweep_jobs(false, DAY).await.unwrap());
    assert!(store.renew_claims(NODE).await.unwrap().is_empty());
    let piece = Bytes::from_static(b"late");
    assert!(
        !store
            .add_response_piece(&claim_of(&first), 0, piece)
            .await
            .unwrap()
    );
    let second = claim(store, 1).await.remove(0);
    assert_eq!(second.attempt, 2);
    assert!(!settle(store, succeeded(&first, "of the first")).await);
    assert!(!store.note_sent(NODE, &claim_of(&first)).await.unwrap());
    let of_another = [succeeded(&second, "of another")];
    let settled = store.settle_jobs(NODE - 1, &of_another).await;
    assert_eq!(settled.unwrap(), [false]);
    assert!(settle(store, succeeded(&second, "of the second")).await);
    assert!(!settle(store, succeeded(&second, "twice")).await);
    assert_eq!(response(store, "j").await, b"of the second");
}

async fn a_call_that_must_not_be_repeated_ends_as_unknown_once_it_was_sent(backend: Backend) {
    let store = backend.store();
    let once = |id: &str| NewJob {
        is_repeatable: false,
        ..job(id, "team")
    };
    add(
        store,
        &[once("sent"), once("not-sent"), job("repeatable", "team")],
    )
    .await;
    for one in claim(store, 3).await {
        if &*one.id != "not-sent" {
            assert!(store.note_sent(NODE, &claim_of(&one)).await.unwrap());
        }
    }
    // At the start of the only process.
    assert!(store.sweep_jobs(true, DAY).await.unwrap());
    let sent = record(store, "sent").await;
    assert_eq!(
        (sent.status, sent.error.unwrap().code),
        (JobStatus::Failed, "outcome_unknown".to_owned())
    );
    assert_eq!(ids(&claim(store, 9).await), ["not-sent", "repeatable"]);
}

async fn a_job_is_tried_again_when_it_is_due_and_fails_at_its_deadline(backend: Backend) {
    let store = backend.store();
    let hasty = NewJob {
        deadline: Duration::from_millis(1),
        ..job("hasty", "team")
    };
    add(store, &[job("first", "team"), job("second", "team")]).await;
    let first = claim(store, 1).await.remove(0);
    assert!(settle(store, retry(&first, Duration::from_secs(3600))).await);
    let waiting = record(store, "first").await;
    assert_eq!((waiting.status, waiting.attempts), (JobStatus::Queued, 1));
    assert_eq!(waiting.error.unwrap().code, "no_key_available");
    let second = claim(store, 9).await;
    assert_eq!(ids(&second), ["second"], "the first is not due");
    backend
        .sql("UPDATE jobs SET retry_at = 1 WHERE id = 'first'")
        .await;
    assert!(store.sweep_jobs(false, DAY).await.unwrap());
    let again = claim(store, 9).await;
    assert_eq!((ids(&again), again[0].attempt), (vec!["first"], 2));
    let released = JobResult {
        claim: claim_of(&again[0]),
        outcome: JobOutcome::Released,
    };
    assert!(settle(store, released).await);
    let record_of = record(store, "first").await;
    assert_eq!(
        (record_of.status, record_of.attempts),
        (JobStatus::Queued, 1)
    );

    add(store, &[hasty]).await;
    backend
        .sql("UPDATE jobs SET deadline_at = 1 WHERE status = 'queued'")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    let codes = [("first", "no_key_available"), ("hasty", "queue_timeout")];
    for (id, code) in codes {
        let failed = record(store, id).await;
        assert_eq!(
            (failed.status, failed.error.unwrap().code),
            (JobStatus::Failed, code.to_owned())
        );
    }
    assert!(settle(store, succeeded(&second[0], "in time")).await);
}

async fn a_cancelled_job_stays_cancelled(backend: Backend) {
    let store = backend.store();
    add(store, &[job("queued", "team"), job("running", "team")]).await;
    let claimed = claim(store, 1).await.remove(0);
    assert_eq!(&*claimed.id, "queued");
    for id in ["queued", "running"] {
        assert_eq!(
            store.cancel_job(id, DAY, None).await.unwrap(),
            Cancelled::Now
        );
        assert_eq!(
            store.cancel_job(id, DAY, None).await.unwrap(),
            Cancelled::HadEnded
        );
        assert_eq!(record(store, id).await.status, JobStatus::Cancelled);
    }
    assert_eq!(
        store.cancel_job("other", DAY, None).await.unwrap(),
        Cancelled::Missing
    );
    assert!(!settle(store, succeeded(&claimed, "late")).await);
    assert!(store.renew_claims(NODE).await.unwrap().is_empty());
    assert!(claim(store, 9).await.is_empty());
}

async fn large_bodies_are_stored_in_pieces(backend: Backend) {
    let store = backend.store();
    let body: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    let large = NewJob {
        body: body.clone().into(),
        ..job("large", "team")
    };
    add(store, &[large]).await;
    let claimed = claim(store, 1).await.remove(0);
    assert_eq!((claimed.body_bytes, claimed.body.as_ref()), (700_000, None));
    let mut read = Vec::new();
    for number in 0.. {
        let piece = store.request_piece("large", number).await.unwrap();
        if piece.is_empty() {
            break;
        }
        read.extend_from_slice(&piece);
    }
    assert!(read == body);
    let claim_of_it = claim_of(&claimed);
    // A piece whose storing was not acknowledged may be stored again.
    for piece in [0, 1, 1] {
        let data = Bytes::copy_from_slice(&body[piece * 300_000..][..300_000]);
        let number = u32::try_from(piece).unwrap();
        assert!(
            store
                .add_response_piece(&claim_of_it, number, data)
                .await
                .unwrap()
        );
    }
    let mut result = succeeded(&claimed, "");
    if let JobOutcome::Ended {
        response: Some(response),
        ..
    } = &mut result.outcome
    {
        response.pieces = 2;
        response.rest = Bytes::copy_from_slice(&body[600_000..]);
        response.bytes = 700_000;
    }
    assert!(settle(store, result).await);
    assert!(response(store, "large").await == body);
}

async fn a_pool_is_due_again_after_everything_else_was_deleted(backend: Backend) {
    let store = backend.store();
    let of = |id: &str, pool: &str| NewJob {
        pool: pool.into(),
        ..job(id, "team")
    };
    add(store, &[of("a", "p"), of("b", "p"), of("c", "q")]).await;
    let claimed = claim(store, 2).await;
    assert_eq!(store.due_pools().await.unwrap(), [Arc::from("q")]);
    assert!(settle(store, succeeded(&claimed[0], "x")).await);
    backend
        .sql("UPDATE jobs SET expires_at = 1 WHERE expires_at IS NOT NULL")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    backend
        .sql("UPDATE jobs SET claimed_until = 1 WHERE status = 'running'")
        .await;
    assert!(store.sweep_jobs(false, DAY).await.unwrap());
    let due = store.due_pools().await.unwrap();
    assert_eq!(due, [Arc::from("p"), Arc::from("q")]);
}

async fn jobs_are_listed_by_caller_newest_first(backend: Backend) {
    let store = backend.store();
    add(store, &[job("a1", "a"), job("b1", "b"), job("a2", "a")]).await;
    add(store, &[job("a3", "a"), job("n1", "")]).await;
    store.cancel_job("a2", DAY, None).await.unwrap();
    let list = async |query: JobQuery| {
        let listed = store.list_jobs(&query).await.unwrap();
        listed
            .iter()
            .map(|job| job.id.to_string())
            .collect::<Vec<_>>()
    };
    let of = |caller: &str| JobQuery {
        caller: Some(Some(caller.into()).filter(|_| !caller.is_empty())),
        limit: 9,
        ..JobQuery::default()
    };
    assert_eq!(list(of("a")).await, ["a3", "a2", "a1"]);
    assert_eq!(list(of("")).await, ["n1"]);
    assert_eq!(
        list(JobQuery {
            limit: 2,
            ..of("a")
        })
        .await,
        ["a3", "a2"]
    );
    let after = |id: &str| Some(Arc::from(id));
    assert_eq!(
        list(JobQuery {
            after: after("a2"),
            ..of("a")
        })
        .await,
        ["a1"]
    );
    let queued = Some(JobStatus::Queued);
    assert_eq!(
        list(JobQuery {
            status: queued,
            ..of("a")
        })
        .await,
        ["a3", "a1"]
    );
    let all = JobQuery {
        limit: 9,
        ..JobQuery::default()
    };
    assert_eq!(list(all).await, ["n1", "a3", "a2", "b1", "a1"]);
}

async fn changes_are_read_once_and_in_order(backend: Backend) {
    let store = backend.store();
    let (start, none) = store.changed_jobs(None).await.unwrap();
    assert!(none.is_empty());
    add(store, &[job("a", "team"), job("b", "team")]).await;
    let claimed = claim(store, 1).await.remove(0);
    let (middle, changes) = store.changed_jobs(Some(start)).await.unwrap();
    let shown = |changes: &[keypool_core::store::ChangedJob]| {
        let shown = changes
            .iter()
            .map(|change| format!("{} {}", change.id, change.status.as_str()));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(shown(&changes), ["b queued", "a running"]);
    assert!(settle(store, succeeded(&claimed, "x")).await);
    let (end, changes) = store.changed_jobs(Some(middle)).await.unwrap();
    assert_eq!(shown(&changes), ["a succeeded"]);
    assert!(store.changed_jobs(Some(end)).await.unwrap().1.is_empty());
}

async fn what_is_kept_no_longer_is_deleted(backend: Backend) {
    let store = backend.store();
    add(store, &[job("old", "team"), job("new", "team")]).await;
    for one in claim(store, 2).await {
        assert!(settle(store, succeeded(&one, "x")).await);
    }
    backend
        .sql("UPDATE jobs SET expires_at = 1 WHERE id = 'old'")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    assert!(store.jobs(&["old".into()]).await.unwrap().is_empty());
    assert!(response(store, "old").await.is_empty());
    assert_eq!(response(store, "new").await, b"x");
    assert!(
        store.due_pools().await.unwrap().is_empty(),
        "nothing is queued"
    );
}

/// A database of the version before jobs.
async fn an_older_schema_is_brought_up_to_date(mut backend: Backend) {
    backend.close();
    let tables = [
        "job_queue",
        "job_callers",
        "job_pools",
        "job_flows",
        "jobs",
        "job_bodies",
        "files",
        "file_pieces",
        "file_batches",
        "batch_results",
    ];
    backend.sql("ALTER TABLE flushes RENAME TO batches").await;
    for table in tables {
        backend.sql(&format!("DROP TABLE {table}")).await;
    }
    backend
        .sql("ALTER TABLE virtual_keys DROP COLUMN webhook_secret")
        .await;
    backend.sql("UPDATE keypool_schema SET version = 1").await;
    let store = backend.reopen().await;
    add(store, &[job("j", "team")]).await;
    assert_eq!(ids(&claim(store, 1).await), ["j"]);
}

on_every_store!(
    a_job_is_stored_claimed_and_settled,
    callers_take_turns,
    a_limit_refuses_only_what_exceeds_it,
    a_repeated_submission_is_the_same_job,
    a_claim_that_ran_out_changes_nothing_any_more,
    a_call_that_must_not_be_repeated_ends_as_unknown_once_it_was_sent,
    a_job_is_tried_again_when_it_is_due_and_fails_at_its_deadline,
    a_cancelled_job_stays_cancelled,
    large_bodies_are_stored_in_pieces,
    a_pool_is_due_again_after_everything_else_was_deleted,
    jobs_are_listed_by_caller_newest_first,
    changes_are_read_once_and_in_order,
    what_is_kept_no_longer_is_deleted,
    an_older_schema_is_brought_up_to_date,
);
