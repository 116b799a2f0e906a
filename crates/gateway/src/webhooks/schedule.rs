//! Which announcements this node delivers, and when.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::store::{ClaimedWebhook, StoreError, WebhookOutcome, WebhookResult};
use tokio::time::{sleep, timeout};

use super::deliver::{Failed, deliver};
use crate::context::Gateway;
use crate::stored::Access;

/// Time between two looks for what is due by time alone, or by what another node has done.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest time between two looks. What becomes due meanwhile is claimed together.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a delivery looks whether the gateway shuts down.
const LOOK_FOR_ABORT: Duration = Duration::from_millis(200);
/// How long the end of a job is announced.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Delivers announcements as long as the gateway serves.
pub(crate) async fn deliver_regularly(gw: &Arc<Gateway>) -> Infallible {
    if gw.stored.store().is_err() {
        return std::future::pending().await;
    }
    loop {
        // Errors are noted; the next look is soon.
        let _ = begin_due(gw).await;
        sleep(PAUSE).await;
        let _ = timeout(LOOK, gw.jobs.webhooks.wake.notified()).await;
    }
}

/// Claims announcements that are due and for which there is room, and begins to deliver them.
async fn begin_due(gw: &Arc<Gateway>) -> Result<(), StoreError> {
    if gw.is_shutting_down() || !gw.jobs.webhooks.has_room() {
        return Ok(());
    }
    let store = gw.stored.store()?;
    let mut due = gw.note_store(Access::Read, store.due_webhook_hosts().await)?;
    // Hosts with many announcements do not come before others each time.
    fastrand::shuffle(&mut due);
    let wanted = gw.jobs.webhooks.room(due);
    if wanted.is_empty() {
        return Ok(());
    }
    let claimed = gw.note_store(Access::Write, store.claim_webhooks(&wanted).await)?;
    for webhook in claimed {
        let in_flight = gw.jobs.webhooks.begin(&webhook.host);
        let gw_of_task = Arc::clone(gw);
        gw.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = deliver_and_settle(&gw_of_task, &webhook) => {}
                // The claim runs out, and it is delivered later.
                () = until_abort(&gw_of_task) => {}
            }
            drop(in_flight);
            // There is room for another one.
            gw_of_task.jobs.webhooks.wake.notify_one();
        });
    }
    Ok(())
}

async fn until_abort(gw: &Gateway) {
    while !gw.is_aborting() {
        sleep(LOOK_FOR_ABORT).await;
    }
}

async fn deliver_and_settle(gw: &Arc<Gateway>, webhook: &ClaimedWebhook) {
    let outcome = match deliver(gw, webhook).await {
        Ok(()) => WebhookOutcome::Delivered,
        Err(failed) => after_failure(webhook, failed),
    };
    let result = WebhookResult {
        job: Arc::clone(&webhook.job),
        attempt: webhook.attempt,
        outcome: outcome.clone(),
    };
    // If the store fails, the claim runs out, and it is delivered again.
    if let Ok(true) = gw.settle_webhook(result).await {
        gw.telemetry.webhook_attempted(webhook, &outcome);
    }
}

fn after_failure(webhook: &ClaimedWebhook, failed: Failed) -> WebhookOutcome {
    let Failed { error, is_final } = failed;
    let after = backoff(webhook.attempt);
    match is_final || webhook.age + after > GIVE_UP_AFTER {
        true => WebhookOutcome::GivenUp { error },
        false => WebhookOutcome::Retry { after, error },
    }
}

/// How long the next attempt waits after this number of attempts: longer each time, and never the same for all.
fn backoff(attempts: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(3600);
    let doubled = FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    let spread = doubled.mul_f64(0.8 + fastrand::f64() * 0.4);
    spread.min(LONGEST.mul_f64(1.0 - fastrand::f64() * 0.2))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use keypool_core::store::JobStatus;

    use super::*;

    #[test]
    fn a_day_after_the_end_of_the_job_it_is_given_up() {
        let hour = Duration::from_secs(3600);
        for (age, attempt, is_final, is_given_up) in [
            (Duration::ZERO, 1, false, false),
            (Duration::ZERO, 1, true, true),
            (22 * hour, 30, false, false),
            (24 * hour - Duration::from_secs(60), 30, false, true),
            (24 * hour - Duration::from_secs(60), 2, false, false),
            (25 * hour, 1, false, true),
        ] {
            let webhook = ClaimedWebhook {
                job: "job_1".into(),
                attempt,
                caller: None,
                url: String::new(),
                host: "h".into(),
                status: JobStatus::Failed,
                ended_at: SystemTime::UNIX_EPOCH,
                age,
            };
            let error = "status 500".to_owned();
            let outcome = after_failure(&webhook, Failed { error, is_final });
            let given_up = matches!(outcome, WebhookOutcome::GivenUp { .. });
            assert_eq!(given_up, is_given_up, "{age:?} {attempt}: {outcome:?}");
        }
    }

    #[test]
    fn pauses_grow_from_five_seconds_to_an_hour() {
        for (attempts, seconds) in [(0, 5), (1, 5), (2, 10), (3, 20), (10, 2560)] {
            let expected = Duration::from_secs(seconds);
            for _ in 0..50 {
                let pause = backoff(attempts);
                assert!(pause >= expected.mul_f64(0.79), "{attempts}: {pause:?}");
                assert!(pause <= expected.mul_f64(1.21), "{attempts}: {pause:?}");
            }
        }
        for attempts in [11, 12, 40, u32::MAX] {
            let pause = backoff(attempts).as_secs();
            assert!((2800..=3600).contains(&pause), "{attempts}: {pause}");
        }
    }
}
