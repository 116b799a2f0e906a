//! Waiting for room, in simulated time.

use std::sync::Arc;
use std::time::Duration;

use keypool_backends::limiter::MemoryLimiter;
use keypool_core::clock::Clock;
use keypool_core::limit::{Ask, Cost, Dimension, LimitId, Limits, OutputHold, Settlement, WINDOW};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{CallReservation, CallerLimits, NotAdmitted, Refused, WaitPolicy};
use crate::clock::PollClock;

fn limits() -> Arc<CallerLimits> {
    let clock: Arc<dyn Clock> = Arc::new(PollClock);
    let limiter = Arc::new(MemoryLimiter::new(WINDOW, clock.now()));
    CallerLimits::new(limiter, &clock)
}

fn ask(requests: u32, input: u32) -> Ask {
    Ask {
        id: LimitId(1),
        limits: Limits {
            requests: Some(requests),
            input_tokens: Some(1_000),
            ..Limits::default()
        },
        cost: Cost {
            input_tokens: input,
            output: OutputHold::NONE,
        },
    }
}

fn refused(result: Result<CallReservation, NotAdmitted>) -> Refused {
    match result {
        Err(NotAdmitted::Refused(refused)) => refused,
        Err(NotAdmitted::QueueFull) => panic!("the queue is full"),
        Ok(_) => panic!("it was admitted"),
    }
}

fn seconds(seconds: u64) -> WaitPolicy {
    WaitPolicy::up_to(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_a_moment_rather_than_being_refused() {
    let limits = limits();
    let _first = limits.reserve(&ask(1, 0), WaitPolicy::BRIEF).await.unwrap();
    let refused = refused(limits.reserve(&ask(1, 0), WaitPolicy::BRIEF).await);
    assert_eq!(refused.dimension, Dimension::Requests);
    assert_eq!(refused.retry_after, Some(WINDOW));
    sleep(WINDOW - Duration::from_millis(200)).await;
    let began = Instant::now();
    assert!(limits.reserve(&ask(1, 0), WaitPolicy::BRIEF).await.is_ok());
    assert_eq!(began.elapsed(), Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_admitted_at_the_first_moment() {
    let limits = limits();
    let began = Instant::now();
    let _first = limits.reserve(&ask(1, 0), seconds(0)).await.unwrap();
    assert!(limits.reserve(&ask(1, 0), seconds(59)).await.is_err());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "it would wait for nothing"
    );
    assert!(limits.reserve(&ask(1, 0), seconds(60)).await.is_ok());
    assert_eq!(began.elapsed(), WINDOW);
}

#[tokio::test(start_paused = true)]
async fn who_waits_longer_comes_first_however_much_it_needs() {
    let limits = limits();
    let first = limits.reserve(&ask(9, 900), seconds(0)).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting: Vec<_> = [800, 50, 100, 50]
        .into_iter()
        .map(|input| {
            let (limits, order) = (Arc::clone(&limits), Arc::clone(&order));
            async move {
                // Each comes a little later, and the small ones would fit beside the first.
                sleep(Duration::from_millis(u64::from(1000 - input))).await;
                let admitted = limits.reserve(&ask(9, input), seconds(100)).await;
                order.lock().push((input, admitted.is_ok()));
                admitted
            }
        })
        .collect();
    let leaves = async {
        sleep(Duration::from_secs(5)).await;
        let mut first: CallReservation = first;
        first.room.settle_when_dropped(Settlement::Failed);
    };
    let _ = tokio::join!(futures_util::future::join_all(waiting), leaves);
    let order = std::mem::take(&mut *order.lock());
    assert_eq!(order, [(800, true), (100, true), (50, true), (50, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_that_ends_wakes_the_next() {
    let limits = limits();
    let mut one = ask(99, 0);
    one.limits.concurrent = Some(1);
    let first = limits.reserve(&one, seconds(0)).await.unwrap();
    let refused = refused(limits.reserve(&one, WaitPolicy::BRIEF).await);
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
    let began = Instant::now();
    let next = limits.reserve(&one, seconds(10));
    let ends = async {
        sleep(Duration::from_secs(3)).await;
        drop(first);
    };
    let (next, ()) = tokio::join!(next, ends);
    assert!(next.is_ok());
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_or_leave_are_no_longer_queued() {
    let limits = limits();
    let mut one = ask(99, 0);
    one.limits.concurrent = Some(1);
    let first = limits.reserve(&one, seconds(0)).await.unwrap();
    assert!(limits.reserve(&one, seconds(2)).await.is_err());
    let leaving = tokio::time::timeout(Duration::from_secs(1), limits.reserve(&one, seconds(50)));
    assert!(leaving.await.is_err());
    assert!(limits.wait_queues.is_empty(one.id));
    drop(first);
    assert!(limits.reserve(&one, WaitPolicy::BRIEF).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_does_not_overtake_those_before_it() {
    let limits = limits();
    let _first = limits.reserve(&ask(99, 800), WaitPolicy::BRIEF).await;
    let (large, small) = (ask(99, 700), ask(99, 100));
    let before = limits.reserve(&large, seconds(100));
    let after = async {
        sleep(Duration::from_secs(1)).await;
        let refused = refused(limits.reserve(&small, seconds(5)).await);
        (refused.dimension, refused.retry_after)
    };
    let (before, after) = tokio::join!(before, after);
    assert!(before.is_ok());
    let wait = WINDOW - Duration::from_secs(6);
    assert_eq!(
        after,
        (Dimension::InputTokens, Some(wait)),
        "as the call before it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_can_never_fit_does_not_wait_in_the_queue() {
    let limits = limits();
    let _first = limits.reserve(&ask(1, 0), WaitPolicy::BRIEF).await;
    let (waits, too_large) = (ask(1, 0), ask(1, 1_001));
    let (began, waiting) = (Instant::now(), limits.reserve(&waits, seconds(100)));
    let refused = async {
        sleep(Duration::from_secs(1)).await;
        let refused = refused(limits.reserve(&too_large, seconds(100)).await);
        (refused.dimension, refused.retry_after, began.elapsed())
    };
    let (admitted, refused) = tokio::join!(waiting, refused);
    assert!(admitted.is_ok());
    assert_eq!(
        refused,
        (Dimension::InputTokens, None, Duration::from_secs(1))
    );
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let limits = limits();
    let mut one = ask(u32::MAX, 0);
    one.limits.concurrent = Some(1);
    let _first = limits.reserve(&one, seconds(0)).await.unwrap();
    let began = Instant::now();
    let waiting = (0..1_200).map(|_| async {
        let ended = limits.reserve(&one, seconds(30)).await;
        let is_full = matches!(ended, Err(NotAdmitted::QueueFull));
        (ended.is_err(), is_full, began.elapsed())
    });
    let ended = futures_util::future::join_all(waiting).await;
    assert!(ended.iter().all(|(refused, _, _)| *refused));
    let at_once = ended
        .iter()
        .filter(|(_, is_full, took)| *is_full && took.is_zero())
        .count();
    assert_eq!(at_once, 200, "a thousand may wait");
}
