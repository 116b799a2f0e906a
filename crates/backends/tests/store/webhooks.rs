//! Announcements of jobs' ends: due from the end on, claimed, settled.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{
    Cancelled, ClaimedWebhook, JobStatus, NewJob, Store, Webhook, WebhookOutcome, WebhookResult,
    WebhookState,
};

use crate::backend::{Backend, on_every_store};
use crate::jobs::{DAY, NODE, add, claim, claim_of, job, record, retry, settle, succeeded};

/// A job whose end is announced to this host.
fn with_webhook(id: &str, host: &str) -> NewJob {
    let webhook = Webhook {
        url: format!("https://{host}/hook?of={id}"),
        host: host.into(),
    };
    NewJob {
        webhook: Some(webhook),
        ..job(id, "team")
    }
}

async fn hosts(store: &dyn Store) -> Vec<Arc<str>> {
    store.due_webhook_hosts().await.unwrap()
}

async fn claim_for(store: &dyn Store, host: &str, n: usize) -> Vec<ClaimedWebhook> {
    store.claim_webhooks(&[(host.into(), n)]).await.unwrap()
}

fn of(claimed: &[ClaimedWebhook]) -> Vec<&str> {
    claimed.iter().map(|one| &*one.job).collect()
}

async fn settle_webhook(
    store: &dyn Store,
    claimed: &ClaimedWebhook,
    outcome: WebhookOutcome,
) -> bool {
    let result = WebhookResult {
        job: Arc::clone(&claimed.job),
        attempt: claimed.attempt,
        outcome,
    };
    let settled = store.settle_webhooks(&[result]).await.unwrap();
    assert_eq!(settled.len(), 1);
    settled[0]
}

fn again(after: Duration) -> WebhookOutcome {
    let error = "status 500".to_owned();
    WebhookOutcome::Retry { after, error }
}

/// Jobs with an announcement that have ended.
async fn ended(store: &dyn Store, jobs: &[NewJob]) {
    add(store, jobs).await;
    for one in claim(store, jobs.len()).await {
        assert!(one.has_webhook);
        assert!(settle(store, succeeded(&one, "x")).await);
    }
}

async fn every_end_of_a_job_makes_its_announcement_due(backend: Backend) {
    let store = backend.store();
    let once = NewJob {
        is_repeatable: false,
        ..with_webhook("unknown", "h")
    };
    let late = NewJob {
        deadline: Duration::ZERO,
        ..with_webhook("late", "h")
    };
    add(
        store,
        &[
            with_webhook("retried", "h"),
            once,
            with_webhook("cancelled", "h"),
            job("without", "team"),
        ],
    )
    .await;
    let claimed = claim(store, 2).await;
    assert!(store.note_sent(NODE, &claim_of(&claimed[1])).await.unwrap());
    assert!(settle(store, retry(&claimed[0], Duration::ZERO)).await);
    assert!(hosts(store).await.is_empty(), "no job has ended");
    let pending = record(store, "retried").await.webhook.unwrap();
    assert_eq!(
        (pending.state, pending.next_at),
        (WebhookState::Pending, None)
    );

    assert_eq!(
        store.cancel_job("cancelled", DAY, None).await.unwrap(),
        Cancelled::Now
    );
    assert_eq!(of(&claim_for(store, "h", 9).await), ["cancelled"]);
    add(store, &[late]).await;
    backend
        .sql("UPDATE jobs SET claimed_until = 1 WHERE status = 'running'")
        .await;
    store.sweep_jobs(false, DAY).await.unwrap();
    let mut swept = claim_for(store, "h", 9).await;
    swept.sort_by(|one, other| one.job.cmp(&other.job));
    assert_eq!(of(&swept), ["late", "unknown"]);
    assert!(swept.iter().all(|one| one.status == JobStatus::Failed));

    for one in claim(store, 9).await {
        assert_eq!(one.has_webhook, &*one.id == "retried");
        assert!(settle(store, succeeded(&one, "x")).await);
    }
    assert_eq!(of(&claim_for(store, "h", 9).await), ["retried"]);
    assert!(record(store, "without").await.webhook.is_none());
    assert!(hosts(store).await.is_empty(), "all are claimed");
}

async fn a_claimed_announcement_says_how_and_when_the_job_ended(backend: Backend) {
    let store = backend.store();
    ended(store, &[with_webhook("succeeded", "h")]).await;
    let claimed = claim_for(store, "h", 9).await;
    assert_eq!(of(&claimed), ["succeeded"]);
    let one = &claimed[0];
    assert_eq!(
        (one.attempt, one.caller.as_deref(), &*one.url, one.status),
        (
            1,
            Some("team"),
            "https://h/hook?of=succeeded",
            JobStatus::Succeeded
        )
    );
    assert_eq!(
        Some(one.ended_at),
        record(store, "succeeded").await.ended_at
    );
    assert!(one.age < Duration::from_secs(60), "{:?}", one.age);
}

async fn announcements_are_claimed_by_host_the_oldest_first(backend: Backend) {
    let store = backend.store();
    let jobs = [
        ("a1", "a"),
        ("b1", "b"),
        ("a2", "a"),
        ("c1", "c"),
        ("a3", "a"),
    ];
    ended(store, &jobs.map(|(id, host)| with_webhook(id, host))).await;
    backend
        .sql("UPDATE jobs SET webhook_at = 2 WHERE id = 'a1'")
        .await;
    backend
        .sql("UPDATE jobs SET webhook_at = 1 WHERE id = 'a3'")
        .await;
    let mut due = hosts(store).await;
    due.sort();
    assert_eq!(due, ["a", "b", "c"].map(Arc::from));
    let wanted = [("a".into(), 2), ("c".into(), 9), ("unknown".into(), 9)];
    let claimed = store.claim_webhooks(&wanted).await.unwrap();
    let mut claimed = of(&claimed);
    claimed.sort_unstable();
    assert_eq!(claimed, ["a1", "a3", "c1"]);
    assert_eq!(of(&claim_for(store, "a", 9).await), ["a2"]);
    assert_eq!(hosts(store).await, ["b"].map(Arc::from));
}

async fn a_claim_of_an_announcement_that_ran_out_changes_nothing(mut backend: Backend) {
    ended(backend.store(), &[with_webhook("j", "h")]).await;
    let first = claim_for(backend.store(), "h", 1).await.remove(0);
    assert!(hosts(backend.store()).await.is_empty(), "it has time left");
    let store = backend.reopen().await;
    assert!(hosts(store).await.is_empty(), "it has time left");
    backend.sql("UPDATE jobs SET webhook_at = 1").await;
    let store = backend.store();
    let second = claim_for(store, "h", 1).await.remove(0);
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert!(!settle_webhook(store, &first, again(Duration::ZERO)).await);
    assert!(settle_webhook(store, &second, WebhookOutcome::Delivered).await);
    assert!(!settle_webhook(store, &second, again(Duration::ZERO)).await);
    let webhook = record(store, "j").await.webhook.unwrap();
    assert_eq!(
        (webhook.state, webhook.attempts),
        (WebhookState::Delivered, 2)
    );
    assert_eq!((webhook.next_at, webhook.error), (None, None));
    assert!(hosts(store).await.is_empty());
}

async fn a_failed_announcement_is_due_again_or_given_up(backend: Backend) {
    let store = backend.store();
    ended(store, &[with_webhook("j", "h")]).await;
    let claimed = claim_for(store, "h", 1).await.remove(0);
    assert!(settle_webhook(store, &claimed, again(DAY)).await);
    assert!(hosts(store).await.is_empty(), "not before a day has passed");
    let webhook = record(store, "j").await.webhook.unwrap();
    assert_eq!(webhook.state, WebhookState::Pending);
    assert_eq!(webhook.error.as_deref(), Some("status 500"));
    let wait = webhook.next_at.unwrap().duration_since(claimed.ended_at);
    assert!(wait.unwrap() >= DAY);

    backend.sql("UPDATE jobs SET webhook_at = 1").await;
    let claimed = claim_for(store, "h", 1).await.remove(0);
    let error = "status 410".to_owned();
    assert!(settle_webhook(store, &claimed, WebhookOutcome::GivenUp { error }).await);
    let webhook = record(store, "j").await.webhook.unwrap();
    assert_eq!(
        (webhook.state, webhook.next_at),
        (WebhookState::GivenUp, None)
    );
    assert_eq!(
        (webhook.error.as_deref(), webhook.attempts),
        (Some("status 410"), 2)
    );
    assert!(hosts(store).await.is_empty());
}

on_every_store!(
    every_end_of_a_job_makes_its_announcement_due,
    a_claimed_announcement_says_how_and_when_the_job_ended,
    announcements_are_claimed_by_host_the_oldest_first,
    a_claim_of_an_announcement_that_ran_out_changes_nothing,
    a_failed_announcement_is_due_again_or_given_up,
);
